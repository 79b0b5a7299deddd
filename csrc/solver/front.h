// The complete exact Pareto front over the loss and all costs, by merging fronts block by block.
//
// A choice is reported for each vector: the lexicographically smallest one that attains exactly it. Rounding can make
// equal losses of unequal prefixes, so a state that is dominated only by a rounding error, with the same costs and by a
// lexicographically larger choice, is kept: its completion may come to exactly the same vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "limit.h"
#include "problem.h"

namespace dna_fast {

struct FrontOptions {
    size_t max_points = 1'000'000;  // most points after all blocks, and after the first few
    // Beyond that size, a front that covers the complete one is taken instead of failing: for every choice it has a
    // point that loses no more and costs at most 1 + epsilon times as much, in each cost. 0: fail.
    double epsilon = 0;
};

struct Front {
    double epsilon = 0;                          // 0: complete; else as in the options
    std::vector<double> loss;                    // [F] sorted by the costs in order, then by loss
    std::vector<std::vector<int64_t>> costs;     // [cost][F]
    std::vector<std::vector<uint32_t>> choices;  // [F][B]
};

struct FrontTooLarge : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct Interrupted : std::exception {};

// Budgets of the problem are not read. Throws FrontTooLarge if more than `max_points` points are left, and Interrupted
// if the limit comes first: an incomplete front is no answer.
Front pareto_front(const Problem& problem, const FrontOptions& options, Limit& limit);

}  // namespace dna_fast
