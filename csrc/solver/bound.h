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

namespace dna_fast {

struct PricedBound {
    std::vector<double> price;                    // one per resource
    std::vector<std::vector<double>> completion;  // [border][row]: least priced loss of blocks border.. ; inf: none
    double root = 0;                              // the bound for the whole chain
    // Upper limit of the rounding error in `root`, in any bound put together from these parts, and in the
    // difference between a float64 block-order sum and its exact value. Prune only beyond it.
    double slack = 0;
    double price_of_caps = 0;

    // Priced losses of all candidates of block b in `row`, which are written to values [size]; infinity: not allowed.
    void priced_losses(const ChainBlock& block, uint32_t row, std::vector<double>& values) const;
    // The same, completed at best.
    void through(const Chain& chain, size_t b, uint32_t row, std::vector<double>& values) const;
    // Priced sum of resources, always added in the same order: larger uses never give a smaller price.
    double price_of(const int64_t* use) const;
};

// A choice (chain indices) with its totals.
struct Totals {
    std::vector<uint32_t> choice;
    std::vector<int64_t> use;
    double loss = 0;

    bool within(const std::vector<int64_t>& cap) const;
};
Totals totals_of(const Chain& chain, std::vector<uint32_t> choice);

// Prices one chain again and again.
class Pricer {
  public:
    explicit Pricer(const Chain& chain);

    PricedBound at(std::vector<double> price);
    // A choice that attains the bound last made; its root must be finite.
    Totals attained() const;
    double loss_magnitude() const { return loss_magnitude_; }

  private:
    double slack(const std::vector<double>& price) const;

    const Chain& chain_;
    // Upper limits of |any partial sum|, from which rounding errors follow.
    double loss_magnitude_;
    std::vector<double> use_magnitudes_;         // per resource, with its cap
    std::vector<std::vector<uint32_t>> argmin_;  // [block][row] candidate that attains the completion
    std::vector<double> values_;
};

PricedBound priced_bound(const Chain& chain, std::vector<double> price);

}  // namespace dna_fast
