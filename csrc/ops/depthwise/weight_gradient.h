// The gradient of the weights: for every tap, the sum over pixels of y's gradient times the pixel of x under the tap.
//
// One call sums one vector of 16 channels over one part (depthwise.h). Row by row of y's gradient: the rows of x under
// it come from a ring of packed rows (rows.h). A register block holds 7 pixels of y's gradient and the sums of up to
// three rows of taps; each pixel of x is loaded once a row of taps. Where rows are short, images lie side by side, so
// that sums stay in registers for kRowPixels pixels. Zeros around images meet zeros: no border needs a loop of its own.
// Bound by its products from 5x5 on, by memory at 3x3. Assumes what Call says; synchronises nothing.
#pragma once

#include "correlate.h"

namespace dna_fast::depthwise {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// A row of y's gradient, and rows of x under it, for images side by side.
struct Strip {
    const float* gradient;
    std::int64_t gradient_pitch, pixels_pitch;  // from image to image, in floats
    std::int64_t images, blocks;
};

// sums[row][tap] += sum over p of gradient[p] * pixels[row][p + tap]; neighbouring taps lie `step` vectors apart.
template <int kTaps, int kRows, int kKernel>
DNA_FAST_INLINE void add_products(const Strip& strip, const float* const* pixels, std::int64_t plane, float* sums,
                                  std::int64_t step) {
    for (std::int64_t lane = 0; lane < kVector; lane += kLanes) {
        Vec acc[kRows][kTaps];
#pragma GCC unroll 3
        for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 7
            for (int t = 0; t < kTaps; ++t) acc[row][t] = load(sums + (row * kKernel + t * step) * kVector + lane);
        }
        for (std::int64_t image = 0; image < strip.images; ++image) {
            const float* gradient = strip.gradient + image * strip.gradient_pitch + lane;
            std::int64_t at = image * strip.pixels_pitch + plane + lane;
            for (std::int64_t block = 0; block < strip.blocks; ++block) {
                Vec g[kBlock];
#pragma GCC unroll 7
                for (int p = 0; p < kBlock; ++p) g[p] = load(gradient + p * kVector);
#pragma GCC unroll 3
                for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 13
                    for (int p = 0; p < kBlock + kTaps - 1; ++p) {
                        const Vec pixel = load(pixels[row] + at + p * kVector);
#pragma GCC unroll 7
                        for (int t = 0; t < kTaps; ++t) {
                            if (p - t >= 0 && p - t < kBlock) acc[row][t] += g[p - t] * pixel;
                        }
                    }
                }
                gradient += kBlock * kVector;
                at += kBlock * kVector;
            }
        }
#pragma GCC unroll 3
        for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 7
            for (int t = 0; t < kTaps; ++t) store(sums + (row * kKernel + t * step) * kVector + lane, acc[row][t]);
        }
    }
}

// All rows, as many at a time as registers have room for beside the 7 + 1 pixels.
template <int kTaps, int kKernel>
DNA_FAST_INLINE void add_rows(const Strip& strip, const Rows<kKernel>& rows, std::int64_t plane, float* sums,
                              std::int64_t step) {
    constexpr int kFit = (kRegisters - kBlock - 1) / kTaps;
    constexpr int kMost = kFit < 1 ? 1 : kFit > 3 ? 3 : kFit;
    std::int64_t row = 0;
    for (; row + kMost <= rows.count; row += kMost)
        add_products<kTaps, kMost, kKernel>(strip, rows.pixels + row, plane, sums + row * kKernel * kVector, step);
    if constexpr (kMost > 2) {
        for (; row + 2 <= rows.count; row += 2)
            add_products<kTaps, 2, kKernel>(strip, rows.pixels + row, plane, sums + row * kKernel * kVector, step);
    }
    for (; row < rows.count; ++row)
        add_products<kTaps, 1, kKernel>(strip, rows.pixels + row, plane, sums + row * kKernel * kVector, step);
}

template <class S, int kKernel, int kStride>
void weight_gradient_of(const Call& call, std::int64_t part, std::int64_t vector, float* scratch) {
    constexpr int kEven = (kKernel + kStride - 1) / kStride, kOdd = kKernel - kEven;
    const Shape& s = call.shape;
    const Parts cut = parts(s);
    const std::int64_t image = part / cut.per_image_group * cut.images, images = std::min(cut.images, s.images - image);
    const std::int64_t first = part % cut.per_image_group * cut.rows, last = std::min(first + cut.rows, s.out_rows);
    const std::int64_t width = blocks(s.out_cols) * kBlock;
    const std::int64_t even = width + kEven - 1, odd = kOdd > 0 ? width + kOdd - 1 : 0, slot = (even + odd) * kVector;
    float* const gradient = scratch + kKernel * images * slot;
    const Strip strip{gradient, width * kVector, slot, images, blocks(s.out_cols)};
    float* const sums = call.sums + (part * s.vectors() + vector) * packed_floats(s);
    zero(sums, s.taps());
    std::int64_t next = 0;  // the row of x to be packed next
    for (std::int64_t q = first; q < last; ++q) {
        const std::int64_t top = q * kStride - s.pad_top;
        const std::int64_t begin = std::max<std::int64_t>(top, 0), end = std::min(top + kKernel, s.height);
        next = std::max(next, begin);
        for (std::int64_t i = 0; i < images; ++i) {
            const Plane<const S> x(static_cast<const S*>(call.x), image + i, s.height, s.width, s.channels, vector);
            for (std::int64_t row = next; row < end; ++row) {
                float* const packed = scratch + (row % kKernel * images + i) * slot;
                pack(x.row(row), -s.pad_left, kStride, even, packed);
                if constexpr (kOdd > 0) pack(x.row(row), 1 - s.pad_left, kStride, odd, packed + even * kVector);
            }
            const Plane<const S> dy(static_cast<const S*>(call.gradient), image + i, s.out_rows, s.out_cols, s.channels,
                                    vector);
            pack(dy.row(q), 0, 1, width, gradient + i * width * kVector);
        }
        next = std::max(next, end);
        Rows<kKernel> rows{{}, nullptr, std::max(end - begin, std::int64_t{0})};
        for (std::int64_t i = 0; i < rows.count; ++i) rows.pixels[i] = scratch + (begin + i) % kKernel * images * slot;
        float* const of_rows = sums + (begin - top) * kKernel * kVector;
        add_rows<kEven, kKernel>(strip, rows, 0, of_rows, kStride);
        if constexpr (kOdd > 0) add_rows<kOdd, kKernel>(strip, rows, even * kVector, of_rows + kVector, kStride);
    }
}

template <class S>
void weight_gradient(const Call& call, std::int64_t part, std::int64_t vector, float* scratch) {
    by_kernel(call.shape, [&]<int kKernel, int kStride>() {
        weight_gradient_of<S, kKernel, kStride>(call, part, vector, scratch);
    });
}

}  // namespace
}  // namespace dna_fast::depthwise
