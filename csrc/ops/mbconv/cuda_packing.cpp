// Weights from torch's layout into that of the CUDA kernels, on the host.
#include <cstring>

#include "mbconv_cuda.h"

namespace dna_fast::mbconv {
namespace {

constexpr std::int64_t kAlignment = 128;
constexpr std::int64_t kMatrixRows = 16;  // of a product
constexpr std::int64_t kColumns = 8;

void put(Dtype dtype, float value, unsigned char* at) {
    if (dtype == Dtype::float32) {
        std::memcpy(at, &value, sizeof(value));
    } else if (dtype == Dtype::bfloat16) {
        BFloat16 narrowed;
        narrow(value, narrowed);
        std::memcpy(at, &narrowed, sizeof(narrowed));
    } else {
        Float16 narrowed;
        narrow(value, narrowed);
        std::memcpy(at, &narrowed, sizeof(narrowed));
    }
}

// [rows][pitch], rows and depth as far as there are any; the rest is zero already.
void put_matrix(Dtype dtype, const float* matrix, std::int64_t rows, std::int64_t depth, std::int64_t pitch,
                float factor, unsigned char* result) {
    const std::int64_t bytes = storage_bytes(dtype);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t d = 0; d < depth; ++d)
            put(dtype, matrix[row * depth + d] * factor, result + (row * pitch + d) * bytes);
    }
}

// One channel's words for one stride.
void put_taps(Dtype dtype, const float* taps, std::int64_t kernel, std::int64_t stride, float factor,
              unsigned char* result) {
    if (dtype == Dtype::float32) {
        put_matrix(dtype, taps, kernel, kernel, kTapWords, factor, result);
        return;
    }
    for (std::int64_t row = 0; row < kernel; ++row) {
        for (std::int64_t phase = 0; phase < stride; ++phase) {
            for (std::int64_t i = 0; phase + i * stride < kernel; ++i) {
                const float tap = taps[row * kernel + phase + i * stride] * factor;
                put(dtype, tap, result + 2 * i);                            // pairs that begin with an even tap
                put(dtype, tap, result + 2 * (2 * kTapWords / 2 + i + 1));  // with an odd one
            }
            result += kTapWords * 4;
        }
    }
}

}  // namespace

std::int64_t cuda_matrix_pitch(std::int64_t depth, Dtype dtype) {
    return round_up(depth, kStageBytes / storage_bytes(dtype));
}

std::int64_t cuda_matrix_bytes(std::int64_t depth, std::int64_t columns, Dtype dtype) {
    return round_up(columns, kColumns) * cuda_matrix_pitch(depth, dtype) * storage_bytes(dtype);
}

void pack_matrix_for_cuda(std::int64_t depth, std::int64_t columns, Dtype dtype, const float* matrix, float factor,
                          unsigned char* packed) {
    std::memset(packed, 0, static_cast<std::size_t>(cuda_matrix_bytes(depth, columns, dtype)));
    put_matrix(dtype, matrix, columns, depth, cuda_matrix_pitch(depth, dtype), factor, packed);
}

CudaLayout cuda_layout(const Shape& shape, Dtype dtype) {
    std::int64_t end = 0;
    const auto part = [&end](std::int64_t bytes) {
        const std::int64_t begin = end;
        end = round_up(end + bytes, kAlignment);
        return begin;
    };
    const std::int64_t mid = shape.mid_channels, mid_rows = round_up(mid, kMatrixRows), se = shape.se_channels;
    CudaLayout layout{};
    layout.in_pitch = round_up(shape.in_channels, kStepBytes / storage_bytes(dtype));
    layout.mid_pitch = cuda_matrix_pitch(mid, dtype);
    layout.conv_pw = part(shape.has_expansion ? mid_rows * layout.in_pitch * storage_bytes(dtype) : 0);
    for (std::int64_t stride : {1, 2})
        layout.taps[stride - 1] = part(mid_rows * tap_words(dtype, shape.kernel, stride) * 4);
    layout.conv_pwl = part(cuda_matrix_bytes(mid, shape.out_channels, dtype));
    layout.se_reduce = part(se * mid * 4);
    layout.se_reduce_bias = part(se * 4);
    layout.se_expand = part(se * mid * 4);
    layout.se_expand_bias = part(se > 0 ? mid * 4 : 0);
    layout.bytes = end;
    return layout;
}

void pack_for_cuda(const Shape& shape, Dtype dtype, const Weights& weights, unsigned char* packed) {
    const CudaLayout layout = cuda_layout(shape, dtype);
    std::memset(packed, 0, static_cast<std::size_t>(layout.bytes));
    const std::int64_t mid = shape.mid_channels, taps = shape.kernel * shape.kernel;
    if (shape.has_expansion)
        put_matrix(dtype, weights.conv_pw, mid, shape.in_channels, layout.in_pitch, 1.0f, packed + layout.conv_pw);
    for (std::int64_t stride : {1, 2}) {
        for (std::int64_t m = 0; m < mid; ++m) {
            put_taps(dtype, weights.conv_dw + m * taps, shape.kernel, stride,
                     shape.has_expansion ? 1.0f / kSiluScale : 1.0f,
                     packed + layout.taps[stride - 1] + m * tap_words(dtype, shape.kernel, stride) * 4);
        }
    }
    put_matrix(dtype, weights.conv_pwl, shape.out_channels, mid, layout.mid_pitch, 1.0f / kSiluScale,
               packed + layout.conv_pwl);
    if (shape.se_channels == 0) return;
    float* const expand = reinterpret_cast<float*>(packed + layout.se_expand);
    const std::size_t row_bytes = static_cast<std::size_t>(mid) * 4;
    for (std::int64_t s = 0; s < shape.se_channels; ++s) {
        std::memcpy(packed + layout.se_reduce + s * mid * 4, weights.se_reduce + s * mid, row_bytes);
        for (std::int64_t m = 0; m < mid; ++m) expand[s * mid + m] = weights.se_expand[m * shape.se_channels + s];
    }
    std::memcpy(packed + layout.se_reduce_bias, weights.se_reduce_bias,
                static_cast<std::size_t>(shape.se_channels) * 4);
    std::memcpy(packed + layout.se_expand_bias, weights.se_expand_bias, row_bytes);
}

}  // namespace dna_fast::mbconv
