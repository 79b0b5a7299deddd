// One space, many budgets: candidates that can win under none of them are removed once, then each is a search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "limit.h"
#include "problem.h"
#include "solution.h"
#include "solve.h"

namespace dna_fast {

struct BudgetEnds {
    std::optional<int64_t> lower, upper;
};

// The answers to solve() with each of `budgets` [query][cost] in place of the problem's own; the same for any number of
// `threads`, which work on different queries. Statistics count what is left after the common removal.
std::vector<Solution> solve_many(const Problem& problem, const std::vector<std::vector<BudgetEnds>>& budgets,
                                 const SolveOptions& options, size_t threads, Limit& limit);

}  // namespace dna_fast
