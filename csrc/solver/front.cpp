#include "front.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "chain.h"
#include "near_ties.h"
#include "ordered.h"

namespace dna_fast {
namespace {

// Partial choices at one border in lexicographic order.
struct Layer {
    std::vector<int64_t> columns;  // [size, costs + 1]: costs, then the loss as an ordered.h key
    std::vector<uint32_t> parent, candidate, label;

    size_t size() const { return parent.size(); }

    void reserve(size_t states, size_t width) {
        columns.reserve(states * width);
        parent.reserve(states);
        candidate.reserve(states);
    }
};

// All costs as resources without caps; how they add up is the merger's business.
Chain chain_of_all_costs(const Problem& problem) {
    std::vector<Cost> unbounded = problem.costs();
    for (Cost& cost : unbounded) cost.lower.reset(), cost.upper.reset();
    Chain chain = make_chain(problem.with(problem.losses(), unbounded));
    for (const Cost& cost : problem.costs()) {
        chain.cap.push_back(0);
        for (size_t b = 0; b < chain.size(); ++b) chain.blocks[b].use.push_back(cost.blocks[b]);
    }
    return chain;
}

// States have 32-bit numbers, also while several generations pile up.
constexpr size_t most_points = size_t{1} << 28;

// Dominance runs when so many states have come together, or so many times those that were left the last time.
constexpr size_t least_room = 1 << 18, growth = 4;

class Merger {
  public:
    Merger(const Problem& problem, const FrontOptions& options, Limit& limit)
        : problem_(problem),
          max_points_(std::min(options.max_points, most_points)),
          epsilon_(options.epsilon),
          limit_(limit),
          costs_(problem.costs().size()) {
        const Chain all = chain_of_all_costs(problem);
        // A block-order sum of B terms is off by at most B 2^-53 of the losses' size, and two sums by twice that.
        slack_ = static_cast<double>(all.size() + 4) * all.loss_magnitude() * 0x1p-51;
        chain_ = gather(all, presolve(all));
    }

    Front run() {
        Layer start;
        start.columns.assign(costs_, 0);
        start.columns.push_back(to_key(0.0));
        start.parent = start.candidate = start.label = {0};
        layers_.push_back(std::move(start));
        for (size_t b = 0; b < chain_.size(); ++b) layers_.push_back(merge(b));
        return read();
    }

  private:
    std::vector<size_t> sum_columns() const {
        std::vector<size_t> sums;
        for (size_t c = 0; c < costs_; ++c) {
            if (problem_.costs()[c].reduce == Reduce::sum) sums.push_back(c);
        }
        return sums;
    }

    std::vector<std::vector<uint32_t>> presolve(const Chain& all) const {
        std::vector<std::vector<uint32_t>> keep(all.size());
        for (size_t b = 0; b < all.size(); ++b) {
            for (const auto& members : members_by_label(all.blocks[b], all.rows(b + 1))) {
                const CandidatePoints points = candidate_points(all.blocks[b], members);
                for (uint32_t i :
                     unreplaced({points.data.data(), members.size(), points.columns}, ties_of(points), limit_)) {
                    keep[b].push_back(members[i]);
                }
            }
            std::sort(keep[b].begin(), keep[b].end());
        }
        return keep;
    }

    // Rows whose columns are all shared are one row.
    TieColumns ties_of(const CandidatePoints& points) const {
        TieColumns ties;
        ties.slack = slack_;
        for (size_t row = 0; row < points.column_of.back().size(); ++row) {
            TieColumns::Row columns{{}, points.column_of.back()[row]};
            bool repeated = row > 0 && columns.loss == ties.rows.front().loss;
            for (size_t c : sum_columns()) {
                columns.sums.push_back(points.column_of[c][row]);
                repeated = repeated && columns.sums.back() == points.column_of[c][0];
            }
            if (!repeated) ties.rows.push_back(std::move(columns));
        }
        return ties;
    }

    Layer merge(size_t b) {
        const Layer& from = layers_.back();
        std::vector<Layer> pools(chain_.rows(b + 1));
        size_t pooled = 0, room = least_room;
        for (uint32_t s = 0; s < from.size(); ++s) {
            pooled += extend(b, from, s, pools);
            if (pooled <= room) continue;
            pooled = compact(b, pools);
            room = std::max(least_room, growth * pooled);
        }
        compact(b, pools);
        return join(pools);
    }

    size_t extend(size_t b, const Layer& from, uint32_t s, std::vector<Layer>& pools) {
        const ChainBlock& block = chain_.blocks[b];
        const int64_t* state = from.columns.data() + s * (costs_ + 1);
        const double loss = from_key(state[costs_]);
        const uint32_t row = from.label[s];
        if (limit_.reached()) throw Interrupted();
        for (uint32_t i = 0; i < block.size; ++i) {
            Layer& pool = pools[block.next_row(i)];
            for (size_t c = 0; c < costs_; ++c) {
                const int64_t cost = block.use[c].at(row, i);
                const bool sum = problem_.costs()[c].reduce == Reduce::sum;
                pool.columns.push_back(sum ? state[c] + cost : std::max(state[c], cost));
            }
            pool.columns.push_back(to_key(loss + block.loss.at(row, i)));
            pool.parent.push_back(s);
            pool.candidate.push_back(i);
        }
        return block.size;
    }

    // Dominance in every pool; their order stays lexicographic. Returns the number of states left.
    size_t compact(size_t b, std::vector<Layer>& pools) {
        size_t total = 0;
        const TieColumns ties{{{sum_columns(), costs_}}, slack_};
        for (Layer& pool : pools) {
            const auto kept = unreplaced({pool.columns.data(), pool.size(), costs_ + 1}, ties, limit_);
            if (limit_.reached_now()) throw Interrupted();  // dominated states may be among them then
            pool = choose(pool, kept);
            total += pool.size();
        }
        if (total > max_points_ && epsilon_ > 0) total = thin(pools);
        if (total > max_points_) {
            throw FrontTooLarge(
                "the front after block " + std::to_string(b) +
                " has more than max_points = " + std::to_string(max_points_) +
                " points; raise max_points or epsilon, use fewer costs, or ask solve() for single points");
        }
        return total;
    }

    // Keeps, of all states whose costs lie between the same two powers of 1 + d in every cost, the one that loses
    // least, with (1 + d)^blocks = 1 + epsilon. Whatever took a state's place at a border, also after more states came
    // and more thinning, costs less than the next power above that state; and sums and maxima keep ratios.
    size_t thin(std::vector<Layer>& pools) {
        thinned_ = true;
        constexpr double margin = 1 - 1e-6;  // for the logarithms' rounding
        const double step = margin * std::log1p(epsilon_) / static_cast<double>(chain_.size());
        size_t total = 0;
        for (Layer& pool : pools) {
            std::vector<std::vector<int64_t>> keys(pool.size());
            for (size_t i = 0; i < pool.size(); ++i) {
                const int64_t* state = pool.columns.data() + i * (costs_ + 1);
                for (size_t c = 0; c < costs_; ++c) {
                    const double cost = static_cast<double>(state[c]);
                    keys[i].push_back(state[c] == 0 ? -1 : static_cast<int64_t>(std::log(cost) / step));
                }
                keys[i].push_back(state[costs_]);
            }
            std::vector<uint32_t> order(pool.size());
            std::iota(order.begin(), order.end(), 0);
            const auto less = [&](uint32_t i, uint32_t j) { return keys[i] != keys[j] ? keys[i] < keys[j] : i < j; };
            const bool sorted =
                limit_.sort_unless_reached(less, [&](auto compare) { std::sort(order.begin(), order.end(), compare); });
            if (!sorted) throw Interrupted();
            const auto together = [&](uint32_t i, uint32_t j) {
                return std::equal(keys[i].begin(), keys[i].end() - 1, keys[j].begin());
            };
            order.erase(std::unique(order.begin(), order.end(), together), order.end());
            std::sort(order.begin(), order.end());
            pool = choose(pool, order);
            total += pool.size();
        }
        return total;
    }

    Layer choose(const Layer& pool, const std::vector<uint32_t>& which) {
        Layer kept;
        // Room for the generations to come: moving millions of states in one step would be deaf to the limit.
        if (which.size() >= least_room) kept.reserve(growth * which.size(), costs_ + 1);
        for (uint32_t i : which) {
            if (limit_.reached()) throw Interrupted();
            const int64_t* state = pool.columns.data() + i * (costs_ + 1);
            kept.columns.insert(kept.columns.end(), state, state + costs_ + 1);
            kept.parent.push_back(pool.parent[i]);
            kept.candidate.push_back(pool.candidate[i]);
        }
        return kept;
    }

    // One layer of all labels, in lexicographic order again.
    Layer join(const std::vector<Layer>& pools) {
        struct Item {
            uint32_t parent, candidate, label, index;
        };
        size_t total = 0;
        for (const Layer& pool : pools) total += pool.size();
        std::vector<Item> items;
        items.reserve(total);
        for (uint32_t label = 0; label < pools.size(); ++label) {
            for (uint32_t i = 0; i < pools[label].size(); ++i) {
                if (limit_.reached()) throw Interrupted();
                items.push_back({pools[label].parent[i], pools[label].candidate[i], label, i});
            }
        }
        const auto before = [](const Item& a, const Item& b) {
            return a.parent != b.parent ? a.parent < b.parent : a.candidate < b.candidate;
        };
        const auto sort = [&](auto compare) { std::sort(items.begin(), items.end(), compare); };
        if (!limit_.sort_unless_reached(before, sort)) throw Interrupted();
        Layer layer;
        layer.reserve(total, costs_ + 1);
        layer.label.reserve(total);
        for (const Item& item : items) {
            if (limit_.reached()) throw Interrupted();
            const int64_t* state = pools[item.label].columns.data() + item.index * (costs_ + 1);
            layer.columns.insert(layer.columns.end(), state, state + costs_ + 1);
            layer.parent.push_back(item.parent);
            layer.candidate.push_back(item.candidate);
            layer.label.push_back(item.label);
        }
        return layer;
    }

    // The last layer without near ties; its order by columns is the order of the result.
    Front read() {
        const Layer& last = layers_.back();
        Front front;
        front.costs.resize(costs_);
        if (thinned_) front.epsilon = epsilon_;
        const std::vector<uint32_t> kept = undominated({last.columns.data(), last.size(), costs_ + 1}, 1, limit_);
        if (limit_.reached_now()) throw Interrupted();
        for (uint32_t i : kept) {
            const int64_t* state = last.columns.data() + i * (costs_ + 1);
            for (size_t c = 0; c < costs_; ++c) front.costs[c].push_back(state[c]);
            front.loss.push_back(from_key(state[costs_]));
            front.choices.push_back(trace(i));
        }
        return front;
    }

    std::vector<uint32_t> trace(uint32_t state) const {
        std::vector<uint32_t> choice(chain_.size());
        for (size_t border = chain_.size(); border > 0; --border) {
            choice[border - 1] = chain_.blocks[border - 1].original(layers_[border].candidate[state]);
            state = layers_[border].parent[state];
        }
        return choice;
    }

    const Problem& problem_;
    const size_t max_points_;
    const double epsilon_;
    Limit& limit_;
    const size_t costs_;
    double slack_ = 0;
    bool thinned_ = false;
    Chain chain_;
    std::vector<Layer> layers_;  // [border]
};

}  // namespace

Front pareto_front(const Problem& problem, const FrontOptions& options, Limit& limit) {
    return Merger(problem, options, limit).run();
}

}  // namespace dna_fast
