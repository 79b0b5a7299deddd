// The depthwise convolution of channels-last images and both of its gradients: what torch-free kernels are told, and
// their entry points.
//
//     y[n, q, r, c] = sum over i, j of w[c, i, j] x[n, q stride + i - pad_top, r stride + j - pad_left, c]
//
// Outside the image x is zero. Stored as float32 or bfloat16, summed in float32; weights and their gradient are
// float32.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cpu_target.h"

namespace dna_fast::depthwise {

enum class Dtype { float32, bfloat16 };

inline constexpr std::int64_t kVector =
    16;  // channels worked on at once, whatever the instruction set; a last one is cut
inline constexpr std::int64_t kLeastKernel = 3, kMostKernel = 7, kMostStride = 2;

struct Shape {
    std::int64_t images, channels, height, width;  // N, C, H, W
    std::int64_t out_rows, out_cols;               // Q, R
    std::int64_t kernel, stride, pad_top, pad_left;

    std::int64_t vectors() const { return (channels + kVector - 1) / kVector; }
    std::int64_t taps() const { return kernel * kernel; }
};

// Taps of one axis fall into `stride` terms: tap t = term + stride * j reads every stride-th pixel.
inline std::int64_t term_taps(const Shape& shape, std::int64_t term) {
    return (shape.kernel - term + shape.stride - 1) / shape.stride;
}

// What the weight gradient sums at once, in float32: a part is rows of a few images, and the parts are added in their
// order, in float64. It depends on the shape alone, so the bits do not depend on the number of threads.
struct Parts {
    std::int64_t images, rows;             // of y, a part; the last ones may be smaller
    std::int64_t per_image_group, groups;  // parts along the rows; groups of images

    std::int64_t count() const { return per_image_group * groups; }
};
Parts parts(const Shape& shape);

struct Call {
    Shape shape;
    const void* x;         // [N, H, W, C]
    const void* gradient;  // of y, [N, Q, R, C]
    void* result;          // y, or the gradient of x
    const float* packed;   // weights: pack_forward or pack_backward of every vector, packed_floats each
    float* sums;           // the weight gradient by parts, [parts][vectors][k * k][kVector]
};

inline std::int64_t packed_floats(const Shape& shape) { return shape.taps() * kVector; }

// One vector of channels of weights [C, k, k] as the kernels read them, [k * k][kVector], missing channels zero.
// Forward: row by row, in a row term by term. Backward: the rows and in them the columns of each term, both reversed.
void pack_forward(const Shape& shape, const float* weights, std::int64_t vector, float* packed);
void pack_backward(const Shape& shape, const float* weights, std::int64_t vector, float* packed);

// Adds a vector's parts up: weight_gradient [C, k, k].
void add_parts(const Shape& shape, const float* sums, std::int64_t vector, float* weight_gradient);

// One instruction set and storage type. Calls of one function may run at once, each with `scratch` of its own, 64-byte
// aligned. None of them starts threads or allocates.
struct Kernels {
    void (*forward)(const Call& call, std::int64_t image, std::int64_t vector, float* scratch);
    void (*input_gradient)(const Call& call, std::int64_t image, std::int64_t vector, float* scratch);
    void (*weight_gradient)(const Call& call, std::int64_t part, std::int64_t vector, float* scratch);
};
std::int64_t scratch_floats(const Shape& shape);  // enough for each of the three

const Kernels& kernels(Isa isa, Dtype dtype);

// One table an instruction set, each in a file of its own that is compiled for it.
extern const Kernels kScalarFloat32, kScalarBfloat16;
#if defined(__x86_64__)
extern const Kernels kAvx2Float32, kAvx2Bfloat16, kAvx512Float32, kAvx512Bfloat16;
#endif

}  // namespace dna_fast::depthwise
