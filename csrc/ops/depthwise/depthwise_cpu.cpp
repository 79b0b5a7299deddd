// Which table of kernels serves an instruction set, and what all of them share: weights, parts, sums.
#include "depthwise.h"

namespace dna_fast::depthwise {
namespace {

// 4096 pixels a part: enough for its sums to be written once in a while only, few enough for float32: an error of at
// most 4096 * 2^-24 of the summands' magnitudes. 64 pixels a row of images: enough to keep sums in registers for a
// while.
constexpr std::int64_t kPartPixels = 4096, kRowPixels = 64;

}  // namespace

Parts parts(const Shape& shape) {
    const std::int64_t images = std::clamp<std::int64_t>(kRowPixels / shape.out_cols, 1, shape.images);
    const std::int64_t rows = std::clamp<std::int64_t>(kPartPixels / (images * shape.out_cols), 1, shape.out_rows);
    return {images, rows, (shape.out_rows + rows - 1) / rows, (shape.images + images - 1) / images};
}

void pack_forward(const Shape& shape, const float* weights, std::int64_t vector, float* packed) {
    const std::int64_t lanes = std::min(shape.channels - vector * kVector, kVector), k = shape.kernel;
    const float* const first = weights + vector * kVector * shape.taps();
    for (std::int64_t row = 0; row < k; ++row) {
        for (std::int64_t term = 0; term < shape.stride; ++term) {
            for (std::int64_t col = term; col < k; col += shape.stride) {
                for (std::int64_t lane = 0; lane < kVector; ++lane)
                    *packed++ = lane < lanes ? first[lane * shape.taps() + row * k + col] : 0.0f;
            }
        }
    }
}

void pack_backward(const Shape& shape, const float* weights, std::int64_t vector, float* packed) {
    const std::int64_t lanes = std::min(shape.channels - vector * kVector, kVector), s = shape.stride;
    const float* const first = weights + vector * kVector * shape.taps();
    for (std::int64_t row_term = 0; row_term < s; ++row_term) {
        for (std::int64_t i = term_taps(shape, row_term) - 1; i >= 0; --i) {
            for (std::int64_t col_term = 0; col_term < s; ++col_term) {
                for (std::int64_t j = term_taps(shape, col_term) - 1; j >= 0; --j) {
                    const float* const tap = first + (row_term + s * i) * shape.kernel + col_term + s * j;
                    for (std::int64_t lane = 0; lane < kVector; ++lane)
                        *packed++ = lane < lanes ? tap[lane * shape.taps()] : 0.0f;
                }
            }
        }
    }
}

void add_parts(const Shape& shape, const float* sums, std::int64_t vector, float* weight_gradient) {
    const std::int64_t lanes = std::min(shape.channels - vector * kVector, kVector);
    const std::int64_t part_floats = shape.vectors() * packed_floats(shape), count = parts(shape).count();
    sums += vector * packed_floats(shape);
    weight_gradient += vector * kVector * shape.taps();
    for (std::int64_t tap = 0; tap < shape.taps(); ++tap) {
        double total[kVector] = {};
        for (std::int64_t part = 0; part < count; ++part) {
            const float* const of_part = sums + part * part_floats + tap * kVector;
            for (std::int64_t lane = 0; lane < kVector; ++lane) total[lane] += of_part[lane];
        }
        for (std::int64_t lane = 0; lane < lanes; ++lane)
            weight_gradient[lane * shape.taps() + tap] = static_cast<float>(total[lane]);
    }
}

std::int64_t scratch_floats(const Shape& shape) {
    // A ring of k rows of x, or of y's gradient, and one row of that; rows are as wide as whole blocks of either side
    // and the taps around them. 16 pixels are more than a block is rounded up by, twice.
    const std::int64_t widest = std::max(shape.width, shape.out_cols * shape.stride);
    return parts(shape).images * (shape.kernel + 1) * (widest + shape.stride * (16 + shape.kernel)) * kVector;
}

const Kernels& kernels(Isa isa, Dtype dtype) {
    const bool is_float = dtype == Dtype::float32;
#if defined(__x86_64__)
    if (isa == Isa::avx512 || isa == Isa::avx512_bf16) return is_float ? kAvx512Float32 : kAvx512Bfloat16;
    if (isa == Isa::avx2) return is_float ? kAvx2Float32 : kAvx2Bfloat16;
#endif
    (void)isa;
    return is_float ? kScalarFloat32 : kScalarBfloat16;
}

}  // namespace dna_fast::depthwise
