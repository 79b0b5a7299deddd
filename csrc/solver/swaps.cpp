#include "swaps.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

namespace dna_fast {
namespace {

class Swaps {
  public:
    Swaps(const Chain& chain, const PricedBound& bound, Totals& totals, Limit& limit)
        : chain_(chain), bound_(bound), totals_(totals), limit_(limit), resources_(chain.resources()) {
        // What a sweep may cost: about this many pairs of candidates.
        constexpr double most_pairs = 1 << 22;
        constexpr size_t most_reach = 1 << 10, least_options = 4, most_options = 64;
        reach_ = std::min({chain.size(), most_reach, size_t(most_pairs) / (16 * chain.size()) + 1});
        const double pairs_of_blocks = static_cast<double>(chain.size()) * static_cast<double>(reach_);
        const auto options = static_cast<size_t>(std::sqrt(most_pairs / pairs_of_blocks));
        count_ = std::clamp(options, least_options, most_options);
        rows_.assign(chain.size(), 0);
        for (size_t b = 0; b + 1 < chain.size(); ++b) rows_[b + 1] = chain.blocks[b].next_row(totals.choice[b]);
        options_.resize(chain.size());
        for (size_t b = 0; b < chain.size(); ++b) list_options(b);
    }

    void improve() {
        constexpr size_t most_sweeps = 50;
        for (size_t sweep = 0; sweep < most_sweeps && !limit_.reached_now(); ++sweep) {
            if (!improve_once()) return;
        }
    }

    std::vector<Totals> neighbours(size_t count) {
        for (size_t b = 0; b < chain_.size(); ++b) {
            keep_best(b, b, count);
            const size_t end = std::min(b + 1 + reach_, chain_.size());
            for (size_t other = b + 1; other < end && !limit_.reached(); ++other) keep_best(b, other, count);
        }
        std::vector<Totals> result;
        for (; !kept_.empty(); kept_.pop()) {
            std::vector<uint32_t> choice = totals_.choice;
            for (int side : {0, 1}) choice[kept_.top().blocks[side]] = kept_.top().candidates[side];
            result.push_back(totals_of(chain_, std::move(choice)));
        }
        return result;
    }

  private:
    struct Option {
        double loss;  // change of it
        uint32_t candidate;
        std::vector<int64_t> use;  // change of it
    };

    // What else block b could hold, ascending in loss; the present candidate is one of them, so that a pair can be one.
    void list_options(size_t b) {
        const ChainBlock& block = chain_.blocks[b];
        const uint32_t row = rows_[b], present = totals_.choice[b];
        bound_.priced_losses(block, row, priced_);
        std::vector<uint32_t> members;
        for (uint32_t i = 0; i < block.size; ++i) {
            if (i != present && block.next_row(i) == block.next_row(present) && block.allowed(row, i)) {
                members.push_back(i);
            }
        }
        if (members.size() > count_) {
            std::nth_element(
                members.begin(), members.begin() + static_cast<std::ptrdiff_t>(count_), members.end(),
                [&](uint32_t i, uint32_t j) { return priced_[i] != priced_[j] ? priced_[i] < priced_[j] : i < j; });
            members.resize(count_);
        }
        members.push_back(present);
        options_[b].clear();
        for (uint32_t i : members) {
            Option option{block.loss.at(row, i) - block.loss.at(row, present), i, {}};
            for (size_t r = 0; r < resources_; ++r) {
                option.use.push_back(block.use[r].at(row, i) - block.use[r].at(row, present));
            }
            options_[b].push_back(std::move(option));
        }
        std::sort(options_[b].begin(), options_[b].end(), [](const Option& a, const Option& other) {
            return a.loss != other.loss ? a.loss < other.loss : a.candidate < other.candidate;
        });
    }

    // One sweep over the blocks. False: nothing got better.
    bool improve_once() {
        bool better = false;
        for (size_t b = 0; b < chain_.size(); ++b) {
            Exchange best;
            const size_t end = std::min(b + 1 + reach_, chain_.size());
            for (size_t other = b + 1; other < end && !limit_.reached(); ++other) best_of_pair(b, other, best);
            if (chain_.size() == 1) best_of_pair(b, b, best);
            if (best.loss < 0 && apply(best)) better = true;
        }
        return better;
    }

    struct Exchange {
        double loss = 0;  // change of it
        size_t blocks[2];
        uint32_t candidates[2];

        bool operator<(const Exchange& other) const { return loss < other.loss; }
    };

    // Puts exchanges of two blocks, or of one, among the `count` best so far.
    void keep_best(size_t b, size_t other, size_t count) {
        const auto too_late = [&](double loss) { return kept_.size() == count && loss >= kept_.top().loss; };
        for (const Option& one : options_[b]) {
            if (one.candidate == totals_.choice[b]) continue;
            if (too_late(one.loss + (b == other ? 0 : options_[other].front().loss))) return;
            if (b == other) {
                if (fits(one.use, nullptr)) keep({one.loss, {b, b}, {one.candidate, one.candidate}}, count);
                continue;
            }
            for (const Option& two : options_[other]) {
                const double loss = one.loss + two.loss;
                if (too_late(loss)) break;
                if (two.candidate == totals_.choice[other] || !fits(one.use, two.use.data())) continue;
                keep({loss, {b, other}, {one.candidate, two.candidate}}, count);
            }
        }
    }

    void keep(const Exchange& exchange, size_t count) {
        if (kept_.size() == count) kept_.pop();
        kept_.push(exchange);
    }

    void best_of_pair(size_t b, size_t other, Exchange& best) const {
        const double least_other = b == other ? 0 : options_[other].front().loss;
        for (const Option& one : options_[b]) {
            if (one.loss + least_other >= best.loss) return;
            if (b == other) {
                if (fits(one.use, nullptr)) best = {one.loss, {b, b}, {one.candidate, one.candidate}};
                continue;
            }
            for (const Option& two : options_[other]) {
                const double loss = one.loss + two.loss;
                if (loss >= best.loss) break;
                if (fits(one.use, two.use.data())) best = {loss, {b, other}, {one.candidate, two.candidate}};
            }
        }
    }

    bool fits(const std::vector<int64_t>& one, const int64_t* two) const {
        for (size_t r = 0; r < resources_; ++r) {
            if (totals_.use[r] + one[r] + (two ? two[r] : 0) > chain_.cap[r]) return false;
        }
        return true;
    }

    // False: rounding ate the improvement.
    bool apply(const Exchange& exchange) {
        std::vector<uint32_t> choice = totals_.choice;
        for (int side : {0, 1}) choice[exchange.blocks[side]] = exchange.candidates[side];
        Totals changed = totals_of(chain_, std::move(choice));
        if (!(changed.loss < totals_.loss)) return false;
        totals_ = std::move(changed);
        for (int side : {0, 1}) list_options(exchange.blocks[side]);
        return true;
    }

    const Chain& chain_;
    const PricedBound& bound_;
    Totals& totals_;
    Limit& limit_;
    const size_t resources_;
    size_t reach_, count_;
    std::vector<uint32_t> rows_;  // [block]; exchanges keep labels, so they stay
    std::vector<std::vector<Option>> options_;
    std::vector<double> priced_;
    std::priority_queue<Exchange> kept_;
};

}  // namespace

void improve_by_swaps(const Chain& chain, const PricedBound& bound, Totals& totals, Limit& limit) {
    Swaps(chain, bound, totals, limit).improve();
}

std::vector<Totals> neighbours(const Chain& chain, const PricedBound& bound, const Totals& totals, size_t count,
                               Limit& limit) {
    Totals start = totals;
    return Swaps(chain, bound, start, limit).neighbours(count);
}

}  // namespace dna_fast
