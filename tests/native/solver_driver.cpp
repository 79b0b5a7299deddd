// The solver on random small problems against all their choices: every method, several best, infeasible ones, the
// front; and its parts, each by what it promises.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "chain.h"
#include "core.h"
#include "driver.h"
#include "front.h"
#include "many.h"
#include "planes.h"
#include "prices.h"
#include "solve.h"
#include "solver_cases.h"
#include "swaps.h"

namespace {

using namespace dna_fast;

constexpr unsigned kInstances = 400;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_solve(const Instance& instance, unsigned seed, Method method, size_t top_k) {
    const Problem problem(instance.data());
    Limit limit;
    const Solution solution = solve(problem, {method, top_k, 8'000'000, 4096}, limit);
    const std::vector<Point> expected = instance.best(top_k);
    const Status status = expected.empty() ? Status::infeasible : Status::optimal;
    expect(solution.status == status, "seed ", seed, ": expected ", name(status), ", got ", name(solution.status));
    expect(solution.best.size() == expected.size(), "seed ", seed, ": expected ", expected.size(), " choices, got ",
           solution.best.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        const Candidate& found = solution.best[i];
        expect(Point{found.loss, found.choice, found.costs} == expected[i], "seed ", seed, ": choice number ", i,
               " has loss ", found.loss, ", expected ", expected[i].loss, " or an earlier choice");
    }
}

void check_front(const Instance& instance, unsigned seed) {
    Limit limit;
    const Front front = pareto_front(Problem(instance.data()), {1'000'000, 0}, limit);
    const auto expected = instance.front();
    expect(front.loss.size() == expected.size(), "seed ", seed, ": expected ", expected.size(), " points, got ",
           front.loss.size());
    size_t f = 0;
    for (const auto& [vector, choice] : expected) {
        std::vector<int64_t> costs;
        for (const std::vector<int64_t>& column : front.costs) costs.push_back(column[f]);
        expect(std::pair(costs, front.loss[f]) == vector && front.choices[f] == choice, "seed ", seed, ": point ", f,
               " of the front differs");
        ++f;
    }
}

// A wider beam is never worse, and what it says is true.
void check_beam(const Instance& instance, unsigned seed) {
    const std::vector<Point> best = instance.best(1);
    double loss = kInfinity, bound = -kInfinity;
    for (size_t width : {1, 2, 4, 16, 64}) {
        Limit limit;
        const Solution solution = solve(Problem(instance.data()), {Method::beam, 1, 8'000'000, width}, limit);
        const double found = solution.best.empty() ? kInfinity : solution.best[0].loss;
        expect(found <= loss && solution.bound >= bound, "seed ", seed, ": a beam of ", width, " is worse than before");
        loss = found;
        bound = solution.bound;
        const double optimum = best.empty() ? kInfinity : best[0].loss;
        expect(bound <= optimum && optimum <= loss, "seed ", seed, ": optimum ", optimum, " is not in [", bound, ", ",
               loss, "], beam of ", width);
        const bool settled = solution.status == Status::optimal || solution.status == Status::infeasible;
        expect(!settled || found == optimum, "seed ", seed, ": a beam of ", width, " proves what is not so");
    }
}

// Totals of all choices within the caps of a chain; chain indices are the caller's.
std::vector<Totals> fitting(const Instance& instance, const Chain& chain) {
    std::vector<Totals> result;
    for (const Point& point : instance.points()) {
        bool allowed = true;
        uint32_t row = 0;
        for (size_t b = 0; b < chain.size(); ++b) {
            allowed = allowed && chain.blocks[b].allowed(row, point.choice[b]);
            row = chain.blocks[b].next_row(point.choice[b]);
        }
        Totals totals = totals_of(chain, point.choice);
        if (allowed && totals.within(chain.cap)) result.push_back(std::move(totals));
    }
    return result;
}

// A front that may hold few points covers every choice: loses no more, costs at most 1 + epsilon times as much.
void check_epsilon_front(const Instance& instance, unsigned seed) {
    const double epsilon = 0.3;
    for (size_t most : {size_t{1}, size_t{4}, size_t{1000}}) {
        Limit limit;
        Front front;
        try {
            front = pareto_front(Problem(instance.data()), {most, epsilon}, limit);
        } catch (const FrontTooLarge&) {
            expect(most < 1000, "seed ", seed, ": a front of few points is too large");
            continue;
        }
        expect(front.loss.size() <= most, "seed ", seed, ": more than ", most, " points");
        for (const Point& point : instance.points()) {
            bool covered = false;
            for (size_t f = 0; f < front.loss.size() && !covered; ++f) {
                covered = front.loss[f] <= point.loss;
                for (size_t c = 0; c < front.costs.size(); ++c) {
                    const double most_cost = (1 + front.epsilon) * static_cast<double>(point.costs[c]);
                    covered = covered && static_cast<double>(front.costs[c][f]) <= most_cost * (1 + 1e-12);
                }
            }
            expect(covered, "seed ", seed, ": a choice that loses ", point.loss, " is not covered");
        }
    }
}

// Many budgets at once: the answers that each gets alone, whatever the threads.
void check_many(const Instance& instance, unsigned seed) {
    const Problem problem(instance.data());
    std::vector<std::vector<BudgetEnds>> budgets;
    for (size_t q = 0; q < 5; ++q) {
        std::vector<BudgetEnds>& ends = budgets.emplace_back();
        const Point& anchor = instance.points()[(q * 7919 + seed) % instance.points().size()];
        for (size_t c = 0; c < problem.costs().size(); ++c) {
            ends.push_back({});
            if ((q + c) % 3 != 0) ends.back().upper = anchor.costs[c] - static_cast<int64_t>(q == 4);
            if ((q + c) % 4 == 0) ends.back().lower = anchor.costs[c];
        }
    }
    for (size_t top_k : {1, 3}) {
        const SolveOptions options{std::nullopt, top_k, 8'000'000, 4096};
        for (size_t threads : {1, 3}) {
            Limit limit;
            const std::vector<Solution> together = solve_many(problem, budgets, options, threads, limit);
            for (size_t q = 0; q < budgets.size(); ++q) {
                ProblemData data = instance.data();
                for (size_t c = 0; c < data.costs.size(); ++c) {
                    data.costs[c].lower = budgets[q][c].lower;
                    data.costs[c].upper = budgets[q][c].upper;
                }
                const Solution alone = solve(Problem(std::move(data)), options, limit);
                const auto same = [](const Candidate& a, const Candidate& b) {
                    return a.loss == b.loss && a.choice == b.choice && a.costs == b.costs;
                };
                expect(
                    together[q].status == alone.status && std::equal(together[q].best.begin(), together[q].best.end(),
                                                                     alone.best.begin(), alone.best.end(), same),
                    "seed ", seed, ": question ", q, " of many has another answer than alone, top ", top_k);
                expect(together[q].smallest_feasible == alone.smallest_feasible, "seed ", seed, ": question ", q,
                       " of many has other smallest feasible ends");
            }
        }
    }
}

// The bound is below every choice, no sampled prices raise it much, and fixing keeps every choice it must.
void check_bound(const Instance& instance, unsigned seed) {
    const Problem problem(instance.data());
    const Chain chain = make_chain(problem);
    const std::vector<Totals> choices = fitting(instance, chain);
    if (choices.empty()) return;
    Limit limit;
    const PricedBound bound = improve_prices(chain, limit).bound;
    double least = kInfinity, most = -kInfinity;
    for (const Totals& totals : choices) {
        least = std::min(least, totals.loss);
        most = std::max(most, totals.loss);
    }
    expect(bound.root - bound.slack <= least, "seed ", seed, ": bound ", bound.root, " above the optimum ", least);

    std::mt19937_64 random(seed);
    std::exponential_distribution<double> factor(1.0);
    for (int sample = 0; sample < 20; ++sample) {
        std::vector<double> price = bound.price;
        for (double& p : price) p = p > 0 ? p * factor(random) : factor(random) * 1e-3;
        const PricedBound other = priced_bound(chain, std::move(price));
        const double tolerance = 1e-2 * (least - bound.root) + 1e-6 * chain.loss_magnitude() + other.slack;
        expect(other.root <= bound.root + tolerance, "seed ", seed, ": prices at random give ", other.root,
               ", improved ones ", bound.root);
    }

    const double bar = least + 0.3 * (most - least);
    const auto keep = promising_candidates(chain, bound, bar);
    for (const Totals& totals : choices) {
        for (size_t b = 0; b < chain.size() && totals.loss <= bar; ++b) {
            expect(std::binary_search(keep[b].begin(), keep[b].end(), totals.choice[b]), "seed ", seed, ": block ", b,
                   " lost candidate ", totals.choice[b], " of a choice that loses ", totals.loss, " <= ", bar);
        }
    }
}

// From any choice, exchanges never make it worse, keep it within the caps, and end where no two blocks can do better.
void check_swaps(const Instance& instance, unsigned seed) {
    const Problem problem(instance.data());
    const Chain chain = make_chain(problem);
    const std::vector<Totals> choices = fitting(instance, chain);
    Limit limit;
    const PricedBound bound = priced_bound(chain, std::vector<double>(chain.resources(), 0.0));
    for (size_t start = 0; start < choices.size(); start += 1 + choices.size() / 4) {
        Totals totals = choices[start];
        improve_by_swaps(chain, bound, totals, limit);
        expect(totals.loss <= choices[start].loss && totals.within(chain.cap), "seed ", seed, ": worse after swaps");
        for (const Totals& other : choices) {
            size_t changed = 0;
            bool same_labels = true;
            for (size_t b = 0; b < chain.size(); ++b) {
                const ChainBlock& block = chain.blocks[b];
                changed += other.choice[b] != totals.choice[b];
                same_labels = same_labels && block.next_row(other.choice[b]) == block.next_row(totals.choice[b]);
            }
            // Changes of loss are added up on their own, and may round away what is less than this.
            const double rounding = 64 * 0x1p-53 * chain.loss_magnitude();
            expect(changed > 2 || !same_labels || other.loss >= totals.loss - rounding, "seed ", seed,
                   ": swaps stopped at ", totals.loss, " where two blocks give ", other.loss);
        }
    }
}

// The peak is on a plane, below all of them, and no point sampled in the box is higher.
void check_planes(unsigned seed) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> unit(-1.0, 1.0);
    const size_t dimensions = 1 + seed % 5;
    Planes planes(dimensions);
    std::vector<std::vector<double>> slopes;
    std::vector<double> constants;
    Planes::Box box{std::vector<double>(dimensions, 0.0), std::vector<double>(dimensions, 2.0)};
    const auto least = [&](const std::vector<double>& at) {
        double result = kInfinity;
        for (size_t k = 0; k < slopes.size(); ++k) {
            double value = constants[k];
            for (size_t d = 0; d < dimensions; ++d) value += slopes[k][d] * at[d];
            result = std::min(result, value);
        }
        return result;
    };
    for (int k = 0; k < 40; ++k) {
        constants.push_back(unit(random));
        slopes.emplace_back();
        for (size_t d = 0; d < dimensions; ++d) slopes.back().push_back(k % 3 == 0 ? 0.0 : unit(random));
        if (k % 4 == 0 && k > 0) slopes.back() = slopes[slopes.size() / 2], constants.back() = constants.front();
        planes.add(constants.back(), slopes.back());
        for (size_t d = 0; d < dimensions; ++d) box.lower[d] = k % 2 == 0 ? 0.0 : 0.5;
        const auto peak = planes.peak(box);
        expect(peak.has_value(), "seed ", seed, ": no peak of ", k + 1, " planes");
        expect(std::abs(peak->height - least(peak->at)) < 1e-7, "seed ", seed, ": height ", peak->height,
               " where the least plane is at ", least(peak->at));
        for (int sample = 0; sample < 50; ++sample) {
            std::vector<double> at;
            for (size_t d = 0; d < dimensions; ++d) {
                at.push_back(box.lower[d] + (unit(random) + 1) / 2 * (box.upper[d] - box.lower[d]));
            }
            expect(least(at) <= peak->height + 1e-7, "seed ", seed, ": a point of ", least(at), " above the peak of ",
                   peak->height);
        }
    }
}

}  // namespace

int main() {
    unsigned infeasible = 0;
    for (unsigned seed = 0; seed < kInstances; ++seed) {
        const Instance instance(seed);
        infeasible += instance.best(1).empty();
        for (Method method : {Method::front, Method::branch_and_bound}) {
            for (size_t top_k : {size_t{1}, size_t{2 + seed % 6}}) check_solve(instance, seed, method, top_k);
        }
        check_beam(instance, seed);
        check_front(instance, seed);
        check_epsilon_front(instance, seed);
        if (seed % 8 == 0) check_many(instance, seed);
        check_bound(instance, seed);
        check_swaps(instance, seed);
        check_planes(seed);
    }
    expect(infeasible > kInstances / 8 && infeasible < kInstances / 2, "of the instances ", infeasible,
           " are infeasible");
    std::cout << kInstances << " instances, " << infeasible << " infeasible\n";
}
