// The whole job: budgets to resources, search, ties, and what would make an infeasible problem feasible.
#pragma once

#include <cstddef>
#include <optional>

#include "exact.h"
#include "limit.h"
#include "problem.h"
#include "solution.h"

namespace dna_fast {

struct SolveOptions {
    std::optional<Method> method;  // none: chosen by what the problem turns out to be
    size_t top_k = 1;
    // Most states a pass keeps over all block borders together; a state takes 8 bytes a resource and 16 more, and
    // building a border holds up to four times its share for a while.
    size_t max_states = 8'000'000;
    size_t beam_width = 4096;  // most states of a beam at one border
};

// Throws nothing but std::bad_alloc; whatever stops it early is told by the status.
Solution solve(const Problem& problem, const SolveOptions& options, Limit& limit);

}  // namespace dna_fast
