#include "solve.h"

#include <utility>

#include "beam.h"
#include "chain.h"
#include "infeasible.h"
#include "ties.h"

namespace dna_fast {
namespace {

const char* name(Method method) {
    switch (method) {
        case Method::front:
            return "front";
        case Method::branch_and_bound:
            return "branch_and_bound";
        case Method::beam:
            return "beam";
    }
    return "";  // not reached: every method has returned
}

SearchResult run(Method method, const SearchTask& task, size_t beam_width, Limit& limit, Stats& stats) {
    switch (method) {
        case Method::front:
            return merge_fronts(task, limit, stats);
        case Method::branch_and_bound:
            return branch_and_bound(task, limit, stats);
        case Method::beam:
            return beam_search(task, beam_width, limit, stats);
    }
    return {};  // not reached: every method has returned
}

Method choose_method(const SolveOptions& options, const Chain& chain, Stats& stats) {
    if (options.method) {
        stats.reason = "asked for";
        return *options.method;
    }
    if (chain.resources() == 0) {
        stats.reason = "no budget can bind, so a front holds one state per label";
        return Method::front;
    }
    stats.reason = "bounds leave fewer states than complete fronts; budget ends that can bind: " +
                   std::to_string(chain.resources());
    return Method::branch_and_bound;
}

std::vector<size_t> sizes(const Chain& chain) {
    std::vector<size_t> result;
    for (const ChainBlock& block : chain.blocks) result.push_back(block.size);
    return result;
}

Candidate report(const Problem& problem, Found found) {
    Candidate candidate;
    candidate.loss = problem.loss_of(found.choice);
    for (size_t c = 0; c < problem.costs().size(); ++c) candidate.costs.push_back(problem.cost_of(c, found.choice));
    candidate.choice = std::move(found.choice);
    return candidate;
}

Status status_of(const SearchResult& result) {
    if (result.proven) return result.best.empty() ? Status::infeasible : Status::optimal;
    return result.best.empty() ? Status::limit : Status::feasible;
}

}  // namespace

Solution solve(const Problem& problem, const SolveOptions& options, Limit& limit) {
    Solution solution;
    Stats& stats = solution.stats;
    const Chain chain = make_chain(problem);
    stats.candidates = stats.after_bounds = stats.after_dominance = sizes(chain);
    const Method method = choose_method(options, chain, stats);
    stats.method = name(method);

    SearchResult result = run(method, {chain, options.top_k, options.max_states}, options.beam_width, limit, stats);
    solution.status = status_of(result);
    solution.bound = result.lower;
    if (!options.method && !result.proven && !limit.reached_now()) {
        // What a search of growing width leaves when it may grow no more is what a beam of that width leaves.
        stats.method = name(Method::beam);
        stats.reason = "exactness is out of reach of max_states: a pass that kept " + std::to_string(stats.peak_front) +
                       " partial choices after one block did not close the gap";
    }
    if (result.proven && !result.best.empty()) {
        const Core& core = result.core;
        stats.ties_resolved =
            resolve_ties({core.chain, core.layers, core.bound, options.max_states}, result.best, limit);
    }
    for (Found& found : result.best) solution.best.push_back(report(problem, std::move(found)));
    if (solution.status == Status::infeasible) explain_infeasible(problem, options.max_states, limit, solution);
    return solution;
}

}  // namespace dna_fast
