// Lower bounds: price the resources, and the rest is a shortest path through the chain.
//
// For prices p >= 0, min over choices of (loss + sum_r p_r (use_r - cap_r)) is at most the loss of every choice within
// its caps. The best completion of a partial choice under prices depends on its label alone, so one backward sweep
// (Viterbi) gives a bound for every state of a search at the price of one addition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "chain.h"
#include "limit.h"

namespace dna_fast {

struct PricedBound {
    std::vector<double> price;                    // one per resource
    std::vector<std::vector<double>> completion;  // [border][row]: least priced loss of blocks border.. ; inf: none
    double root = 0;                              // the bound for the whole chain
    // Upper limit of the rounding error in `root`, in any bound put together from these parts, and in the
    // difference between a float64 block-order sum and its exact value. Prune only beyond it.
    double slack = 0;
    double price_of_caps = 0;

    // Priced loss of candidate i in `row` of block b, completed at best.
    double through(const Chain& chain, size_t b, uint32_t row, size_t i) const;
    // Priced sum of resources, always added in the same order: larger uses never give a smaller price.
    double price_of(const int64_t* use) const;
};

PricedBound priced_bound(const Chain& chain, std::vector<double> price);

struct Relaxation {
    PricedBound bound;
    std::vector<uint32_t> incumbent;  // best choice within the caps met on the way (chain indices); empty: none met
    size_t iterations = 0;
};

// Improves the prices by the subgradient method from all zeros, until the bound closes the gap to the incumbent, stops
// improving, or the limit is reached. Always returns a valid bound.
Relaxation improve_prices(const Chain& chain, Limit& limit);

}  // namespace dna_fast
