#include "many.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "dominance.h"
#include "near_ties.h"

namespace dna_fast {
namespace {

// The problem's candidates that can be in an answer, in arrays of their own.
class Reduced {
  public:
    Reduced(const Problem& problem, const std::vector<std::vector<BudgetEnds>>& budgets, size_t copies, Limit& limit)
        : kept_(candidates_that_matter(problem, budgets, copies, limit)) {
        data_.costs.resize(problem.costs().size());
        for (size_t c = 0; c < data_.costs.size(); ++c) {
            data_.costs[c].name = problem.costs()[c].name;
            data_.costs[c].reduce = problem.costs()[c].reduce;
        }
        for (size_t b = 0; b < problem.blocks(); ++b) {
            data_.losses.push_back(gather(problem.losses(b), kept_[b], losses_.emplace_back()));
            std::vector<uint32_t>& labels = data_.labels.emplace_back();
            for (uint32_t i : kept_[b]) labels.push_back(problem.label(b, i));
            for (size_t c = 0; c < data_.costs.size(); ++c) {
                data_.costs[c].blocks.push_back(gather(problem.costs()[c].blocks[b], kept_[b], costs_.emplace_back()));
            }
        }
    }

    Solution solve(const std::vector<BudgetEnds>& ends, const SolveOptions& options, Limit& limit) const {
        ProblemData data = data_;
        for (size_t c = 0; c < ends.size(); ++c) {
            data.costs[c].lower = ends[c].lower;
            data.costs[c].upper = ends[c].upper;
        }
        Solution solution = dna_fast::solve(Problem(std::move(data)), options, limit);
        for (Candidate& candidate : solution.best) {
            for (size_t b = 0; b < kept_.size(); ++b) candidate.choice[b] = kept_[b][candidate.choice[b]];
        }
        return solution;
    }

  private:
    template <class T>
    static Column<T> gather(const Column<T>& from, const std::vector<uint32_t>& keep, std::vector<T>& owned) {
        owned.reserve(from.rows * keep.size());
        for (uint32_t row = 0; row < from.rows; ++row) {
            for (uint32_t i : keep) owned.push_back(from.at(row, i));
        }
        return {owned.data(), from.rows, keep.size()};
    }

    // A chain in which a cost with an upper end anywhere is a resource, and one with a lower end is a negative one;
    // whoever is dominated there is dominated under each of the budgets.
    static Chain chain_of_all_ends(const Problem& problem, const std::vector<std::vector<BudgetEnds>>& budgets) {
        std::vector<Cost> unbounded = problem.costs();
        for (Cost& cost : unbounded) cost.lower.reset(), cost.upper.reset();
        Chain chain = make_chain(problem.with(problem.losses(), unbounded));
        for (size_t c = 0; c < problem.costs().size(); ++c) {
            const std::vector<Column<int64_t>>& columns = problem.costs()[c].blocks;
            const auto any = [&](auto end) { return std::any_of(budgets.begin(), budgets.end(), end); };
            if (any([c](const auto& ends) { return ends[c].upper.has_value(); })) {
                chain.cap.push_back(0);
                for (size_t b = 0; b < chain.size(); ++b) chain.blocks[b].use.push_back(columns[b]);
            }
            if (any([c](const auto& ends) { return ends[c].lower.has_value(); })) {
                chain.cap.push_back(0);
                for (size_t b = 0; b < chain.size(); ++b) {
                    std::vector<int64_t>& use = chain.owned_uses.emplace_back();
                    for (size_t i = 0; i < columns[b].rows * columns[b].size; ++i) use.push_back(-columns[b].data[i]);
                    chain.blocks[b].use.push_back({use.data(), columns[b].rows, columns[b].size});
                }
            }
        }
        return chain;
    }

    // With one copy, a candidate goes where another one replaces it whatever the completion: no worse in any column,
    // and of equal losses (as far as rounding can tell) the first. With more copies everything stays: solve() has its
    // own filter, after the bounds.
    static std::vector<std::vector<uint32_t>> candidates_that_matter(
        const Problem& problem, const std::vector<std::vector<BudgetEnds>>& budgets, size_t copies, Limit& limit) {
        const Chain chain = chain_of_all_ends(problem, budgets);
        const double slack = static_cast<double>(chain.size() + 4) * chain.loss_magnitude() * 0x1p-51;
        std::vector<std::vector<uint32_t>> keep(chain.size());
        for (size_t b = 0; b < chain.size(); ++b) {
            for (const auto& members : members_by_label(chain.blocks[b], chain.rows(b + 1))) {
                if (copies > 1) {
                    keep[b].insert(keep[b].end(), members.begin(), members.end());
                    continue;
                }
                const CandidatePoints points = candidate_points(chain.blocks[b], members);
                TieColumns ties{{}, slack};
                for (size_t loss : points.column_of.back()) ties.rows.push_back({{}, loss});
                for (uint32_t i : unreplaced({points.data.data(), members.size(), points.columns}, ties, limit)) {
                    keep[b].push_back(members[i]);
                }
            }
            std::sort(keep[b].begin(), keep[b].end());
        }
        return keep;
    }

    std::vector<std::vector<uint32_t>> kept_;  // per block, ascending
    ProblemData data_;
    std::deque<std::vector<double>> losses_;
    std::deque<std::vector<int64_t>> costs_;
};

}  // namespace

std::vector<Solution> solve_many(const Problem& problem, const std::vector<std::vector<BudgetEnds>>& budgets,
                                 const SolveOptions& options, size_t threads, Limit& limit) {
    const Reduced reduced(problem, budgets, options.top_k, limit);
    std::vector<Solution> solutions(budgets.size());
    std::atomic<size_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::exception_ptr failure;
    const auto work = [&](Limit& own) {
        try {
            for (size_t q = next++; q < budgets.size(); q = next++) {
                solutions[q] = reduced.solve(budgets[q], options, own);
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            failure = std::current_exception();
            stop = true;
        }
    };
    // The caller's limit may ask the interpreter, which only this thread may do; the others listen to this one.
    std::atomic<size_t> working{0};
    std::vector<std::thread> others;
    const size_t useful = std::min(threads, budgets.size());
    for (size_t t = 1; t < useful; ++t) {
        ++working;
        others.emplace_back([&] {
            Limit own(std::nullopt, [&] { return stop.load(); });
            work(own);
            --working;
        });
    }
    work(limit);
    while (working > 0) {
        if (limit.reached_now()) stop = true;
        Limit::nap();
    }
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
    return solutions;
}

}  // namespace dna_fast
