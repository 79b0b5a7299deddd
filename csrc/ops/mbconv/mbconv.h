// One MBConv layer in evaluation mode on a batch of prefixes: what torch-free kernels are told, and their entry points.
//
//     a1 = silu(conv_pw(x) * scale1 + shift1)          1x1, C -> M; without expansion the depthwise reads x itself
//     a2 = silu(conv_dw(a1) * scale2 + shift2)         k x k depthwise
//     y  = conv_pwl(a2 * gate(a2)) * scale3 + shift3   1x1, M -> K; gate: squeeze-excite; plus x with a residual
//
// Images of one prefix share its scales and shifts; all prefixes share the weights.
#pragma once

#include <cstdint>

#include "common/cpu_target.h"
#include "common/low_precision.h"

namespace dna_fast::mbconv {

enum class Dtype { float32, bfloat16, float16 };  // float16 on GPUs only
// What is made of y: written; compared with a target, three sums an image; the same behind a 1x1 adapter (K -> T); or
// written as it is before batch norm 3, for calibration.
enum class Ending { write, reduce, adapt_and_reduce, write_raw };

struct Shape {
    std::int64_t in_channels, height, width;        // C, H, W
    std::int64_t mid_channels, se_channels;         // M; S, 0 without squeeze-excite
    std::int64_t out_channels, out_rows, out_cols;  // K, Q, R
    std::int64_t kernel, stride, pad_top, pad_left;
    bool has_expansion, has_residual;

    std::int64_t in_pixels() const { return height * width; }
    std::int64_t out_pixels() const { return out_rows * out_cols; }
};

// Channels are worked on in groups of 48: three registers of 16 floats beside which 8 pixels find room. A last group is
// cut to whole vectors of 16, or where it is a product's result alone (K, T) to halves. Packed weights have this layout
// whatever the instruction set.
inline constexpr std::int64_t kGroup = 48;
inline constexpr std::int64_t kVector = 16;
inline constexpr std::int64_t kHalfVector = 8;

inline std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }
inline std::int64_t groups(std::int64_t channels) { return (channels + kGroup - 1) / kGroup; }
inline std::int64_t group_width(std::int64_t channels, std::int64_t group, std::int64_t unit = kVector) {
    const std::int64_t left = round_up(channels, unit) - group * kGroup;
    return left < kGroup ? left : kGroup;
}

// Activations are kept multiplied by -log2(e): a SiLU of t = -log2(e) x is then t / (1 + 2^t). Packed weights that meet
// them (conv_dw behind an expansion, conv_pwl) are divided by it.
inline constexpr float kSiluScale = -1.44269504f;

// Weights in one block of memory, every part 64-byte aligned; missing lanes are zeros. A product's matrix
// [depth][columns] lies by groups of columns: float32 [group][depth][width]; bfloat16 in pairs of rows, [group][depth /
// 2][width][2].
struct PackedLayout {
    std::int64_t conv_pw, conv_dw, conv_dw_pairs, conv_pwl, se_reduce, se_reduce_bias, se_expand, se_expand_bias, bytes;
};
PackedLayout packed_layout(const Shape& shape, Dtype dtype);

struct Weights {                  // as torch has them, float32, contiguous
    const float* conv_pw;         // [M, C] or null
    const float* conv_dw;         // [M, k, k]
    const float* conv_pwl;        // [K, M]
    const float* se_reduce;       // [S, M]
    const float* se_reduce_bias;  // [S]
    const float* se_expand;       // [M, S]
    const float* se_expand_bias;  // [M]
};
void pack(const Shape& shape, Dtype dtype, const Weights& weights, unsigned char* packed);

// A product's matrix alone, from factor * matrix [columns, depth] row-major, its last group cut to `unit`: kHalfVector
// for adapters.
std::int64_t packed_matrix_bytes(std::int64_t depth, std::int64_t columns, std::int64_t unit, Dtype dtype);
void pack_matrix(std::int64_t depth, std::int64_t columns, std::int64_t unit, Dtype dtype, const float* matrix,
                 float factor, unsigned char* packed);

struct Call {
    Shape shape;
    PackedLayout layout;
    Ending ending;
    const unsigned char* packed;
    const void* x;                   // [images, H, W, C]; write_raw: conv_dw's result, [images, Q, R, M]
    const float* affine;             // [prefixes, affine_stride]: scale1 shift1 scale2 shift2 scale3 shift3
    std::int64_t affine_stride;      // floats a prefix
    std::int64_t images_per_prefix;  // N
    void* y;                         // [images, Q, R, K] for the endings that write
    const void* target;              // [N, Q, R, T] for the others, the same for every prefix
    std::int64_t target_channels;    // T
    const unsigned char* adapter;    // packed matrix [K -> T]
    const float* adapter_bias;       // [T]
    double* sums;                    // [images][3]: sum d, sum |d|, sum d^2
    double* moments;                 // [images][2][channels]: sum and sum of squares over pixels; calibration only
};

// Memory that one image in the making needs, in bytes: `shared` by the threads that work on it, `own` of each of them.
struct ScratchBytes {
    std::int64_t shared, own;
};

// One instruction set and storage type. An image goes through expand (any split of the groups of M), gate, and project
// (any split of the tiles of pixels); phases wait for each other, calls of one phase may run at once. None of them
// starts threads or allocates.
struct Kernels {
    ScratchBytes (*scratch)(const Call& call);
    // Groups [begin, end) of the expanded channels: through conv_dw, batch norm 2 and SiLU into shared memory.
    void (*expand)(const Call& call, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* shared,
                   unsigned char* own);
    // Groups [begin, end) as far as conv_dw, raw, into call.y [images, Q, R, M], with moments: calibration's first
    // half.
    void (*depthwise)(const Call& call, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* own);
    // The same shared state as `expand`, from the stored result of conv_dw: calibration's second half.
    void (*activate)(const Call& call, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* shared);
    void (*gate)(const Call& call, unsigned char* shared);
    // Tiles [begin, end) of kTile output pixels; tile_sums [tiles][3] for the endings that reduce.
    void (*project)(const Call& call, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* shared,
                    unsigned char* own, double* tile_sums);
    // Sums and sums of squares over the pixels of a finished image of call.y, into call.moments.
    void (*output_moments)(const Call& call, std::int64_t image);
};

inline constexpr std::int64_t kTile = 256;  // pixels
inline std::int64_t tiles(const Shape& shape) { return (shape.out_pixels() + kTile - 1) / kTile; }

const Kernels& kernels(Isa isa, Dtype dtype);

// One table an instruction set, each in a file of its own that is compiled for it.
extern const Kernels kScalarFloat32, kScalarBfloat16;
#if defined(__x86_64__)
extern const Kernels kAvx2Float32, kAvx2Bfloat16, kAvx512Float32, kAvx512Bfloat16, kAvx512DotBfloat16;
#endif

}  // namespace dna_fast::mbconv
