// What would make an infeasible problem feasible: per budget, the least upper end with the others held.
#pragma once

#include <cstddef>

#include "limit.h"
#include "problem.h"
#include "solution.h"

namespace dna_fast {

// Fills solution.smallest_feasible, one entry per cost that has a budget; a budget's own lower end stays held. Entries
// that the limit or max_states cut off are left out, and stats.smallest_feasible_complete says so.
void explain_infeasible(const Problem& problem, size_t max_states, Limit& limit, Solution& solution);

}  // namespace dna_fast
