// mbconv on a GPU, as its host sees it: no device code, no torch.
//
// A call is three kernels over a slice of images. `expand` makes the depthwise result, activated, in planes of one
// channel each; `gate` turns their means into squeeze-excite's gates; `project` multiplies and ends. Squeeze-excite
// needs a whole image before its projection, so the depthwise result is written and read once; expanded activations
// stay in shared memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "mbconv.h"

namespace dna_fast::mbconv {

// Matrix products take 32 bytes of depth at once: 16 channels of 2 bytes, 8 of 4. `project` fetches twice that.
inline constexpr std::int64_t kStepBytes = 32;
inline constexpr std::int64_t kStageBytes = 64;
// Columns of a plane come in blocks of 8: what one product has of them.
inline constexpr std::int64_t kBlockCols = 8;

inline std::int64_t storage_bytes(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

// Weights in one block of memory, every part 128-byte aligned, padding zeros. Matrices are row-major as torch has them,
// rows padded to 16 (conv_pw) or 8, depth to a step or a stage; conv_dw lies as `taps`, below; squeeze-excite is
// float32, both matrices [S][M].
struct CudaLayout {
    std::int64_t conv_pw, taps[2], conv_pwl, se_reduce, se_reduce_bias, se_expand, se_expand_bias, bytes;
    std::int64_t in_pitch, mid_pitch;  // elements of a row of conv_pw and of conv_pwl
};
CudaLayout cuda_layout(const Shape& shape, Dtype dtype);
void pack_for_cuda(const Shape& shape, Dtype dtype, const Weights& weights, unsigned char* packed);

// Taps of a channel, for stride 1 and for stride 2: [kernel row][phase][8 words], a phase being the columns of one
// parity at stride 2. In 2-byte storage a word is a pair of neighbouring taps, t0 t1, t2 t3, ... in the first four
// words and 0 t0, t1 t2, ... in the others, so that a pair which begins anywhere is one word. In float32 a word is a
// tap; there the phases are not told apart.
inline constexpr std::int64_t kTapWords = 8;
inline std::int64_t tap_words(Dtype dtype, std::int64_t kernel, std::int64_t stride) {
    return kernel * (dtype == Dtype::float32 ? 1 : stride) * kTapWords;
}

// A matrix [columns][depth] for `project`: [round_up(columns, 8)][pitch], depth padded to a stage.
std::int64_t cuda_matrix_pitch(std::int64_t depth, Dtype dtype);
std::int64_t cuda_matrix_bytes(std::int64_t depth, std::int64_t columns, Dtype dtype);
void pack_matrix_for_cuda(std::int64_t depth, std::int64_t columns, Dtype dtype, const float* matrix, float factor,
                          unsigned char* packed);

// How `expand` cuts a call into blocks of threads. Chosen by plan_expand(); every number of it is a size, so a wrong
// choice is slow and never wrong.
struct ExpandPlan {
    int channels;       // of M that a block makes, a multiple of 16
    int images;         // that a block takes; more than 1 only where they fit whole
    int col_blocks;     // of 8 output columns
    int col_tiles;      // that cover the output
    int rows;           // output rows of a step
    int row_parts;      // blocks that share an image's rows
    int steps;          // of a part
    int x_rows;         // input rows fetched at once
    int ring_rows;      // expanded rows that are kept
    int input_tiles;    // products of 8 pixels that cover an input row
    int x_cols;         // input columns that a block may fetch
    int x_pitch;        // bytes of a pixel
    int ring_pitch;     // bytes of an expanded row of one channel, all phases
    int channel_pitch;  // bytes of one channel's ring
    int shared_bytes;

    int parts() const { return row_parts * col_tiles; }
};
struct CudaDevice {
    int processors;                // streaming multiprocessors
    std::int64_t shared_bytes;     // that a block may have
    std::int64_t processor_bytes;  // of shared memory in a multiprocessor
};
// The five that are chosen, and x_rows, made into a plan.
ExpandPlan sized_plan(ExpandPlan chosen, const Shape& shape, Dtype dtype, bool raw);
// No plan (channels 0) where not even the smallest tile fits.
ExpandPlan plan_expand(const Shape& shape, Dtype dtype, std::int64_t images, bool raw, const CudaDevice& device);

struct ExpandCall {
    Shape shape;
    ExpandPlan plan;
    const void* x;                 // [images, H, W, C]
    const unsigned char* conv_pw;  // of CudaLayout; null without expansion
    const unsigned char* taps;
    const float* affine;  // [prefixes, affine_stride]: scale1 shift1 scale2 shift2, those of 1 with an expansion
    std::int64_t affine_stride;
    std::int64_t first_image;  // of the slice, for the prefix; x and the results begin with it
    std::int64_t images, images_per_prefix;
    std::int64_t in_pitch;  // elements of a row of conv_pw
    void* h;                // activated: planes [images, M, Q, plane_cols(R)]; raw: [images, Q, R, M]
    float* sums;            // [images, parts, M] of the activated planes; null where nobody wants them
    double* moments;        // raw only: [parts, images, 2, M]
    bool raw;
};
inline std::int64_t plane_cols(std::int64_t cols) { return round_up(cols, kBlockCols); }
inline std::int64_t plane_size(const Shape& shape) { return shape.out_rows * plane_cols(shape.out_cols); }

// calibration's second half: planes from the stored raw result. parts is 1.
struct ActivateCall {
    Shape shape;
    const void* h;  // [images, Q, R, M]
    const float* affine;
    std::int64_t affine_stride, first_image, images, images_per_prefix;
    void* planes;  // [images, M, Q, plane_cols(R)]
    float* sums;   // [images, 1, M], or null
};

struct GateCall {
    const float* sums;  // [images, parts, M]
    const float *reduce, *reduce_bias, *expand, *expand_bias;
    float* gates;  // [images, M]
    std::int64_t images, parts, mid_channels, se_channels, pixels;
};

enum class CudaEnding {
    write,         // y [images, Q, R, K], with batch norm 3 and residual
    write_raw,     // the same before batch norm 3
    write_padded,  // [images, plane_size, pitch]: for the product with an adapter
    reduce,        // partial sums
};
struct ProjectCall {
    Shape shape;
    CudaEnding ending;
    const void* planes;               // [images, M, Q, plane_cols(R)], or null:
    const void* rows;                 // [images, plane_size, depth_pitch]
    std::int64_t depth, depth_pitch;  // M, or the adapter's K
    const unsigned char* matrix;      // [round_up(columns, 8)][matrix_pitch]
    std::int64_t columns, matrix_pitch;
    const float* gates;  // [images, M], or null
    const float* scale;  // batch norm 3: + prefix * affine_stride; or null
    const float* shift;  // the same, or an adapter's bias (affine_stride 0)
    std::int64_t affine_stride, first_image, images, images_per_prefix;
    const void* residual;  // [images, Q, R, K], or null
    void* y;
    std::int64_t y_pitch;  // elements of a pixel of y
    const void* target;    // [images_per_prefix, Q, R, columns]
    float* partial_sums;   // [images, blocks of 8 columns in a plane, project_parts(columns)][3]
};
// Blocks and warps that share the columns of a projection: two warps from kWideColumns on.
inline constexpr std::int64_t kWideColumns = 96;
inline std::int64_t project_parts(std::int64_t columns) {
    return columns > kWideColumns ? 2 * ((columns + 2 * kWideColumns - 1) / (2 * kWideColumns)) : 1;
}

inline constexpr int kGateImages = 4;  // that share one reading of squeeze-excite's weights
inline std::int64_t gate_shared_bytes(std::int64_t mid_channels, std::int64_t se_channels) {
    return se_channels == 0 ? 0 : kGateImages * (mid_channels + se_channels) * 4;
}

struct FinishCall {
    const float* partial_sums;  // [images][count][3]
    std::int64_t images, count;
    double* sums;  // [images][3]
};

struct MomentsCall {
    const void* y;  // [images, pixels, channels]
    std::int64_t images, pixels, channels;
    double* moments;  // [images][2][channels]
};

template <Dtype kDtype>
struct CudaKernels {
    static cudaError_t expand(const ExpandCall& call, cudaStream_t stream);
    static cudaError_t activate(const ActivateCall& call, cudaStream_t stream);
    static cudaError_t project(const ProjectCall& call, cudaStream_t stream);
    static cudaError_t moments(const MomentsCall& call, cudaStream_t stream);
};
cudaError_t launch_gate(const GateCall& call, cudaStream_t stream);
cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream);

}  // namespace dna_fast::mbconv
