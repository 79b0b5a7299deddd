#include "ties.h"

#include <algorithm>
#include <limits>

#include "dominance.h"
#include "ordered.h"

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The prefixes of one label at one border, and the least they can contribute.
struct Prefixes {
    const int64_t* columns = nullptr;  // [size, resources + 1] ascending, first column first
    size_t size = 0;
    double least_loss = infinity;
    double least_priced = infinity;  // loss + priced uses
};

class Walk {
  public:
    Walk(const TieTask& task, double target, Limit& limit)
        : task_(task), target_(target), limit_(limit), resources_(task.chain.resources()) {}

    // The backward pass. False: the limit or the number of states stopped it.
    bool build() {
        const size_t blocks = task_.chain.size();
        completions_.resize(blocks + 1);
        promising_.resize(blocks);
        completions_[blocks].assign(1, std::vector<int64_t>(resources_, 0));
        completions_[blocks][0].push_back(to_key(-target_));
        for (size_t b = blocks; b-- > 0;) {
            const uint32_t rows = task_.chain.rows(b);
            completions_[b].resize(rows);
            promising_[b].resize(rows);
            for (uint32_t row = 0; row < rows; ++row) {
                if (!build_row(b, row)) return false;
            }
        }
        return true;
    }

    // Visits every choice within the target in lexicographic order until visit(loss, choice) returns false.
    template <class Visit>
    bool run(Visit visit) {
        const size_t blocks = task_.chain.size();
        path_.assign(blocks + 1, {});
        uses_.assign((blocks + 1) * resources_, 0);
        choice_.assign(blocks, 0);
        // A loop with its own stack: there may be more blocks than calls can nest.
        for (size_t b = 0;;) {
            if (b == blocks && !visit(path_[b].loss, choice_)) break;
            if (b < blocks && descend(b)) {
                ++b;
            } else if (b == 0) {
                break;
            } else {
                --b;
            }
            if (limit_.reached()) return false;
        }
        return true;
    }

  private:
    Prefixes prefixes(size_t border, uint32_t row) const {
        const States& layer = task_.layers[border];
        Prefixes result;
        result.columns = layer.columns.data() + layer.begin[row] * (resources_ + 1);
        result.size = layer.begin[row + 1] - layer.begin[row];
        for (size_t s = 0; s < result.size; ++s) {
            const int64_t* state = result.columns + s * (resources_ + 1);
            const double loss = from_key(state[resources_]);
            result.least_loss = std::min(result.least_loss, loss);
            result.least_priced = std::min(result.least_priced, loss + task_.bound.price_of(state));
        }
        return result;
    }

    // Completions that start in `row` of block b: candidates of the block before completions of the next border.
    bool build_row(size_t b, uint32_t row) {
        const Prefixes before = prefixes(b, row);
        const ChainBlock& block = task_.chain.blocks[b];
        const double most = target_ + task_.bound.slack;
        std::vector<double> through;
        if (before.size > 0) task_.bound.through(task_.chain, b, row, through);
        std::vector<int64_t> pool;
        const size_t columns = resources_ + 1, room = 1 << 16;
        size_t compact_at = room;
        for (uint32_t i = 0; i < block.size && before.size > 0; ++i) {
            if (limit_.reached()) return false;
            // The best prefix with the best completion through i: most candidates end here.
            if (before.least_priced - task_.bound.price_of_caps + through[i] > most) continue;
            promising_[b][row].push_back(i);
            const std::vector<int64_t>& after = completions_[b + 1][block.next_row(i)];
            for (size_t t = 0; t < after.size() && !limit_.reached(); t += columns) {
                prepend(b, row, i, &after[t], before, pool);
            }
            if (pool.size() > compact_at * columns) {
                compact(pool);
                compact_at = room + 2 * (pool.size() / columns);
            }
        }
        compact(pool);
        held_ += pool.size() / columns;
        completions_[b][row] = std::move(pool);
        return held_ <= task_.max_states && !limit_.reached();
    }

    // Adds candidate i before the completion `after`, if some prefix fits.
    void prepend(size_t b, uint32_t row, uint32_t i, const int64_t* after, const Prefixes& before,
                 std::vector<int64_t>& pool) const {
        const ChainBlock& block = task_.chain.blocks[b];
        const double loss = block.loss.at(row, i);
        const double after_limit = -from_key(after[resources_]);
        if (after_limit - loss < before.least_loss - task_.bound.slack) return;
        const double limit = largest_prefix(after_limit, loss);
        const size_t mark = pool.size();
        for (size_t r = 0; r < resources_; ++r) pool.push_back(after[r] + block.use[r].at(row, i));
        // What the best prefix may lose and use together, as the bound's prices weigh it; cheaper than to look for one.
        const double room = limit + task_.bound.price_of_caps - task_.bound.price_of(pool.data() + mark);
        if (room >= before.least_priced - task_.bound.slack && reached_by(before, limit, pool.data() + mark)) {
            pool.push_back(to_key(-limit));
        } else {
            pool.resize(mark);
        }
    }

    bool reached_by(const Prefixes& before, double limit, const int64_t* use) const {
        for (size_t s = 0; s < before.size; ++s) {
            const int64_t* state = before.columns + s * (resources_ + 1);
            // Ascending in the first use: no later prefix leaves more room.
            if (resources_ > 0 && state[0] + use[0] > task_.chain.cap[0]) return false;
            if (from_key(state[resources_]) <= limit && fits(state, use)) return true;
        }
        return false;
    }

    bool fits(const int64_t* prefix, const int64_t* completion) const {
        for (size_t r = 0; r < resources_; ++r) {
            if (prefix[r] + completion[r] > task_.chain.cap[r]) return false;
        }
        return true;
    }

    void compact(std::vector<int64_t>& pool) {
        const size_t columns = resources_ + 1;
        std::vector<int64_t> kept;
        for (uint32_t i : undominated({pool.data(), pool.size() / columns, columns}, 1, limit_)) {
            kept.insert(kept.end(), &pool[i * columns], &pool[i * columns] + columns);
        }
        pool = std::move(kept);
    }

    bool completes(size_t border, uint32_t row, double loss, const int64_t* use) const {
        const std::vector<int64_t>& after = completions_[border][row];
        for (size_t t = 0; t < after.size(); t += resources_ + 1) {
            if (resources_ > 0 && use[0] + after[t] > task_.chain.cap[0]) return false;
            if (loss <= -from_key(after[t + resources_]) && fits(use, &after[t])) return true;
        }
        return false;
    }

    // Moves to the next candidate of block b that can be completed. False: there is none left.
    bool descend(size_t b) {
        const ChainBlock& block = task_.chain.blocks[b];
        const int64_t* use = uses_.data() + b * resources_;
        int64_t* next_use = uses_.data() + (b + 1) * resources_;
        Step& step = path_[b];
        const std::vector<uint32_t>& candidates = promising_[b][step.row];
        while (step.next < candidates.size()) {
            const uint32_t i = candidates[step.next++];
            const double loss = step.loss + block.loss.at(step.row, i);
            for (size_t r = 0; r < resources_; ++r) next_use[r] = use[r] + block.use[r].at(step.row, i);
            if (!completes(b + 1, block.next_row(i), loss, next_use)) continue;
            choice_[b] = i;
            path_[b + 1] = {block.next_row(i), loss, 0};
            return true;
        }
        return false;
    }

    const TieTask& task_;
    const double target_;
    Limit& limit_;
    const size_t resources_;
    // [border][row] rows of resources + 1 columns: uses of the completion, then the key of minus its largest prefix
    // sum.
    std::vector<std::vector<std::vector<int64_t>>> completions_;
    std::vector<std::vector<std::vector<uint32_t>>> promising_;  // [block][row] candidates, ascending
    size_t held_ = 0;
    struct Step {
        uint32_t row = 0;
        double loss = 0;
        size_t next = 0;  // position in promising_
    };
    std::vector<Step> path_;  // [border] of the walk
    std::vector<uint32_t> choice_;
    std::vector<int64_t> uses_;  // [blocks + 1, resources] of the prefix under the walk
};

}  // namespace

std::optional<std::vector<Found>> first_choices(const TieTask& task, double target, Match match, size_t wanted,
                                                Limit& limit) {
    Walk walk(task, target, limit);
    if (!walk.build()) return std::nullopt;
    std::vector<Found> found;
    const bool complete = walk.run([&](double loss, const std::vector<uint32_t>& choice) {
        if (match == Match::all_up_to || loss == target) found.push_back({loss, task.chain.original(choice)});
        return found.size() < wanted;
    });
    if (!complete) return std::nullopt;
    return found;
}

bool resolve_ties(const TieTask& task, std::vector<Found>& best, Limit& limit) {
    if (best.empty()) return true;
    const double last = best.back().loss;
    const auto first_last =
        std::find_if(best.begin(), best.end(), [last](const Found& found) { return found.loss == last; });
    const auto smaller = static_cast<size_t>(first_last - best.begin());
    std::vector<Found> resolved;
    if (smaller > 0) {
        // Only the largest loss can have more choices than are wanted, so the smaller ones come in one walk.
        auto found = first_choices(task, best[smaller - 1].loss, Match::all_up_to, smaller, limit);
        if (!found) return false;
        resolved = std::move(*found);
        std::stable_sort(resolved.begin(), resolved.end(),
                         [](const Found& a, const Found& b) { return a.loss < b.loss; });
    }
    auto found = first_choices(task, last, Match::exactly, best.size() - smaller, limit);
    if (!found) return false;
    std::move(found->begin(), found->end(), std::back_inserter(resolved));
    best = std::move(resolved);
    return true;
}

}  // namespace dna_fast
