// The problem in the one form that all algorithms read: minimise the loss while every resource, a sum over blocks of
// whole numbers that may be negative, stays at or below its cap.
//
//   sum-type cost, upper U     use = cost              cap = U
//   sum-type cost, lower L     use = -cost             cap = -L
//   max-type cost, upper U     candidates above U are forbidden, no resource
//   max-type cost, lower L     use = -[cost >= L]      cap = -1
//
// So "fewer is better" holds in every resource, and a cost with both ends is two resources, which is what makes
// dominance two-sided there. Budgets that no choice can break leave no resource.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "problem.h"

namespace dna_fast {

struct ChainBlock {
    size_t size = 0;              // candidates
    uint32_t rows = 1;            // labels of the block before
    std::vector<uint32_t> index;  // [size] the caller's candidate indices, ascending; empty: all of them
    std::vector<uint32_t> label;  // [size] row of the next block; empty: 0
    std::vector<char> forbidden;  // [rows, size] over a max-type upper budget; empty: none
    Column<double> loss;
    std::vector<Column<int64_t>> use;  // one per resource

    uint32_t original(size_t i) const { return index.empty() ? static_cast<uint32_t>(i) : index[i]; }
    uint32_t next_row(size_t i) const { return label.empty() ? 0 : label[i]; }
    bool allowed(uint32_t row, size_t i) const { return forbidden.empty() || !forbidden[row * size + i]; }
};

struct Chain {
    std::vector<ChainBlock> blocks;
    std::vector<int64_t> cap;  // one per resource
    // Columns that are not the caller's own arrays point into these; deque, so that growing moves nothing.
    std::deque<std::vector<double>> owned_losses;
    std::deque<std::vector<int64_t>> owned_uses;

    Chain() = default;
    Chain(Chain&&) = default;
    Chain& operator=(Chain&&) = default;

    size_t size() const { return blocks.size(); }
    size_t resources() const { return cap.size(); }
    // Rows at border b: labels after b blocks; 1 before the first and after the last.
    uint32_t rows(size_t border) const { return border < blocks.size() ? blocks[border].rows : 1; }
    // Upper limit of |any partial sum of losses|.
    double loss_magnitude() const;
    // The caller's indices of a choice.
    std::vector<uint32_t> original(std::vector<uint32_t> choice) const;
};

// Budgets become resources. The chain reads the problem's arrays, which must outlive it.
Chain make_chain(const Problem& problem);

// The chain of the candidates in `keep` (per block, ascending); its columns are copies.
Chain gather(const Chain& chain, const std::vector<std::vector<uint32_t>>& keep);

// Least and largest sum that blocks b, b+1, ... add to each resource, per row of block b; of allowed candidates.
struct Extremes {
    size_t resources = 0;
    std::vector<std::vector<int64_t>> least, largest;  // [border][row * resources + r]
    std::vector<std::vector<char>> reachable;          // [border][row] whether any allowed completion exists
};
Extremes suffix_extremes(const Chain& chain);

}  // namespace dna_fast
