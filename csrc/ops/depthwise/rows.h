// Rows of an image as the kernels read them: float32, one vector of channels a pixel, zeros where the image has ended.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/vectors.h"
#include "depthwise.h"

namespace dna_fast::depthwise {
namespace {

// Pixels of a register block. Widths of networks for 224 pixels (7, 14, 28, 56, 112) are multiples of it; beside it the
// seven weights of a row of taps fit 16 registers.
constexpr std::int64_t kBlock = 7;

DNA_FAST_INLINE std::int64_t blocks(std::int64_t pixels) { return (pixels + kBlock - 1) / kBlock; }

// One vector of channels of a row in memory.
template <class S>
struct Row {
    S* first;                    // pixel 0
    std::int64_t pixels, pitch;  // from pixel to pixel, in elements
    std::int64_t lanes;          // channels there are, at most kVector
};

DNA_FAST_INLINE void zero(float* packed, std::int64_t count) {
    for (std::int64_t i = 0; i < count * kVector; i += kLanes) store(packed + i, Vec{});
}

// packed[p] = row[first + step * p] for p in [0, count). A vector is one or two lines out of a pixel's many, and no
// hardware sees the next row coming: it is asked for here, and again in write(), where a result's lines are.
template <class S>
DNA_FAST_INLINE void pack(const Row<const S>& row, std::int64_t first, std::int64_t step, std::int64_t count,
                          float* packed) {
    const std::int64_t inside = std::max<std::int64_t>(row.pixels - first, 0);
    const std::int64_t end = std::min((inside + step - 1) / step, count);
    const std::int64_t begin = std::min(first < 0 ? (step - 1 - first) / step : 0, end);
    zero(packed, begin);
    zero(packed + end * kVector, count - end);
    const S* from = row.first + (first + step * begin) * row.pitch;
    const std::int64_t pitch = step * row.pitch, ahead = step * row.pixels * row.pitch;
    float* const last = packed + end * kVector;
    packed += begin * kVector;
    if (row.lanes == kVector) {
        for (; packed != last; packed += kVector, from += pitch) {
            __builtin_prefetch(from + ahead);
            for (std::int64_t lane = 0; lane < kVector; lane += kLanes) store(packed + lane, load(from + lane));
        }
    } else {
        for (; packed != last; packed += kVector, from += pitch) {
            for (std::int64_t lane = 0; lane < kVector; lane += kLanes) {
                const std::int64_t lanes = std::clamp<std::int64_t>(row.lanes - lane, 0, kLanes);
                store(packed + lane, lanes > 0 ? load_first(from + lane, lanes) : Vec{});
            }
        }
    }
}

// The first `count` pixels of a block's result, one vector of the instruction set each.
template <class S>
DNA_FAST_INLINE void write(const Row<S>& row, std::int64_t first, std::int64_t step, std::int64_t lane,
                           std::int64_t count, const Vec (&values)[kBlock]) {
    const std::int64_t lanes = std::min<std::int64_t>(row.lanes - lane, kLanes);
    if (lanes <= 0) return;
    S* to = row.first + first * row.pitch + lane;
    const std::int64_t pitch = step * row.pitch, ahead = step * row.pixels * row.pitch;
#pragma GCC unroll 7
    for (std::int64_t p = 0; p < kBlock; ++p, to += pitch) {
        if (p >= count) break;
        __builtin_prefetch(to + ahead, 1);
        if (lanes == kLanes) {
            store(to, values[p]);
        } else {
            store_first(to, values[p], lanes);
        }
    }
}

// One vector of channels of an image [rows, cols, channels].
template <class S>
struct Plane {
    S* first;
    std::int64_t rows, cols, channels, lanes;

    Plane(S* images, std::int64_t image, std::int64_t rows, std::int64_t cols, std::int64_t channels,
          std::int64_t vector)
        : first(images + image * rows * cols * channels + vector * kVector),
          rows(rows),
          cols(cols),
          channels(channels),
          lanes(std::min(channels - vector * kVector, kVector)) {}

    Row<S> row(std::int64_t number) const { return {first + number * cols * channels, cols, channels, lanes}; }
};

}  // namespace
}  // namespace dna_fast::depthwise
