#include "core.h"

#include <algorithm>
#include <limits>

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

std::vector<std::vector<double>> bounds_through(const Chain& chain, const PricedBound& bound) {
    std::vector<std::vector<double>> result(chain.size());
    std::vector<double> values;
    std::vector<double> before = {-bound.price_of_caps};  // [row] least priced loss of the blocks so far
    for (size_t b = 0; b < chain.size(); ++b) {
        const ChainBlock& block = chain.blocks[b];
        std::vector<double> after(chain.rows(b + 1), infinity);
        result[b].assign(block.size, infinity);
        for (uint32_t row = 0; row < block.rows; ++row) {
            if (before[row] == infinity) continue;
            bound.priced_losses(block, row, values);
            for (size_t i = 0; i < block.size; ++i) {
                const uint32_t next = block.next_row(i);
                const double so_far = before[row] + values[i];
                after[next] = std::min(after[next], so_far);
                result[b][i] = std::min(result[b][i], so_far + bound.completion[b + 1][next]);
            }
        }
        before = std::move(after);
    }
    return result;
}

std::vector<std::vector<uint32_t>> promising_candidates(const Chain& chain, const PricedBound& bound, double most) {
    std::vector<std::vector<uint32_t>> keep(chain.size());
    const std::vector<std::vector<double>> bounds = bounds_through(chain, bound);
    for (size_t b = 0; b < chain.size(); ++b) {
        for (size_t i = 0; i < bounds[b].size(); ++i) {
            if (bounds[b][i] < infinity && bounds[b][i] <= most + bound.slack) {
                keep[b].push_back(static_cast<uint32_t>(i));
            }
        }
    }
    return keep;
}

std::vector<std::vector<uint32_t>> leading_candidates(const Chain& chain, const PricedBound& bound, size_t count) {
    std::vector<std::vector<uint32_t>> keep(chain.size());
    const std::vector<std::vector<double>> bounds = bounds_through(chain, bound);
    for (size_t b = 0; b < chain.size(); ++b) {
        std::vector<std::vector<uint32_t>> by_label(chain.rows(b + 1));
        for (uint32_t i = 0; i < chain.blocks[b].size; ++i) {
            if (bounds[b][i] < infinity) by_label[chain.blocks[b].next_row(i)].push_back(i);
        }
        for (std::vector<uint32_t>& members : by_label) {
            if (members.size() > count) {
                const auto cut = members.begin() + static_cast<std::ptrdiff_t>(count);
                std::nth_element(members.begin(), cut, members.end(), [&](uint32_t i, uint32_t j) {
                    return bounds[b][i] != bounds[b][j] ? bounds[b][i] < bounds[b][j] : i < j;
                });
                members.resize(count);
            }
            keep[b].insert(keep[b].end(), members.begin(), members.end());
        }
        std::sort(keep[b].begin(), keep[b].end());
    }
    return keep;
}

}  // namespace dna_fast
