// Kept points in chunks with a common lower corner: finds dominators in any number of columns by skipping chunks.
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
        if (ids_.size() % chunk == 0) {
            corners_.insert(corners_.end(), point, point + columns_);
        } else {
            int64_t* corner = corners_.data() + corners_.size() - columns_;
            for (size_t c = 0; c < columns_; ++c) corner[c] = std::min(corner[c], point[c]);
        }
        rows_.insert(rows_.end(), point, point + columns_);
        ids_.push_back(id);
    }

    // Calls visit(id) for points no larger than `point` in any column until it returns true.
    template <class Visit>
    void visit_dominators(const int64_t* point, Visit visit) const {
        for (size_t begin = 0, c = 0; begin < ids_.size(); begin += chunk, ++c) {
            if (!no_larger(corners_.data() + c * columns_, point, columns_)) continue;
            const size_t end = std::min(begin + chunk, ids_.size());
            for (size_t i = begin; i < end; ++i) {
                if (no_larger(rows_.data() + i * columns_, point, columns_) && visit(ids_[i])) return;
            }
        }
    }

  private:
    static constexpr size_t chunk = 32;  // small enough that a corner still says something about its members
    size_t columns_;
    std::vector<int64_t> rows_, corners_;
    std::vector<uint32_t> ids_;
};

}  // namespace dna_fast
