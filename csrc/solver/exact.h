// The proven least losses: one pass that keeps everything, or passes of growing width until the bound closes.
#pragma once

#include "guided.h"
#include "limit.h"
#include "solution.h"

namespace dna_fast {

enum class Method { front, branch_and_bound, beam };

// The complete fronts, merged without prices.
SearchResult merge_fronts(const SearchTask& task, Limit& limit, Stats& stats);

// Priced and pruned; gives up at max_states.
SearchResult branch_and_bound(const SearchTask& task, Limit& limit, Stats& stats);

}  // namespace dna_fast
