// The convolution, and the gradient of its input, which is one as well: sums over rows of weights times shifted pixels.
//
// One call makes one vector of 16 channels of one image, row by row, from a ring of packed rows (rows.h): every row is
// packed once and then read from the cache, k times. A register block holds 7 pixels; each packed pixel is loaded once
// a row of taps and meets all weights that concern the block. With stride 2 the forward pass packs even and odd columns
// apart and the gradient computes them apart, so that both read neighbouring pixels here, too. Bound by its products
// from 5x5 on where the image is in the cache, by memory at 3x3. Assumes what Call says; synchronises nothing.
#pragma once

#include "rows.h"

namespace dna_fast::depthwise {
namespace {

// acc[p] += sum over t of weights[t] * pixels[p + t]
template <int kTaps>
DNA_FAST_INLINE void add_taps(const float* pixels, const float* weights, Vec (&acc)[kBlock]) {
    Vec w[kTaps];
#pragma GCC unroll 7
    for (int t = 0; t < kTaps; ++t) w[t] = load(weights + t * kVector);
#pragma GCC unroll 13
    for (int p = 0; p < kBlock + kTaps - 1; ++p) {
        const Vec pixel = load(pixels + p * kVector);
#pragma GCC unroll 7
        for (int t = 0; t < kTaps; ++t) {
            if (p - t >= 0 && p - t < kBlock) acc[p - t] += w[t] * pixel;
        }
    }
}

// The rows that meet in a row of the result: `count` of them, in order, each with its weights.
template <int kKernel>
struct Rows {
    const float* pixels[kKernel];
    const float* weights;  // of the first; those of the next follow
    std::int64_t count;
};

// One row of the result, every `step`-th pixel from `first` on, of taps on one or (kOdd > 0) two planes of the rows.
template <int kKernel, int kEven, int kOdd, class S>
DNA_FAST_INLINE void correlate(const Rows<kKernel>& rows, std::int64_t even, std::int64_t odd, const Row<S>& result,
                               std::int64_t first, std::int64_t step) {
    const std::int64_t pixels = (result.pixels - first + step - 1) / step;
    for (std::int64_t lane = 0; lane < kVector; lane += kLanes) {
        for (std::int64_t p = 0; p < pixels; p += kBlock) {
            Vec acc[kBlock] = {};
            for (std::int64_t i = 0; i < rows.count; ++i) {
                const float* const at = rows.pixels[i] + p * kVector + lane;
                const float* const weights = rows.weights + i * kKernel * kVector + lane;
                add_taps<kEven>(at + even, weights, acc);
                if constexpr (kOdd > 0) add_taps<kOdd>(at + odd, weights + kEven * kVector, acc);
            }
            write(result, first + step * p, step, lane, pixels - p, acc);
        }
    }
}

template <class S, int kKernel, int kStride>
void forward_of(const Call& call, std::int64_t image, std::int64_t vector, float* scratch) {
    constexpr int kEven = (kKernel + kStride - 1) / kStride, kOdd = kKernel - kEven;
    const Shape& s = call.shape;
    const Plane<const S> x(static_cast<const S*>(call.x), image, s.height, s.width, s.channels, vector);
    const Plane<S> y(static_cast<S*>(call.result), image, s.out_rows, s.out_cols, s.channels, vector);
    const std::int64_t even = blocks(s.out_cols) * kBlock + kEven - 1, odd = kOdd > 0 ? even - kEven + kOdd : 0;
    const std::int64_t slot = (even + odd) * kVector;
    std::int64_t next = 0;  // the row of x to be packed next
    for (std::int64_t q = 0; q < s.out_rows; ++q) {
        const std::int64_t top = q * kStride - s.pad_top;
        const std::int64_t begin = std::max<std::int64_t>(top, 0), end = std::min(top + kKernel, s.height);
        for (next = std::max(next, begin); next < end; ++next) {
            float* const packed = scratch + next % kKernel * slot;
            pack(x.row(next), -s.pad_left, kStride, even, packed);
            if constexpr (kOdd > 0) pack(x.row(next), 1 - s.pad_left, kStride, odd, packed + even * kVector);
        }
        Rows<kKernel> rows{{},
                           call.packed + vector * packed_floats(s) + (begin - top) * kKernel * kVector,
                           std::max(end - begin, std::int64_t{0})};
        for (std::int64_t i = 0; i < rows.count; ++i) rows.pixels[i] = scratch + (begin + i) % kKernel * slot;
        correlate<kKernel, kEven, kOdd>(rows, 0, even * kVector, y.row(q), 0, 1);
    }
}

// Where the columns of one term lie: of x's gradient every stride-th from `first` on, reading y's gradient from
// `source` on.
struct Columns {
    std::int64_t first, source;

    Columns(const Shape& shape, std::int64_t term) {
        const std::int64_t s = shape.stride;
        first = ((term - shape.pad_left) % s + s) % s;
        source = (first + shape.pad_left - term) / s - (term_taps(shape, term) - 1);
    }
};

template <class S, int kKernel, int kStride>
void input_gradient_of(const Call& call, std::int64_t image, std::int64_t vector, float* scratch) {
    constexpr int kEven = (kKernel + kStride - 1) / kStride, kOdd = kKernel - kEven;
    const Shape& s = call.shape;
    const Plane<const S> dy(static_cast<const S*>(call.gradient), image, s.out_rows, s.out_cols, s.channels, vector);
    const Plane<S> dx(static_cast<S*>(call.result), image, s.height, s.width, s.channels, vector);
    const Columns even(s, 0), odd(s, kStride - 1);
    const std::int64_t source = std::min(even.source, odd.source);
    const std::int64_t pixels = blocks((s.width + kStride - 1) / kStride) * kBlock + kEven + 1, slot = pixels * kVector;
    std::int64_t next = 0;  // the row of y's gradient to be packed next
    for (std::int64_t h = 0; h < s.height; ++h) {
        const std::int64_t term = (h + s.pad_top) % kStride, taps = term == 0 ? kEven : kOdd;
        const std::int64_t last = (h + s.pad_top) / kStride, top = last - taps + 1;
        const std::int64_t begin = std::max<std::int64_t>(top, 0), end = std::min(last + 1, s.out_rows);
        for (next = std::max(next, begin); next < end; ++next)
            pack(dy.row(next), source, 1, pixels, scratch + next % kEven * slot);
        Rows<kKernel> rows{{},
                           call.packed + vector * packed_floats(s) + (term * kEven + begin - top) * kKernel * kVector,
                           std::max(end - begin, std::int64_t{0})};
        for (std::int64_t i = 0; i < rows.count; ++i) rows.pixels[i] = scratch + (begin + i) % kEven * slot;
        correlate<kKernel, kEven, 0>(rows, (even.source - source) * kVector, 0, dx.row(h), even.first, kStride);
        if constexpr (kOdd > 0) {
            rows.weights += kEven * kVector;
            correlate<kKernel, kOdd, 0>(rows, (odd.source - source) * kVector, 0, dx.row(h), odd.first, kStride);
        }
    }
}

// Calls work.operator()<kernel, stride>().
template <class Work>
DNA_FAST_INLINE void by_kernel(const Shape& shape, const Work& work) {
    if (shape.stride == 1) {
        if (shape.kernel == 3) return work.template operator()<3, 1>();
        if (shape.kernel == 5) return work.template operator()<5, 1>();
        return work.template operator()<7, 1>();
    }
    if (shape.kernel == 3) return work.template operator()<3, 2>();
    if (shape.kernel == 5) return work.template operator()<5, 2>();
    return work.template operator()<7, 2>();
}

template <class S>
void forward(const Call& call, std::int64_t image, std::int64_t vector, float* scratch) {
    by_kernel(call.shape,
              [&]<int kKernel, int kStride>() { forward_of<S, kKernel, kStride>(call, image, vector, scratch); });
}

template <class S>
void input_gradient(const Call& call, std::int64_t image, std::int64_t vector, float* scratch) {
    by_kernel(call.shape, [&]<int kKernel, int kStride>() {
        input_gradient_of<S, kKernel, kStride>(call, image, vector, scratch);
    });
}

}  // namespace
}  // namespace dna_fast::depthwise
