// Finds, among points kept so far, those that dominate a given one, in any number of columns.
//
// All points are known beforehand, so they are laid out as a k-d tree: each level halves them by another column, and
// each node holds the lower corner of those of its points that have been kept. What lies under a corner that is not
// below the given point is skipped.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "limit.h"

namespace dna_fast {

inline bool no_larger(const int64_t* left, const int64_t* right, size_t columns) {
    for (size_t c = 0; c < columns; ++c) {
        if (left[c] > right[c]) return false;
    }
    return true;
}

class KeptTree {
  public:
    // Points [size, columns], which must outlive this; none is kept yet. They will be kept and asked for in ascending
    // order of the first column, which therefore says nothing. Not to be used once the limit has come.
    KeptTree(const int64_t* data, size_t size, size_t columns, Limit& limit)
        : data_(data), columns_(columns), order_(size), place_(size), kept_(size, 0) {
        std::iota(order_.begin(), order_.end(), 0);
        build(root(), 0, limit);
        for (uint32_t at = 0; at < size; ++at) place_[order_[at]] = at;
    }

    void keep(uint32_t id) {
        const int64_t* point = data_ + id * columns_;
        const size_t at = place_[id];
        kept_[at] = 1;
        for (Node node = root();; node = at < node.middle() ? node.left() : node.right()) {
            int64_t* corner = corners_.data() + node.index * columns_;
            for (size_t c = 0; c < columns_; ++c) corner[c] = std::min(corner[c], point[c]);
            if (node.is_leaf()) return;
        }
    }

    // Calls visit(id) for kept points no larger than `point` in any column until it returns true.
    template <class Visit>
    void visit_dominators(const int64_t* point, Visit visit) const {
        Node stack[most_levels];
        size_t height = 0;
        for (stack[height++] = root(); height > 0;) {
            const Node node = stack[--height];
            if (!no_larger(corners_.data() + node.index * columns_, point, columns_)) continue;
            if (!node.is_leaf()) {
                stack[height++] = node.right();
                stack[height++] = node.left();
                continue;
            }
            for (size_t at = node.begin; at < node.end; ++at) {
                const uint32_t id = order_[at];
                if (kept_[at] && no_larger(data_ + id * columns_, point, columns_) && visit(id)) return;
            }
        }
    }

  private:
    static constexpr size_t leaf = 16;         // points; fewer are looked at one by one
    static constexpr size_t most_levels = 64;  // a level needs one place, and 32-bit numbers make 32 levels

    struct Node {
        size_t index, begin, end;

        bool is_leaf() const { return end - begin <= leaf; }
        size_t middle() const { return begin + (end - begin) / 2; }
        Node left() const { return {2 * index + 1, begin, middle()}; }
        Node right() const { return {2 * index + 2, middle(), end}; }
    };

    Node root() const { return {0, 0, order_.size()}; }

    void build(const Node& node, size_t level, Limit& limit) {
        if (corners_.size() < (node.index + 1) * columns_) {
            corners_.resize((node.index + 1) * columns_, std::numeric_limits<int64_t>::max());
        }
        if (node.is_leaf()) return;
        const size_t column = columns_ > 1 ? 1 + level % (columns_ - 1) : 0;
        const auto place = [&](size_t at) { return order_.begin() + static_cast<std::ptrdiff_t>(at); };
        const auto less = [&](uint32_t i, uint32_t j) {
            const int64_t a = data_[i * columns_ + column], b = data_[j * columns_ + column];
            return a != b ? a < b : i < j;
        };
        const bool halved = limit.sort_unless_reached(less, [&](auto compare) {
            std::nth_element(place(node.begin), place(node.middle()), place(node.end), compare);
        });
        if (!halved) return;
        build(node.left(), level + 1, limit);
        build(node.right(), level + 1, limit);
    }

    const int64_t* data_;
    size_t columns_;
    std::vector<uint32_t> order_, place_;  // ids as laid out, and where each is
    std::vector<char> kept_;               // as laid out
    std::vector<int64_t> corners_;         // [node, columns]
};

}  // namespace dna_fast
