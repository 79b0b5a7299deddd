// What a search returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dna_fast {

enum class Status {
    optimal,     // proven
    feasible,    // a limit came first; the incumbent fits and the bound says how good it is
    infeasible,  // proven
    limit        // a limit came first; nothing found
};

const char* name(Status status);

struct Candidate {
    double loss = 0;
    std::vector<int64_t> costs;    // one per cost of the problem
    std::vector<uint32_t> choice;  // one per block, the caller's indices
};

struct Stats {
    // Per block: all, those that bounds leave, those that dominance leaves of these.
    std::vector<size_t> candidates, after_bounds, after_dominance;
    uint64_t nodes = 0;     // states generated
    size_t peak_front = 0;  // most states kept at one block border
    size_t passes = 0;      // forward passes, each wider than the one before
    size_t iterations = 0;  // of the prices behind the bound
    std::string method, reason;
    bool ties_resolved = false;
    bool smallest_feasible_complete = true;
};

struct Solution {
    Status status = Status::limit;
    std::vector<Candidate> best;  // ascending (loss, choice); empty: none found
    double bound = -std::numeric_limits<double>::infinity();
    // Per budget the least upper end that makes the problem feasible, the others held; none: no value does.
    std::vector<std::pair<std::string, std::optional<int64_t>>> smallest_feasible;
    Stats stats;

    double gap() const;
};

}  // namespace dna_fast
