#include "forward.h"

#include <algorithm>
#include <compare>
#include <functional>
#include <limits>

#include "dominance.h"
#include "ordered.h"

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// New states of one label at one border, before and after dominance.
struct Pool {
    std::vector<int64_t> columns;
    std::vector<uint32_t> parent, candidate;

    size_t size() const { return parent.size(); }

    // Stops half-way when the limit comes.
    void keep(const std::vector<uint32_t>& which, size_t width, Limit& limit) {
        Pool kept;
        kept.columns.reserve(which.size() * width);
        for (uint32_t i : which) {
            if (limit.reached()) break;
            const auto row = columns.begin() + static_cast<std::ptrdiff_t>(i * width);
            kept.columns.insert(kept.columns.end(), row, row + static_cast<std::ptrdiff_t>(width));
            kept.parent.push_back(parent[i]);
            kept.candidate.push_back(candidate[i]);
        }
        *this = std::move(kept);
    }
};

// A candidate in one row, with what extending a state by it needs.
struct Move {
    double through;  // its part of the bound: priced loss, completed at best
    double loss;
    uint32_t candidate, label;
};

// A state and a lower bound by which to choose among states; ties are broken to keep runs alike.
struct Ranked {
    double bound;
    uint32_t label, state;

    auto operator<=>(const Ranked&) const = default;
};

class Pass {
  public:
    Pass(const ForwardTask& task, Limit& limit) : task_(task), limit_(limit), resources_(task.chain.resources()) {}

    ForwardResult run() {
        States start;
        start.columns.assign(resources_, 0);
        start.columns.push_back(to_key(0.0));
        start.parent = start.candidate = {0};
        start.begin = {0, 1};
        result_.layers.push_back(std::move(start));
        for (size_t b = 0; b < task_.chain.size(); ++b) {
            pools_.assign(task_.chain.rows(b + 1), {});
            if (!expand(b)) return std::move(result_);
            compact(b + 1);
            if (limit_.reached_now()) return std::move(result_);  // the pools are in disorder then
            store();
        }
        result_.finished = true;
        return std::move(result_);
    }

  private:
    // Extends every state at border b by every candidate of block b. False: the limit was reached.
    bool expand(size_t b) {
        const States& from = result_.layers.back();
        // Room for a few unsorted generations, so that dominance runs on many states at once.
        const size_t room = 4 * task_.width + 4096;
        size_t pooled = 0;
        cutoff_ = infinity;
        for (uint32_t row = 0; row < task_.chain.rows(b); ++row) {
            const std::vector<Move> moves = moves_of(b, row);
            // The most promising states first: the width then cuts off most of the work of the others.
            for (const Ranked& state : by_bound(from, row)) {
                const size_t added = extend(b, row, from, state, moves);
                if (limit_.reached(1 + added / 16)) return false;
                pooled += added;
                if (pooled > room) pooled = compact(b + 1);
            }
        }
        return true;
    }

    // States of one row at a border, ascending in loss plus priced uses.
    std::vector<Ranked> by_bound(const States& from, uint32_t row) {
        std::vector<Ranked> ranked;
        for (uint32_t s = from.begin[row]; s < from.begin[row + 1]; ++s) {
            ranked.push_back({so_far(from.columns.data() + s * (resources_ + 1)), row, s});
        }
        limit_.sort_unless_reached(std::less<>(),
                                   [&](auto compare) { std::sort(ranked.begin(), ranked.end(), compare); });
        return ranked;
    }

    double so_far(const int64_t* state) const {
        return from_key(state[resources_]) + task_.bound.price_of(state) - task_.bound.price_of_caps;
    }

    std::vector<Move> moves_of(size_t b, uint32_t row) const {
        const ChainBlock& block = task_.chain.blocks[b];
        std::vector<Move> moves;
        std::vector<double> through;
        task_.bound.through(task_.chain, b, row, through);
        for (size_t i = 0; i < block.size; ++i) {
            const uint32_t label = block.next_row(i);
            if (!block.allowed(row, i) || !task_.extremes.reachable[b + 1][label]) continue;
            moves.push_back({through[i], block.loss.at(row, i), static_cast<uint32_t>(i), label});
        }
        std::stable_sort(moves.begin(), moves.end(),
                         [](const Move& a, const Move& b) { return a.through < b.through; });
        return moves;
    }

    size_t extend(size_t b, uint32_t row, const States& from, const Ranked& ranked, const std::vector<Move>& moves) {
        const ChainBlock& block = task_.chain.blocks[b];
        const int64_t* state = from.columns.data() + ranked.state * (resources_ + 1);
        const double loss = from_key(state[resources_]);
        const double most = task_.incumbent + task_.bound.slack;
        size_t added = 0;
        for (const Move& move : moves) {
            const double bound = ranked.bound + move.through;
            if (bound > most) break;  // sorted: none of the rest can do better
            if (bound > cutoff_) {
                result_.least_dropped = std::min(result_.least_dropped, bound);
                break;
            }
            Pool& pool = pools_[move.label];
            const size_t mark = pool.columns.size();
            const int64_t* least = task_.extremes.least[b + 1].data() + move.label * resources_;
            const int64_t* largest = task_.extremes.largest[b + 1].data() + move.label * resources_;
            bool fits = true;
            for (size_t r = 0; r < resources_ && fits; ++r) {
                const int64_t use = state[r] + block.use[r].at(row, move.candidate);
                const int64_t cap = task_.chain.cap[r];
                fits = use + least[r] <= cap;
                pool.columns.push_back(std::max(use, cap - largest[r]));
            }
            if (!fits) {
                pool.columns.resize(mark);
                continue;
            }
            pool.columns.push_back(to_key(loss + move.loss));
            pool.parent.push_back(ranked.state);
            pool.candidate.push_back(move.candidate);
            ++added;
        }
        result_.expanded += added;
        return added;
    }

    // Dominance, then the width. Returns the number of states left.
    size_t compact(size_t border) {
        size_t total = 0;
        for (Pool& pool : pools_) {
            const size_t columns = resources_ + 1;
            pool.keep(undominated({pool.columns.data(), pool.size(), columns}, task_.copies, limit_), columns, limit_);
            total += pool.size();
        }
        if (total <= task_.width || limit_.reached_now()) return total;
        trim(border);
        return task_.width;
    }

    // Keeps the `width` states of least bound, over all labels together.
    void trim(size_t border) {
        std::vector<Ranked> ranked;
        for (uint32_t label = 0; label < pools_.size(); ++label) {
            for (uint32_t i = 0; i < pools_[label].size(); ++i)
                ranked.push_back({bound_of(border, label, i), label, i});
        }
        const auto cut = ranked.begin() + static_cast<std::ptrdiff_t>(task_.width);
        const bool divided = limit_.sort_unless_reached(
            std::less<>(), [&](auto compare) { std::nth_element(ranked.begin(), cut, ranked.end(), compare); });
        if (!divided) return;
        cutoff_ = cut->bound;
        result_.least_dropped = std::min(result_.least_dropped, cut->bound);
        std::vector<std::vector<uint32_t>> keep(pools_.size());
        for (auto it = ranked.begin(); it != cut; ++it) keep[it->label].push_back(it->state);
        for (size_t label = 0; label < pools_.size(); ++label) {
            std::sort(keep[label].begin(), keep[label].end());
            pools_[label].keep(keep[label], resources_ + 1, limit_);
        }
    }

    double bound_of(size_t border, uint32_t label, uint32_t i) const {
        const int64_t* state = pools_[label].columns.data() + i * (resources_ + 1);
        return so_far(state) + task_.bound.completion[border][label];
    }

    void store() {
        States layer;
        layer.begin = {0};
        for (Pool& pool : pools_) {
            layer.columns.insert(layer.columns.end(), pool.columns.begin(), pool.columns.end());
            layer.parent.insert(layer.parent.end(), pool.parent.begin(), pool.parent.end());
            layer.candidate.insert(layer.candidate.end(), pool.candidate.begin(), pool.candidate.end());
            layer.begin.push_back(static_cast<uint32_t>(layer.parent.size()));
        }
        result_.peak = std::max(result_.peak, layer.size());
        result_.layers.push_back(std::move(layer));
    }

    const ForwardTask& task_;
    Limit& limit_;
    const size_t resources_;
    std::vector<Pool> pools_;   // [label] at the border being built
    double cutoff_ = infinity;  // bound beyond which the width has no room at this border
    ForwardResult result_;
};

}  // namespace

ForwardResult forward(const ForwardTask& task, Limit& limit) { return Pass(task, limit).run(); }

std::vector<uint32_t> trace(const std::vector<States>& layers, uint32_t state) {
    std::vector<uint32_t> choice(layers.size() - 1);
    for (size_t border = layers.size() - 1; border > 0; --border) {
        choice[border - 1] = layers[border].candidate[state];
        state = layers[border].parent[state];
    }
    return choice;
}

}  // namespace dna_fast
