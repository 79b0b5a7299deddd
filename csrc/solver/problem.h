// What the caller hands in: a multiple-choice knapsack on a chain, as views of the caller's arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dna_fast {

// One array of one block: [n], or [rows, n] where row r holds when the previous block shows label r.
template <class T>
struct Column {
    const T* data = nullptr;
    uint32_t rows = 1;
    size_t size = 0;  // n

    const T* row(uint32_t r) const { return data + (rows == 1 ? 0 : r * size); }
    T at(uint32_t r, size_t candidate) const { return row(r)[candidate]; }
};

enum class Reduce { sum, max };

struct Cost {
    std::string name;
    Reduce reduce = Reduce::sum;
    std::vector<Column<int64_t>> blocks;
    std::optional<int64_t> lower, upper;  // the budget, both ends inclusive; neither: reported only
};

struct ProblemData {
    std::vector<Column<double>> losses;         // one per block
    std::vector<std::vector<uint32_t>> labels;  // per block [n], codes 0, 1, ...; empty: all candidates show label 0
    std::vector<Cost> costs;
};

// A checked ProblemData. The arrays stay the caller's and must outlive it.
class Problem {
  public:
    // Throws std::invalid_argument when shapes disagree, a label has no row, a loss is not finite, a cost is negative,
    // or a sum of losses or costs could leave its type.
    explicit Problem(ProblemData data);

    size_t blocks() const { return data_.losses.size(); }
    size_t candidates(size_t block) const { return data_.losses[block].size; }
    // Rows of `block` = labels of the block before it that matter; labels nobody reads are merged into one.
    uint32_t rows(size_t block) const { return rows_[block]; }
    // Label that a candidate shows to the next block, as a row of the next block.
    uint32_t label(size_t block, size_t candidate) const {
        return labels_used_[block] ? data_.labels[block][candidate] : 0;
    }
    const Column<double>& losses(size_t block) const { return data_.losses[block]; }
    const std::vector<Column<double>>& losses() const { return data_.losses; }
    const std::vector<Cost>& costs() const { return data_.costs; }
    // Sum over blocks of the largest value: no choice costs more in a sum-type cost.
    int64_t largest_total(size_t cost) const { return largest_totals_[cost]; }

    // The same problem with another objective (one [n] or [rows, n] array a block) or other budgets.
    Problem with(std::vector<Column<double>> losses, std::vector<Cost> costs) const;

    // Loss of a choice, float64, added in block order; what every reported loss is.
    double loss_of(const std::vector<uint32_t>& choice) const;
    int64_t cost_of(size_t cost, const std::vector<uint32_t>& choice) const;

  private:
    void check_losses() const;
    void check_cost(const Cost& cost);
    void check_rows();

    ProblemData data_;
    std::vector<uint32_t> rows_;
    std::vector<char> labels_used_;
    std::vector<int64_t> largest_totals_;
};

}  // namespace dna_fast
