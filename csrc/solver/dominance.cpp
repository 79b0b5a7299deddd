#include "dominance.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <queue>

#include "kept_tree.h"
#include "ordered.h"

namespace dna_fast {
namespace {

constexpr size_t worth_watching = 1 << 17;  // sorting fewer points takes about ten milliseconds

// Two columns: the dominators of a point come before it; it is out once `copies` of them are no larger in the second.
std::vector<uint32_t> sweep(const Points& points, const std::vector<uint32_t>& order, size_t copies, Limit& limit) {
    std::vector<uint32_t> kept;
    std::priority_queue<int64_t> smallest;  // the `copies` smallest second columns so far
    for (uint32_t i : order) {
        const int64_t value = points[i][1];
        if (smallest.size() == copies && !limit.reached()) {
            if (smallest.top() <= value) continue;
            smallest.pop();
        }
        smallest.push(value);
        kept.push_back(i);
    }
    return kept;
}

// Three columns, one copy: the kept points, seen in the last two columns, form a falling staircase.
std::vector<uint32_t> staircase(const Points& points, const std::vector<uint32_t>& order, Limit& limit) {
    std::vector<uint32_t> kept;
    std::map<int64_t, int64_t> stairs;  // second column -> least third column up to there
    for (uint32_t i : order) {
        if (limit.reached()) {
            kept.push_back(i);
            continue;
        }
        const int64_t second = points[i][1], third = points[i][2];
        auto after = stairs.upper_bound(second);
        if (after != stairs.begin() && std::prev(after)->second <= third) continue;
        kept.push_back(i);
        while (after != stairs.end() && after->second >= third) after = stairs.erase(after);
        stairs.insert_or_assign(second, third);
    }
    return kept;
}

std::vector<uint32_t> scan(const Points& points, const std::vector<uint32_t>& order, size_t copies, Limit& limit) {
    std::vector<uint32_t> kept;
    KeptTree tree(points.data, points.size, points.columns, limit);
    for (uint32_t i : order) {
        size_t dominators = 0;
        if (limit.reached()) {
            kept.push_back(i);
            continue;
        }
        tree.visit_dominators(points[i], [&](uint32_t) { return ++dominators == copies; });
        if (dominators == copies) continue;
        tree.keep(i);
        kept.push_back(i);
    }
    return kept;
}

template <class T>
bool rows_agree(const Column<T>& column) {
    for (uint32_t row = 1; row < column.rows; ++row) {
        if (!std::equal(column.data, column.data + column.size, column.data + row * column.size)) return false;
    }
    return true;
}

}  // namespace

std::optional<std::vector<uint32_t>> lexicographic_order(const Points& points, Limit& limit) {
    // The first two columns travel with the index: they decide nearly every comparison without a look at the points.
    struct Item {
        int64_t first, second;
        uint32_t index;
    };
    std::vector<Item> items;
    items.reserve(points.size);
    for (size_t i = 0; i < points.size; ++i) {
        if (limit.reached(points.size < worth_watching ? 0 : 1)) return std::nullopt;
        items.push_back({points[i][0], points.columns > 1 ? points[i][1] : 0, static_cast<uint32_t>(i)});
    }
    const auto less = [&](const Item& a, const Item& b) {
        if (a.first != b.first) return a.first < b.first;
        if (a.second != b.second) return a.second < b.second;
        for (size_t c = 2; c < points.columns; ++c) {
            if (points[a.index][c] != points[b.index][c]) return points[a.index][c] < points[b.index][c];
        }
        return a.index < b.index;
    };
    const auto sort = [&](auto compare) { std::sort(items.begin(), items.end(), compare); };
    if (items.size() < worth_watching) {
        sort(less);
    } else if (!limit.sort_unless_reached(less, sort)) {
        return std::nullopt;
    }
    std::vector<uint32_t> order(points.size);
    for (size_t i = 0; i < points.size; ++i) order[i] = items[i].index;
    return order;
}

std::vector<uint32_t> undominated(const Points& points, size_t copies, Limit& limit) {
    std::optional<std::vector<uint32_t>> order = lexicographic_order(points, limit);
    if (!order) {
        order.emplace(points.size);
        std::iota(order->begin(), order->end(), 0);
        return *std::move(order);
    }
    if (points.columns == 1) {
        order->resize(std::min(order->size(), copies));
        return *std::move(order);
    }
    if (points.columns == 2) return sweep(points, *order, copies, limit);
    if (points.columns == 3 && copies == 1) return staircase(points, *order, limit);
    return scan(points, *order, copies, limit);
}

CandidatePoints candidate_points(const ChainBlock& block, const std::vector<uint32_t>& members) {
    constexpr int64_t largest = std::numeric_limits<int64_t>::max();
    CandidatePoints points;
    std::vector<std::vector<int64_t>> columns;
    const auto add = [&](const auto& column, auto key) {
        // Rows that agree need one column, unless a forbidden entry sets one of them apart.
        const bool once = block.forbidden.empty() && (column.rows == 1 || rows_agree(column));
        auto& column_of = points.column_of.emplace_back();
        for (uint32_t row = 0; row < block.rows; ++row) {
            column_of.push_back(once && row > 0 ? column_of[0] : columns.size());
            if (once && row > 0) continue;
            auto& values = columns.emplace_back();
            for (uint32_t i : members) values.push_back(block.allowed(row, i) ? key(column.at(row, i)) : largest);
        }
    };
    for (const auto& use : block.use) add(use, [](int64_t value) { return value; });
    add(block.loss, [](double value) { return to_key(value); });

    points.columns = columns.size();
    points.data.resize(members.size() * columns.size());
    for (size_t c = 0; c < columns.size(); ++c) {
        for (size_t i = 0; i < members.size(); ++i) points.data[i * columns.size() + c] = columns[c][i];
    }
    return points;
}

std::vector<std::vector<uint32_t>> members_by_label(const ChainBlock& block, uint32_t labels) {
    std::vector<std::vector<uint32_t>> members(labels);
    for (size_t i = 0; i < block.size; ++i) {
        bool allowed = false;
        for (uint32_t row = 0; row < block.rows && !allowed; ++row) allowed = block.allowed(row, i);
        if (allowed) members[block.next_row(i)].push_back(static_cast<uint32_t>(i));
    }
    return members;
}

std::vector<std::vector<uint32_t>> undominated_candidates(const Chain& chain, size_t copies, Limit& limit) {
    std::vector<std::vector<uint32_t>> keep(chain.size());
    for (size_t b = 0; b < chain.size(); ++b) {
        for (const auto& members : members_by_label(chain.blocks[b], chain.rows(b + 1))) {
            const CandidatePoints points = candidate_points(chain.blocks[b], members);
            for (uint32_t i : undominated({points.data.data(), members.size(), points.columns}, copies, limit)) {
                keep[b].push_back(members[i]);
            }
        }
        std::sort(keep[b].begin(), keep[b].end());
    }
    return keep;
}

}  // namespace dna_fast
