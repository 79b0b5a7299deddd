// Kept points in chunks with a common lower corner, and chunks of chunks: finds dominators in any number of columns by
// skipping what lies above.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dna_fast {

inline bool no_larger(const int64_t* left, const int64_t* right, size_t columns) {
    for (size_t c = 0; c < columns; ++c) {
        if (left[c] > right[c]) return false;
    }
    return true;
}

class Chunks {
  public:
    explicit Chunks(size_t columns) : columns_(columns) {}

    void add(const int64_t* point, uint32_t id) {
        lower_corner(corners_, chunk, point);
        lower_corner(outer_corners_, chunk * chunks, point);
        rows_.insert(rows_.end(), point, point + columns_);
        ids_.push_back(id);
    }

    // Calls visit(id) for points no larger than `point` in any column until it returns true.
    template <class Visit>
    void visit_dominators(const int64_t* point, Visit visit) const {
        for (size_t begin = 0; begin < ids_.size();) {
            if (begin % (chunk * chunks) == 0 && !below(outer_corners_, begin / (chunk * chunks), point)) {
                begin += chunk * chunks;
                continue;
            }
            const size_t end = std::min(begin + chunk, ids_.size());
            if (below(corners_, begin / chunk, point)) {
                for (size_t i = begin; i < end; ++i) {
                    if (below(rows_, i, point) && visit(ids_[i])) return;
                }
            }
            begin += chunk;
        }
    }

  private:
    static constexpr size_t chunk = 32;   // small enough that a corner still says something about its members
    static constexpr size_t chunks = 32;  // under one outer corner

    void lower_corner(std::vector<int64_t>& corners, size_t size, const int64_t* point) const {
        if (ids_.size() % size == 0) {
            corners.insert(corners.end(), point, point + columns_);
        } else {
            int64_t* corner = corners.data() + corners.size() - columns_;
            for (size_t c = 0; c < columns_; ++c) corner[c] = std::min(corner[c], point[c]);
        }
    }

    bool below(const std::vector<int64_t>& corners, size_t i, const int64_t* point) const {
        return no_larger(corners.data() + i * columns_, point, columns_);
    }

    size_t columns_;
    std::vector<int64_t> rows_, corners_, outer_corners_;
    std::vector<uint32_t> ids_;
};

}  // namespace dna_fast
