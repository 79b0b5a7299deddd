#include "infeasible.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "chain.h"
#include "exact.h"

namespace dna_fast {
namespace {

class Explainer {
  public:
    Explainer(const Problem& problem, size_t max_states, Limit& limit)
        : problem_(problem), max_states_(max_states), limit_(limit) {}

    struct Answer {
        bool known = false;
        std::optional<int64_t> value;
    };

    Answer smallest_upper(size_t cost) {
        // Below 2^53 a sum of whole numbers is exact in float64, so the cost itself can be the objective.
        constexpr int64_t exact_in_float64 = int64_t{1} << 53;
        std::vector<Cost> costs = problem_.costs();
        costs[cost].upper.reset();
        const bool sums = costs[cost].reduce == Reduce::sum;
        if (sums && problem_.largest_total(cost) < exact_in_float64) return minimise(cost, costs);
        return bisect(cost, costs);
    }

  private:
    Answer minimise(size_t cost, const std::vector<Cost>& costs) {
        std::vector<std::vector<double>> objective(problem_.blocks());
        std::vector<Column<double>> columns;
        for (size_t b = 0; b < problem_.blocks(); ++b) {
            const Column<int64_t>& from = costs[cost].blocks[b];
            objective[b].assign(from.data, from.data + from.rows * from.size);
            columns.push_back({objective[b].data(), from.rows, from.size});
        }
        const SearchResult result = run(columns, costs);
        if (!result.proven) return {};
        if (result.best.empty()) return {true, std::nullopt};
        return {true, problem_.cost_of(cost, result.best[0].choice)};
    }

    // Halves the range of upper ends, asking each time whether any choice fits.
    Answer bisect(size_t cost, std::vector<Cost> costs) {
        const std::vector<double> zeros(largest_block(), 0.0);
        std::vector<Column<double>> columns;
        for (size_t b = 0; b < problem_.blocks(); ++b) columns.push_back({zeros.data(), 1, problem_.candidates(b)});
        int64_t low = 0;  // everything below is infeasible
        std::optional<int64_t> high;
        while (!high || low < *high) {
            if (high) costs[cost].upper = low + (*high - low) / 2;
            const SearchResult result = run(columns, costs);
            if (!result.best.empty()) {
                high = problem_.cost_of(cost, result.best[0].choice);
            } else if (!result.proven) {
                return {};
            } else if (!high) {
                return {true, std::nullopt};
            } else {
                low = *costs[cost].upper + 1;
            }
        }
        return {true, high};
    }

    SearchResult run(const std::vector<Column<double>>& objective, const std::vector<Cost>& costs) {
        const Problem problem = problem_.with(objective, costs);
        const Chain chain = make_chain(problem);
        Stats unused;
        return branch_and_bound({chain, 1, max_states_}, limit_, unused);
    }

    size_t largest_block() const {
        size_t largest = 0;
        for (size_t b = 0; b < problem_.blocks(); ++b) largest = std::max(largest, problem_.candidates(b));
        return largest;
    }

    const Problem& problem_;
    const size_t max_states_;
    Limit& limit_;
};

}  // namespace

void explain_infeasible(const Problem& problem, size_t max_states, Limit& limit, Solution& solution) {
    Explainer explainer(problem, max_states, limit);
    for (size_t c = 0; c < problem.costs().size(); ++c) {
        const Cost& cost = problem.costs()[c];
        if (!cost.upper && !cost.lower) continue;
        const Explainer::Answer answer = explainer.smallest_upper(c);
        if (answer.known) {
            solution.smallest_feasible.emplace_back(cost.name, answer.value);
        } else {
            solution.stats.smallest_feasible_complete = false;
        }
    }
}

}  // namespace dna_fast
