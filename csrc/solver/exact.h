// The search for the least losses: forward passes of growing width until the bound closes.
//
// Method `front` is one pass without bounds: it builds the complete fronts. Method `branch_and_bound` prices the
// resources first; a narrow pass finds an incumbent, and wider ones prune against it. A pass that left states out for
// its width alone still proves a bound, the least bound among them; when that is above the incumbent, nothing was lost.
#pragma once

#include <cstddef>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "forward.h"
#include "limit.h"
#include "solution.h"

namespace dna_fast {

enum class Method { front, branch_and_bound };

struct SearchTask {
    const Chain& chain;        // after presolve
    const Extremes& extremes;  // of the chain before presolve
    Method method = Method::branch_and_bound;
    size_t copies = 1;      // how many best choices are wanted
    size_t max_states = 1;  // over all borders of a pass
};

struct Found {
    double loss;
    std::vector<uint32_t> choice;  // the caller's indices
};

struct SearchResult {
    // The `copies` least losses are proven (fewer: the chain has no more choices), and `layers` cover, up to dominance,
    // every choice that attains them.
    bool proven = false;
    std::vector<Found> best;  // ascending loss, distinct choices
    double lower = 0;         // proven lower bound on the least loss; infinity: proven infeasible
    std::vector<States> layers;
    PricedBound bound;
};

SearchResult search(const SearchTask& task, Limit& limit, Stats& stats);

}  // namespace dna_fast
