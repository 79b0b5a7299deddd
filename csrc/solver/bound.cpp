#include "bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

void PricedBound::priced_losses(const ChainBlock& block, uint32_t row, std::vector<double>& values) const {
    const double* loss = block.loss.row(row);
    values.assign(loss, loss + block.size);
    for (size_t r = 0; r < price.size(); ++r) {
        if (price[r] == 0) continue;
        const int64_t* use = block.use[r].row(row);
        for (size_t i = 0; i < block.size; ++i) values[i] += price[r] * static_cast<double>(use[i]);
    }
    if (block.forbidden.empty()) return;
    for (size_t i = 0; i < block.size; ++i) {
        if (!block.allowed(row, i)) values[i] = infinity;
    }
}

void PricedBound::through(const Chain& chain, size_t b, uint32_t row, std::vector<double>& values) const {
    const ChainBlock& block = chain.blocks[b];
    priced_losses(block, row, values);
    const std::vector<double>& after = completion[b + 1];
    if (block.label.empty()) {
        for (double& value : values) value += after[0];
    } else {
        for (size_t i = 0; i < block.size; ++i) values[i] += after[block.label[i]];
    }
}

double PricedBound::price_of(const int64_t* use) const {
    double total = 0;
    for (size_t r = 0; r < price.size(); ++r) total += price[r] * static_cast<double>(use[r]);
    return total;
}

bool Totals::within(const std::vector<int64_t>& cap) const {
    return std::equal(use.begin(), use.end(), cap.begin(), std::less_equal<>());
}

Totals totals_of(const Chain& chain, std::vector<uint32_t> choice) {
    Totals totals;
    totals.use.assign(chain.resources(), 0);
    uint32_t row = 0;
    for (size_t b = 0; b < chain.size(); ++b) {
        const ChainBlock& block = chain.blocks[b];
        for (size_t r = 0; r < chain.resources(); ++r) totals.use[r] += block.use[r].at(row, choice[b]);
        totals.loss += block.loss.at(row, choice[b]);
        row = block.next_row(choice[b]);
    }
    totals.choice = std::move(choice);
    return totals;
}

Pricer::Pricer(const Chain& chain) : chain_(chain), loss_magnitude_(chain.loss_magnitude()) {
    for (size_t r = 0; r < chain.resources(); ++r) {
        double uses = std::abs(static_cast<double>(chain.cap[r]));
        for (const ChainBlock& block : chain.blocks) {
            const auto& use = block.use[r];
            int64_t largest = 0;
            for (size_t i = 0; i < use.rows * use.size; ++i) largest = std::max(largest, std::abs(use.data[i]));
            uses += static_cast<double>(largest);
        }
        use_magnitudes_.push_back(uses);
    }
}

double Pricer::slack(const std::vector<double>& price) const {
    double magnitude = loss_magnitude_;
    for (size_t r = 0; r < chain_.resources(); ++r) magnitude += price[r] * use_magnitudes_[r];
    // A bound takes at most (blocks + 1) (resources + 2) additions and as many products, each off by 2^-53 of a partial
    // result below `magnitude`; 2^-51 covers both, and the few additions that put its parts together.
    const double operations = static_cast<double>((chain_.size() + 4) * (chain_.resources() + 2));
    return operations * magnitude * 0x1p-51;
}

PricedBound Pricer::at(std::vector<double> price) {
    PricedBound bound;
    bound.price = std::move(price);
    bound.completion.resize(chain_.size() + 1);
    bound.completion.back().assign(1, 0.0);
    argmin_.resize(chain_.size());
    for (size_t b = chain_.size(); b-- > 0;) {
        const uint32_t rows = chain_.blocks[b].rows;
        bound.completion[b].resize(rows);
        argmin_[b].resize(rows);
        for (uint32_t row = 0; row < rows; ++row) {
            bound.through(chain_, b, row, values_);
            const auto least = std::min_element(values_.begin(), values_.end());
            bound.completion[b][row] = *least;
            argmin_[b][row] = static_cast<uint32_t>(least - values_.begin());
        }
    }
    bound.price_of_caps = bound.price_of(chain_.cap.data());
    bound.root = bound.completion[0][0] - bound.price_of_caps;
    bound.slack = slack(bound.price);
    return bound;
}

Totals Pricer::attained() const {
    std::vector<uint32_t> choice(chain_.size());
    uint32_t row = 0;
    for (size_t b = 0; b < chain_.size(); ++b) {
        choice[b] = argmin_[b][row];
        row = chain_.blocks[b].next_row(choice[b]);
    }
    return totals_of(chain_, std::move(choice));
}

PricedBound priced_bound(const Chain& chain, std::vector<double> price) { return Pricer(chain).at(std::move(price)); }

}  // namespace dna_fast
