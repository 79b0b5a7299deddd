// Dominance that spares near ties: the filter behind the complete Pareto front.
//
// Point i replaces j when i is no larger in any column and, for every row,
//   i has the smaller index, or a strictly smaller sum-type cost, or a loss smaller by more than the rounding slack.
// Otherwise a common completion can make equal vectors of the two, and then the smaller index must win. The relation is
// transitive, so one pass over the points in lexicographic order against the kept ones finds all that nothing replaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dominance.h"

namespace dna_fast {

struct TieColumns {
    struct Row {
        std::vector<size_t> sums;  // columns of sum-type costs
        size_t loss;               // column of the loss, as an ordered.h key
    };
    std::vector<Row> rows;
    double slack = 0;
};

// Indices that nothing replaces, ascending; as in undominated(), more than those when the limit comes.
std::vector<uint32_t> unreplaced(const Points& points, const TieColumns& ties, Limit& limit);

}  // namespace dna_fast
