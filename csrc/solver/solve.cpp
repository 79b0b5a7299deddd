#include "solve.h"

#include <utility>

#include "chain.h"
#include "dominance.h"
#include "infeasible.h"
#include "ties.h"

namespace dna_fast {
namespace {

void choose_method(const SolveOptions& options, const Chain& chain, Stats& stats, Method& method) {
    if (options.method) {
        method = *options.method;
        stats.reason = "asked for";
    } else if (chain.resources() == 0) {
        method = Method::front;
        stats.reason = "no budget can bind, so a front holds one state per label";
    } else {
        method = Method::branch_and_bound;
        stats.reason = "bounds leave fewer states than complete fronts; budget ends that can bind: " +
                       std::to_string(chain.resources());
    }
    stats.method = method == Method::front ? "front" : "branch_and_bound";
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
    const Chain chain = make_chain(problem);
    const Chain reduced = gather(chain, undominated_candidates(chain, options.top_k, limit));
    solution.stats.candidates = sizes(chain);
    solution.stats.after_dominance = sizes(reduced);
    Method method;
    choose_method(options, chain, solution.stats, method);

    const Extremes extremes = suffix_extremes(chain);
    SearchResult result = search({reduced, extremes, method, options.top_k, options.max_states}, limit, solution.stats);
    solution.status = status_of(result);
    solution.bound = result.lower;
    if (result.proven) {
        solution.stats.ties_resolved =
            resolve_ties({chain, result.layers, result.bound, options.max_states}, result.best, limit);
    }
    for (Found& found : result.best) solution.best.push_back(report(problem, std::move(found)));
    if (solution.status == Status::infeasible) {
        explain_infeasible(problem, options.max_states, limit, solution);
    }
    return solution;
}

}  // namespace dna_fast
