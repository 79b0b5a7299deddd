// Device memory of a driver: exactly as large as it must be, so that AddressSanitizer sees one element too many, and
// full of 0xff bytes, NaN in every floating-point type, so that what a kernel should have written but did not is seen,
// too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <random>

#include "common/low_precision.h"

namespace dna_fast::cuda::host {

template <class T>
class Buffer {
  public:
    // `offset` elements behind an address as aligned as those of cudaMalloc; they belong to the buffer, too.
    explicit Buffer(std::int64_t count, std::int64_t offset = 0)
        : count_(count),
          bytes_(static_cast<std::byte*>(::operator new(static_cast<std::size_t>(offset + count) * sizeof(T), kAlign))),
          begin_(reinterpret_cast<T*>(bytes_.get()) + offset) {
        fill_dead();
    }

    // As before the first use: for the next launch.
    void fill_dead() { std::memset(static_cast<void*>(begin_), 0xff, static_cast<std::size_t>(count_) * sizeof(T)); }

    // Uniform in [-2, 2), rounded to T.
    void draw(std::mt19937& random) {
        for (T& value : *this) narrow((static_cast<float>(random() >> 8) - 0x1p23f) * 0x1p-22f, value);
    }

    T* data() { return begin_; }
    std::int64_t size() const { return count_; }
    T& operator[](std::int64_t i) { return begin_[i]; }
    T* begin() { return begin_; }
    T* end() { return begin_ + count_; }

  private:
    static constexpr std::align_val_t kAlign{256};
    struct Delete {
        void operator()(std::byte* bytes) const { ::operator delete(bytes, kAlign); }
    };

    std::int64_t count_;
    std::unique_ptr<std::byte, Delete> bytes_;
    T* begin_;
};

}  // namespace dna_fast::cuda::host
