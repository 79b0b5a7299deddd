#include "near_ties.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "kept_tree.h"
#include "ordered.h"

namespace dna_fast {
namespace {

// The least loss among points of smaller or equal sums, for up to two sums when the points come in lexicographic order.
class LeastLoss {
  public:
    explicit LeastLoss(size_t sums) : sums_(sums) {}

    int64_t up_to(const int64_t* point) const {
        auto after = stairs_.upper_bound(step(point));
        return after == stairs_.begin() ? std::numeric_limits<int64_t>::max() : std::prev(after)->second;
    }

    void add(const int64_t* point, int64_t loss) {
        if (up_to(point) <= loss) return;
        auto after = stairs_.upper_bound(step(point));
        while (after != stairs_.end() && after->second >= loss) after = stairs_.erase(after);
        stairs_.insert_or_assign(step(point), loss);
    }

  private:
    // The first sum is behind the order of the points; only a second one needs a look.
    int64_t step(const int64_t* point) const { return sums_ < 2 ? 0 : point[1]; }

    size_t sums_;
    std::map<int64_t, int64_t> stairs_;
};

// Columns are up to two sums and the loss of one row: points of equal sums come together, and every earlier point with
// no larger sums has a strictly smaller one.
std::vector<uint32_t> by_groups(const Points& points, const std::vector<uint32_t>& order, double slack) {
    const size_t sums = points.columns - 1;
    std::vector<uint32_t> kept;
    LeastLoss earlier(sums);
    for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
        const int64_t* first = points[order[begin]];
        const int64_t bar = earlier.up_to(first);
        uint32_t smallest_index = std::numeric_limits<uint32_t>::max();
        for (end = begin; end < order.size() && std::equal(first, first + sums, points[order[end]]); ++end) {
            const uint32_t i = order[end];
            const int64_t loss = points[i][sums];
            if (bar <= loss || smallest_index < i || from_key(loss) - from_key(first[sums]) > slack) continue;
            smallest_index = i;
            kept.push_back(i);
        }
        earlier.add(first, first[sums]);
    }
    return kept;
}

bool strictly_better(const TieColumns::Row& row, const int64_t* better, const int64_t* worse, double slack) {
    for (size_t c : row.sums) {
        if (better[c] < worse[c]) return true;
    }
    return from_key(worse[row.loss]) - from_key(better[row.loss]) > slack;
}

bool replaces(const Points& points, const TieColumns& ties, uint32_t i, uint32_t j) {
    if (i < j) return true;
    return std::all_of(ties.rows.begin(), ties.rows.end(), [&](const TieColumns::Row& row) {
        return strictly_better(row, points[i], points[j], ties.slack);
    });
}

std::vector<uint32_t> by_scan(const Points& points, const std::vector<uint32_t>& order, const TieColumns& ties,
                              Limit& limit) {
    std::vector<uint32_t> kept;
    KeptTree tree(points.data, points.size, points.columns, limit);
    for (uint32_t j : order) {
        if (limit.reached()) {
            kept.push_back(j);
            continue;
        }
        bool replaced = false;
        tree.visit_dominators(points[j], [&](uint32_t i) { return replaced = replaces(points, ties, i, j); });
        if (replaced) continue;
        tree.keep(j);
        kept.push_back(j);
    }
    return kept;
}

}  // namespace

std::vector<uint32_t> unreplaced(const Points& points, const TieColumns& ties, Limit& limit) {
    std::optional<std::vector<uint32_t>> order = lexicographic_order(points, limit);
    if (!order) {
        order.emplace(points.size);
        std::iota(order->begin(), order->end(), 0);
        return *std::move(order);
    }
    const bool groups = ties.rows.size() == 1 && ties.rows[0].sums.size() + 1 == points.columns && points.columns <= 3;
    std::vector<uint32_t> kept = groups ? by_groups(points, *order, ties.slack) : by_scan(points, *order, ties, limit);
    std::sort(kept.begin(), kept.end());
    return kept;
}

}  // namespace dna_fast
