#include "guided.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core.h"
#include "dominance.h"
#include "ordered.h"
#include "prices.h"
#include "swaps.h"

namespace dna_fast {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The `copies` least losses among the states at the last border.
std::vector<Found> least_losses(const ForwardTask& task, const std::vector<States>& layers) {
    const States& last = layers.back();
    const size_t resources = task.chain.resources();
    std::vector<std::pair<int64_t, uint32_t>> order;
    for (uint32_t s = 0; s < last.size(); ++s) order.emplace_back(last.columns[s * (resources + 1) + resources], s);
    std::sort(order.begin(), order.end());
    order.resize(std::min(order.size(), task.copies));
    std::vector<Found> found;
    for (const auto& [key, state] : order) {
        found.push_back({from_key(key), task.chain.original(trace(layers, state))});
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

// Chain indices of a choice in the caller's.
std::vector<uint32_t> in_chain(const Chain& chain, const std::vector<uint32_t>& choice) {
    std::vector<uint32_t> result(choice.size());
    for (size_t b = 0; b < chain.size(); ++b) {
        const std::vector<uint32_t>& index = chain.blocks[b].index;
        const auto at = std::lower_bound(index.begin(), index.end(), choice[b]);
        result[b] = static_cast<uint32_t>(at - index.begin());
    }
    return result;
}

std::vector<size_t> sizes_of(const Chain& chain) {
    std::vector<size_t> sizes;
    for (const ChainBlock& block : chain.blocks) sizes.push_back(block.size);
    return sizes;
}

}  // namespace

GuidedSearch::GuidedSearch(const SearchTask& task, Limit& limit, Stats& stats)
    : task_(task), limit_(limit), stats_(stats) {
    constexpr size_t most = size_t{1} << 28;  // states have 32-bit numbers, also while several generations pile up
    widest_ = std::clamp<size_t>(task.max_states / task.chain.size(), 1, most);
}

bool GuidedSearch::prepare() {
    Relaxation relaxation = improve_prices(task_.chain, limit_);
    root_bound_ = std::move(relaxation.bound);
    stats_.iterations += relaxation.iterations;
    if (settle_if_infeasible()) return true;
    if (!relaxation.incumbent.empty()) {
        const double loss = totals_of(task_.chain, relaxation.incumbent).loss;
        offer({{loss, task_.chain.original(std::move(relaxation.incumbent))}});
    }
    probe();
    return false;
}

bool GuidedSearch::prepare_unpriced() {
    root_bound_ = priced_bound(task_.chain, std::vector<double>(task_.chain.resources(), 0.0));
    return settle_if_infeasible();
}

bool GuidedSearch::settle_if_infeasible() {
    result_.lower = root_bound_.root - root_bound_.slack;
    // No choice loses more than the losses' size: a bound above it proves that none fits.
    if (!(result_.lower > task_.chain.loss_magnitude() + root_bound_.slack)) return false;
    result_.lower = infinity;
    result_.proven = true;
    return true;
}

void GuidedSearch::probe() {
    if (limit_.reached_now()) return;
    constexpr size_t candidates = 32, states = 64;
    const size_t width = std::min(std::max(states, 2 * task_.copies), widest_);
    const Chain leading = gather(task_.chain, leading_candidates(task_.chain, root_bound_, candidates));
    const PricedBound bound = priced_bound(leading, root_bound_.price);
    const Extremes extremes = suffix_extremes(leading);
    ForwardResult pass;
    offer(run_pass({leading, extremes, bound, task_.copies, width, incumbent_}, pass));
}

// Makes the core for the present incumbent, out of the one before.
void GuidedSearch::focus() {
    if (focused_ && incumbent_ == focused_at_) return;
    const bool first = !focused_;
    focused_ = true;
    focused_at_ = incumbent_;
    const Chain& wider = first ? task_.chain : result_.core.chain;
    const PricedBound& bound = first ? root_bound_ : result_.core.bound;
    Chain core = gather(wider, promising_candidates(wider, bound, incumbent_));
    stats_.after_bounds = sizes_of(core);
    result_.core.bound = priced_bound(core, root_bound_.price);
    extremes_ = suffix_extremes(core);
    reduced_ = gather(core, undominated_candidates(core, task_.copies, limit_));
    stats_.after_dominance = sizes_of(reduced_);
    result_.core.chain = std::move(core);
}

std::vector<Found> GuidedSearch::run_pass(const ForwardTask& task, ForwardResult& pass) {
    pass = forward(task, limit_);
    ++stats_.passes;
    stats_.nodes += pass.expanded;
    stats_.peak_front = std::max(stats_.peak_front, pass.peak);
    return pass.finished ? least_losses(task, pass.layers) : std::vector<Found>{};
}

void GuidedSearch::offer(std::vector<Found> found) {
    merge(result_.best, std::move(found), task_.copies);
    if (result_.best.size() == task_.copies) incumbent_ = result_.best.back().loss;
}

bool GuidedSearch::pass(size_t width) {
    if (limit_.reached_now()) return false;
    focus();
    const double slack = result_.core.bound.slack, bar = incumbent_;
    ForwardResult pass;
    std::vector<Found> found = run_pass({reduced_, extremes_, result_.core.bound, task_.copies, width, bar}, pass);
    if (!pass.finished) return false;
    if (found.size() == task_.copies) incumbent_ = std::min(incumbent_, found.back().loss);
    // With nothing dropped the pass saw all that can matter, also when that is nothing.
    if (pass.least_dropped == infinity || pass.least_dropped > incumbent_ + slack) {
        result_.proven = true;
        result_.best = std::move(found);
        result_.lower = result_.best.empty() ? infinity : result_.best[0].loss;
        result_.core.layers = std::move(pass.layers);
        return false;
    }
    offer(std::move(found));
    // What fixing left out loses more than the incumbent, and so no less than the best choice.
    result_.lower = std::max(result_.lower, pass.least_dropped - slack);
    if (!result_.best.empty()) result_.lower = std::min(result_.lower, result_.best[0].loss);
    return true;
}

void GuidedSearch::improve() {
    if (result_.best.empty() || limit_.reached_now()) return;
    if (task_.copies == 1 && incumbent_ - result_.lower <= root_bound_.slack) return;
    focus();
    const Chain& core = result_.core.chain;
    const auto totals_in_core = [&](const Found& found) { return totals_of(core, in_chain(core, found.choice)); };
    std::vector<Found> better;
    if (task_.copies == 1) {
        Totals totals = totals_in_core(result_.best[0]);
        improve_by_swaps(core, result_.core.bound, totals, limit_);
        better.push_back({totals.loss, core.original(std::move(totals.choice))});
    } else {
        constexpr size_t most_centres = 8;
        for (size_t i = 0; i < std::min(most_centres, result_.best.size()); ++i) {
            const Totals centre = totals_in_core(result_.best[i]);
            for (Totals& totals : neighbours(core, result_.core.bound, centre, task_.copies, limit_)) {
                better.push_back({totals.loss, core.original(std::move(totals.choice))});
            }
        }
    }
    offer(std::move(better));
}

}  // namespace dna_fast
