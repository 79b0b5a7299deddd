// Random small problems for the solver, with all their choices.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "problem.h"

namespace dna_fast {

struct Point {
    double loss;
    std::vector<uint32_t> choice;
    std::vector<int64_t> costs;

    bool operator==(const Point&) const = default;
    bool operator<(const Point& other) const { return std::tie(loss, choice) < std::tie(other.loss, other.choice); }
};

// A problem and the arrays that it points into, each allocated exactly to size.
class Instance {
  public:
    explicit Instance(unsigned seed) : random_(seed) {
        const size_t blocks = 1 + below(5);
        for (size_t b = 0; b < blocks; ++b) sizes_.push_back(1 + below(4));
        kinds_ = 1 + below(3);
        for (size_t size : sizes_) {
            std::vector<uint32_t>& labels = data_.labels.emplace_back();
            for (size_t i = 0; i < size; ++i) labels.push_back(static_cast<uint32_t>(below(kinds_)));
        }
        // Plain numbers, many ties, sums that round, magnitudes that swallow each other.
        const std::vector<std::vector<double>> pools = {
            {}, {0.1, 0.2, 0.3, 10.0}, {-0.3, -0.1, 0.0, 0.1, 0.2}, {1e16, 1.0, 0.3, -1e16, 2.0}};
        const std::vector<double>& pool = pools[below(pools.size())];
        const auto loss = [&] {
            return pool.empty() ? static_cast<double>(below(1u << 20)) * 0x1p-20 : pool[below(pool.size())];
        };
        for (size_t b = 0; b < blocks; ++b) data_.losses.push_back(column<double>(b, losses_, loss));
        const size_t costs = 1 + below(3);
        for (size_t c = 0; c < costs; ++c) {
            Cost& cost = data_.costs.emplace_back();
            cost.name = "cost" + std::to_string(c);
            cost.reduce = below(4) == 0 ? Reduce::max : Reduce::sum;
            const size_t top = std::vector<size_t>{2, 10, 1000}[below(3)];
            for (size_t b = 0; b < blocks; ++b) {
                cost.blocks.push_back(column<int64_t>(b, costs_, [&] { return static_cast<int64_t>(below(top)); }));
            }
        }
        enumerate();
        // Around one choice's costs, so that it fits; or one below the least, so that nothing does.
        const Point& anchor = points_[below(points_.size())];
        for (size_t c = 0; c < costs; ++c) {
            if (below(5) == 0) continue;
            data_.costs[c].upper = anchor.costs[c];
            if (below(4) == 0) data_.costs[c].lower = anchor.costs[c] - static_cast<int64_t>(below(3));
            if (seed % 4 == 0) data_.costs[c].upper = least(c) - 1;
        }
    }

    const ProblemData& data() const { return data_; }
    const std::vector<Point>& points() const { return points_; }  // every choice, in lexicographic order

    std::vector<Point> best(size_t count) const {
        std::vector<Point> fitting;
        std::copy_if(points_.begin(), points_.end(), std::back_inserter(fitting),
                     [&](const Point& point) { return fits(point); });
        std::sort(fitting.begin(), fitting.end());
        fitting.resize(std::min(count, fitting.size()));
        return fitting;
    }

    // Undominated (costs, loss) -> the first choice that attains it.
    std::map<std::pair<std::vector<int64_t>, double>, std::vector<uint32_t>> front() const {
        std::map<std::pair<std::vector<int64_t>, double>, std::vector<uint32_t>> first, undominated;
        for (const Point& point : points_) first.try_emplace({point.costs, point.loss}, point.choice);
        for (const auto& [vector, choice] : first) {
            const bool dominated = std::any_of(first.begin(), first.end(), [&, &mine = vector](const auto& other) {
                const auto& [costs, loss] = other.first;
                if (other.first == mine || loss > mine.second) return false;
                return std::equal(costs.begin(), costs.end(), mine.first.begin(), std::less_equal<>());
            });
            if (!dominated) undominated.emplace(vector, choice);
        }
        return undominated;
    }

  private:
    size_t below(size_t end) { return random_() % end; }

    // One row, or one per label of the block before.
    template <class T, class Draw>
    Column<T> column(size_t block, std::deque<std::vector<T>>& arrays, const Draw& draw) {
        const auto rows = static_cast<uint32_t>(block > 0 && below(2) == 0 ? kinds_ : 1);
        std::vector<T>& array = arrays.emplace_back();
        array.reserve(rows * sizes_[block]);
        for (size_t i = 0; i < rows * sizes_[block]; ++i) array.push_back(draw());
        return {array.data(), rows, sizes_[block]};
    }

    void enumerate() {
        std::vector<uint32_t> choice(sizes_.size(), 0);
        for (;;) {
            points_.push_back(evaluate(choice));
            size_t b = sizes_.size();
            while (b > 0 && ++choice[b - 1] == sizes_[b - 1]) choice[--b] = 0;
            if (b == 0) return;
        }
    }

    Point evaluate(const std::vector<uint32_t>& choice) const {
        Point point{0.0, choice, std::vector<int64_t>(data_.costs.size(), 0)};
        for (size_t b = 0; b < choice.size(); ++b) {
            const auto value = [&](const auto& column) {
                const size_t row = column.rows > 1 ? data_.labels[b - 1][choice[b - 1]] : 0;
                return column.data[row * sizes_[b] + choice[b]];
            };
            point.loss += value(data_.losses[b]);
            for (size_t c = 0; c < data_.costs.size(); ++c) {
                const int64_t cost = value(data_.costs[c].blocks[b]);
                int64_t& total = point.costs[c];
                total = data_.costs[c].reduce == Reduce::max ? std::max(total, cost) : total + cost;
            }
        }
        return point;
    }

    int64_t least(size_t cost) const {
        int64_t least = points_.front().costs[cost];
        for (const Point& point : points_) least = std::min(least, point.costs[cost]);
        return least;
    }

    bool fits(const Point& point) const {
        for (size_t c = 0; c < data_.costs.size(); ++c) {
            const Cost& cost = data_.costs[c];
            if ((cost.lower && point.costs[c] < *cost.lower) || (cost.upper && point.costs[c] > *cost.upper))
                return false;
        }
        return true;
    }

    std::mt19937_64 random_;
    std::vector<size_t> sizes_;
    size_t kinds_;  // of labels
    std::deque<std::vector<double>> losses_;
    std::deque<std::vector<int64_t>> costs_;
    ProblemData data_;
    std::vector<Point> points_;
};

}  // namespace dna_fast
