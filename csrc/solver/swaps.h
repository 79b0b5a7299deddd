// Local improvement of a choice: other candidates in one or two blocks at a time.
#pragma once

#include <cstddef>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "limit.h"

namespace dna_fast {

// Exchanges the candidates of one or two blocks for others of the same label, which changes nothing in the blocks
// behind them, as long as the loss falls and the caps hold; first the candidates that the bound likes best. With many
// blocks only pairs that are near each other are tried, so that a sweep stays short. `totals` is within the caps and
// stays so; no result is worse than before, and the same arguments give the same result unless the limit comes.
void improve_by_swaps(const Chain& chain, const PricedBound& bound, Totals& totals, Limit& limit);

// About the `count` choices of least loss, within the caps, that one such exchange makes of `totals`.
std::vector<Totals> neighbours(const Chain& chain, const PricedBound& bound, const Totals& totals, size_t count,
                               Limit& limit);

}  // namespace dna_fast
