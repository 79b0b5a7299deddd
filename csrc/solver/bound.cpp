#include "bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The choice that attains the bound's root, and what it uses and loses.
struct Attained {
    std::vector<uint32_t> choice;
    std::vector<int64_t> use;
    double loss = 0;
};

Attained attain(const Chain& chain, const PricedBound& bound) {
    Attained result;
    result.use.assign(chain.resources(), 0);
    uint32_t row = 0;
    for (size_t b = 0; b < chain.size(); ++b) {
        const ChainBlock& block = chain.blocks[b];
        size_t best = 0;
        double least = infinity;
        for (size_t i = 0; i < block.size; ++i) {
            const double value = bound.through(chain, b, row, i);
            if (value < least) {
                least = value;
                best = i;
            }
        }
        for (size_t r = 0; r < chain.resources(); ++r) result.use[r] += block.use[r].at(row, best);
        result.loss += block.loss.at(row, best);
        result.choice.push_back(static_cast<uint32_t>(best));
        row = block.next_row(best);
    }
    return result;
}

// A resource's typical size, so that one step length suits bytes and microseconds alike.
std::vector<double> resource_scales(const Chain& chain) {
    std::vector<double> scales(chain.resources(), 0);
    for (size_t r = 0; r < chain.resources(); ++r) {
        for (const ChainBlock& block : chain.blocks) {
            const auto& use = block.use[r];
            const auto [least, largest] = std::minmax_element(use.data, use.data + use.rows * use.size);
            scales[r] += static_cast<double>(*largest) - static_cast<double>(*least);
        }
        scales[r] = std::max(scales[r], 1.0);
    }
    return scales;
}

// Upper limits of |any partial sum|, from which rounding errors follow; the same for all prices.
struct Magnitudes {
    double loss = 0;
    std::vector<double> use;  // per resource, with its cap
};

Magnitudes magnitudes(const Chain& chain) {
    Magnitudes result{chain.loss_magnitude(), {}};
    for (size_t r = 0; r < chain.resources(); ++r) {
        double uses = std::abs(static_cast<double>(chain.cap[r]));
        for (const ChainBlock& block : chain.blocks) {
            double largest = 0;
            for (size_t i = 0; i < block.use[r].rows * block.use[r].size; ++i) {
                largest = std::max(largest, std::abs(static_cast<double>(block.use[r].data[i])));
            }
            uses += largest;
        }
        result.use.push_back(uses);
    }
    return result;
}

double rounding_slack(const Chain& chain, const Magnitudes& magnitudes, const std::vector<double>& price) {
    double magnitude = magnitudes.loss;
    for (size_t r = 0; r < chain.resources(); ++r) magnitude += price[r] * magnitudes.use[r];
    // A bound takes at most (blocks + 1) (resources + 2) additions and as many products, each off by 2^-53 of a partial
    // result below `magnitude`; 2^-51 covers both, and the few additions that put its parts together.
    const double operations = static_cast<double>((chain.size() + 4) * (chain.resources() + 2));
    return operations * magnitude * 0x1p-51;
}

PricedBound bound_at(const Chain& chain, const Magnitudes& magnitudes, std::vector<double> price) {
    PricedBound bound;
    bound.price = std::move(price);
    bound.completion.resize(chain.size() + 1);
    bound.completion.back().assign(1, 0.0);
    for (size_t b = chain.size(); b-- > 0;) {
        const ChainBlock& block = chain.blocks[b];
        bound.completion[b].assign(block.rows, infinity);
        for (uint32_t row = 0; row < block.rows; ++row) {
            double& least = bound.completion[b][row];
            for (size_t i = 0; i < block.size; ++i) least = std::min(least, bound.through(chain, b, row, i));
        }
    }
    bound.price_of_caps = bound.price_of(chain.cap.data());
    bound.root = bound.completion[0][0] - bound.price_of_caps;
    bound.slack = rounding_slack(chain, magnitudes, bound.price);
    return bound;
}

}  // namespace

double PricedBound::price_of(const int64_t* use) const {
    double total = 0;
    for (size_t r = 0; r < price.size(); ++r) total += price[r] * static_cast<double>(use[r]);
    return total;
}

double PricedBound::through(const Chain& chain, size_t b, uint32_t row, size_t i) const {
    const ChainBlock& block = chain.blocks[b];
    if (!block.allowed(row, i)) return infinity;
    double total = block.loss.at(row, i) + completion[b + 1][block.next_row(i)];
    for (size_t r = 0; r < price.size(); ++r) total += price[r] * static_cast<double>(block.use[r].at(row, i));
    return total;
}

PricedBound priced_bound(const Chain& chain, std::vector<double> price) {
    return bound_at(chain, magnitudes(chain), std::move(price));
}

Relaxation improve_prices(const Chain& chain, Limit& limit) {
    constexpr size_t most_iterations = 300, patience = 8;
    const size_t resources = chain.resources();
    const Magnitudes sizes = magnitudes(chain);
    Relaxation best{bound_at(chain, sizes, std::vector<double>(resources, 0.0)), {}, 0};
    if (best.bound.root == infinity) return best;

    const std::vector<double> scales = resource_scales(chain);
    PricedBound current = best.bound;
    double incumbent = infinity, agility = 1.5;
    size_t stale = 0;
    while (best.iterations < most_iterations && agility > 1e-4 && !limit.reached_now()) {
        ++best.iterations;
        Attained attained = attain(chain, current);
        double norm = 0;
        bool within = true;
        std::vector<double> excess(resources);  // in units of the scale
        for (size_t r = 0; r < resources; ++r) {
            within = within && attained.use[r] <= chain.cap[r];
            excess[r] = (static_cast<double>(attained.use[r]) - static_cast<double>(chain.cap[r])) / scales[r];
            if (current.price[r] > 0 || excess[r] > 0) norm += excess[r] * excess[r];
        }
        if (within && attained.loss < incumbent) {
            incumbent = attained.loss;
            best.incumbent = attained.choice;
        }
        if (norm == 0 || incumbent - best.bound.root <= best.bound.slack) break;
        // Polyak's step aims at the incumbent; without one, at a tenth of the losses' size above the bound.
        const double target = incumbent < infinity ? incumbent : best.bound.root + 0.1 * sizes.loss;
        const double step = agility * std::max(target - current.root, 0.0) / norm;
        std::vector<double> price = current.price;
        for (size_t r = 0; r < resources; ++r) price[r] = std::max(0.0, price[r] + step * excess[r] / scales[r]);
        current = bound_at(chain, sizes, std::move(price));
        // Prices can overflow with losses near the end of float64; such a bound says nothing.
        if (current.root > best.bound.root && std::isfinite(current.root + current.slack)) {
            best.bound = current;
            stale = 0;
        } else if (++stale == patience) {
            agility /= 2;
            stale = 0;
            current = best.bound;
        }
    }
    return best;
}

}  // namespace dna_fast
