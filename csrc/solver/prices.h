// The prices that make the Lagrangian bound greatest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "limit.h"

namespace dna_fast {

struct Relaxation {
    PricedBound bound;
    std::vector<uint32_t> incumbent;  // best choice within the caps met on the way (chain indices); empty: none met
    size_t iterations = 0;
};

// Cutting planes within a box that follows the best prices: with a handful of resources some dozens of evaluations
// reach the greatest bound, which is that of the linear relaxation. Stops when the bound meets the incumbent, when no
// price can raise it any further, or when the limit is reached. Always returns a valid bound.
Relaxation improve_prices(const Chain& chain, Limit& limit);

}  // namespace dna_fast
