// Which of many integer vectors are dominated: the one idea behind presolve, state fronts and Pareto fronts.
//
// A point i dominates j when it is no larger in any column; equal points dominate in the order of their indices.
// Losses take part as ordered.h keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "chain.h"
#include "limit.h"

namespace dna_fast {

struct Points {
    const int64_t* data = nullptr;  // [size, columns]
    size_t size = 0;
    size_t columns = 0;

    const int64_t* operator[](size_t i) const { return data + i * columns; }
};

// Indices in lexicographic order of the columns, equal points by index. Nothing: the limit came first.
std::optional<std::vector<uint32_t>> lexicographic_order(const Points& points, Limit& limit);

// Indices of the points that fewer than `copies` points dominate, in lexicographic order of their columns. Whatever is
// added to all columns of two points afterwards, the `copies` best sums of the kept are those of all: each point that
// is left out stands behind `copies` kept ones. O(n log n) up to two columns, or three with one copy; beyond, a scan of
// the kept points in a k-d tree, which can take long: when the limit comes, the points not yet looked at are kept, so
// the result is larger than it need be but never wrong.
std::vector<uint32_t> undominated(const Points& points, size_t copies, Limit& limit);

// Presolve: per block, the candidates that fewer than `copies` others replace: same label, and no worse in the loss
// and in every resource in every row. Ascending candidate indices.
std::vector<std::vector<uint32_t>> undominated_candidates(const Chain& chain, size_t copies, Limit& limit);

// Presolve's view of one block: candidates as points whose columns are each resource and then the loss, in each row
// (once where the rows agree). A forbidden entry is the largest value in every column of its row.
struct CandidatePoints {
    std::vector<int64_t> data;  // [members, columns]
    size_t columns = 0;
    std::vector<std::vector<size_t>> column_of;  // [resource, then the loss][row]
};
CandidatePoints candidate_points(const ChainBlock& block, const std::vector<uint32_t>& members);

// Candidates that any row allows, grouped by label.
std::vector<std::vector<uint32_t>> members_by_label(const ChainBlock& block, uint32_t labels);

}  // namespace dna_fast
