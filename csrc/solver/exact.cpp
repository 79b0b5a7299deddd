#include "exact.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "ordered.h"

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<uint32_t> original_choice(const Chain& chain, std::vector<uint32_t> choice) {
    for (size_t b = 0; b < chain.size(); ++b) choice[b] = chain.blocks[b].original(choice[b]);
    return choice;
}

double loss_of(const Chain& chain, const std::vector<uint32_t>& choice) {
    double loss = 0;
    uint32_t row = 0;
    for (size_t b = 0; b < chain.size(); ++b) {
        loss += chain.blocks[b].loss.at(row, choice[b]);
        row = chain.blocks[b].next_row(choice[b]);
    }
    return loss;
}

// The `copies` least losses among the states at the last border.
std::vector<Found> least_losses(const SearchTask& task, const std::vector<States>& layers) {
    const States& last = layers.back();
    const size_t resources = task.chain.resources();
    std::vector<std::pair<int64_t, uint32_t>> order;
    for (uint32_t s = 0; s < last.size(); ++s) order.emplace_back(last.columns[s * (resources + 1) + resources], s);
    std::sort(order.begin(), order.end());
    order.resize(std::min(order.size(), task.copies));
    std::vector<Found> found;
    for (const auto& [key, state] : order) {
        found.push_back({from_key(key), original_choice(task.chain, trace(layers, state))});
    }
    return found;
}

// The `copies` best distinct choices of both lists.
void merge(std::vector<Found>& best, std::vector<Found> more, size_t copies) {
    std::move(more.begin(), more.end(), std::back_inserter(best));
    std::sort(best.begin(), best.end(),
              [](const Found& a, const Found& b) { return a.loss != b.loss ? a.loss < b.loss : a.choice < b.choice; });
    const auto same = [](const Found& a, const Found& b) { return a.choice == b.choice; };
    best.erase(std::unique(best.begin(), best.end(), same), best.end());
    if (best.size() > copies) best.resize(copies);
}

class Search {
  public:
    Search(const SearchTask& task, Limit& limit, Stats& stats) : task_(task), limit_(limit), stats_(stats) {}

    SearchResult run() {
        constexpr size_t widest = size_t{1}
                                  << 28;  // states have 32-bit numbers, also while several generations pile up
        widest_ = std::clamp<size_t>(task_.max_states / task_.chain.size(), 1, widest);
        prepare();
        if (!task_.extremes.reachable[0][0] || result_.lower == infinity) {
            result_.proven = true;
            result_.lower = infinity;
            return std::move(result_);
        }
        // Narrow first: an incumbent is worth more than breadth, and the widths add up to little more than the last.
        constexpr size_t narrowest = 64, growth = 8;
        const size_t first_width = std::max(narrowest, 2 * task_.copies);
        size_t width = task_.method == Method::front ? widest_ : std::min(first_width, widest_);
        while (pass(width) && !result_.proven && width < widest_) width = std::min(width * growth, widest_);
        return std::move(result_);
    }

  private:
    void prepare() {
        if (task_.method == Method::front) {
            result_.bound = priced_bound(task_.chain, std::vector<double>(task_.chain.resources(), 0.0));
        } else {
            Relaxation relaxation = improve_prices(task_.chain, limit_);
            result_.bound = std::move(relaxation.bound);
            stats_.iterations += relaxation.iterations;
            if (!relaxation.incumbent.empty()) {
                const double loss = loss_of(task_.chain, relaxation.incumbent);
                result_.best.push_back({loss, original_choice(task_.chain, std::move(relaxation.incumbent))});
                if (task_.copies == 1) incumbent_ = loss;
            }
        }
        result_.lower = result_.bound.root - result_.bound.slack;
        // No choice loses more than this: a bound above it proves that none fits.
        if (result_.lower > task_.chain.loss_magnitude() + result_.bound.slack) result_.lower = infinity;
    }

    // One forward pass. False: the limit came.
    bool pass(size_t width) {
        const bool front = task_.method == Method::front;
        result_.layers.clear();
        ForwardTask task{task_.chain,  task_.extremes, result_.bound,
                         task_.copies, width,          front ? infinity : incumbent_};
        ForwardResult pass = forward(task, limit_);
        ++stats_.passes;
        stats_.nodes += pass.expanded;
        stats_.peak_front = std::max(stats_.peak_front, pass.peak);
        if (!pass.finished) return false;

        std::vector<Found> found = least_losses(task_, pass.layers);
        if (found.size() == task_.copies) incumbent_ = std::min(incumbent_, found.back().loss);
        // With nothing dropped the pass saw all that can matter, also when that is nothing.
        const double slack = result_.bound.slack;
        result_.proven = pass.least_dropped == infinity || pass.least_dropped > incumbent_ + slack;
        if (result_.proven) {
            result_.best = std::move(found);
            result_.lower = result_.best.empty() ? infinity : result_.best[0].loss;
            result_.layers = std::move(pass.layers);
            return true;
        }
        merge(result_.best, std::move(found), task_.copies);
        result_.lower = std::max(result_.lower, pass.least_dropped - slack);
        if (!result_.best.empty()) result_.lower = std::min(result_.lower, result_.best[0].loss);
        return true;
    }

    const SearchTask& task_;
    Limit& limit_;
    Stats& stats_;
    size_t widest_ = 1;
    double incumbent_ = infinity;  // the `copies`-th best loss so far
    SearchResult result_;
};

}  // namespace

SearchResult search(const SearchTask& task, Limit& limit, Stats& stats) { return Search(task, limit, stats).run(); }

}  // namespace dna_fast
