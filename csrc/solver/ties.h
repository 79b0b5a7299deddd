// From proven losses to choices: every choice within a loss, in lexicographic order.
//
// Rounding can make equal sums of unequal prefixes, so the choices that attain a loss cannot be read off the states
// that survive dominance. Instead a backward pass asks, for each completion of blocks b, b+1, ..., which prefix sums it
// takes to at most the target: all sums up to a largest one, which ordered.h computes exactly. Completions are kept
// when undominated in (that largest prefix sum, uses), so "can this prefix be completed?" has an exact answer and the
// walk in index order never turns back. The states of the forward pass serve to leave out completions that no prefix
// reaches; the walk runs over the core, also candidates that dominance removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "forward.h"
#include "guided.h"
#include "limit.h"

namespace dna_fast {

struct TieTask {
    const Chain& chain;                 // before dominance; every choice at or below the target lies in it
    const std::vector<States>& layers;  // of a pass that covers every choice at or below the target
    const PricedBound& bound;           // of that pass
    size_t max_states = 1;              // over all borders
};

// The lexicographically first `wanted` choices whose block-order loss is exactly `target`, or, with `all_up_to`, all
// choices with a loss of at most `target` in lexicographic order. Nothing: the limit or max_states came first.
enum class Match { exactly, all_up_to };
std::optional<std::vector<Found>> first_choices(const TieTask& task, double target, Match match, size_t wanted,
                                                Limit& limit);

// Replaces the choices in `best` (ascending losses, proven) by the first ones by (loss, choice). False: as above;
// `best` is left as it was.
bool resolve_ties(const TieTask& task, std::vector<Found>& best, Limit& limit);

}  // namespace dna_fast
