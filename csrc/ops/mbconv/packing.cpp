// Weights from torch's layout into the kernels'.
#include <cstring>

#include "mbconv.h"

namespace dna_fast::mbconv {
namespace {

constexpr std::int64_t kAlignment = 64;

std::int64_t padded(std::int64_t channels) { return round_up(channels, kVector); }

void store_pairs(const float* rows[2], std::int64_t columns, std::int64_t width, std::int64_t stride, float factor,
                 BFloat16* result) {
    for (std::int64_t column = 0; column < width; ++column) {
        for (int half = 0; half < 2; ++half) {
            const bool is_there = column < columns && rows[half] != nullptr;
            narrow(is_there ? rows[half][column * stride] * factor : 0.0f, result[2 * column + half]);
        }
    }
}

}  // namespace

std::int64_t packed_matrix_bytes(std::int64_t depth, std::int64_t columns, std::int64_t unit, Dtype dtype) {
    return dtype == Dtype::float32 ? depth * round_up(columns, unit) * 4
                                   : round_up(depth, 2) * round_up(columns, unit) * 2;
}

void pack_matrix(std::int64_t depth, std::int64_t columns, std::int64_t unit, Dtype dtype, const float* matrix,
                 float factor, unsigned char* packed) {
    for (std::int64_t group = 0; group < groups(columns); ++group) {
        const std::int64_t first = group * kGroup, width = group_width(columns, group, unit);
        const std::int64_t valid = columns - first < width ? columns - first : width;
        const float* source = matrix + first * depth;  // [valid][depth]
        if (dtype == Dtype::float32) {
            float* result = reinterpret_cast<float*>(packed) + first * depth;
            for (std::int64_t k = 0; k < depth; ++k) {
                for (std::int64_t c = 0; c < width; ++c)
                    result[k * width + c] = c < valid ? source[c * depth + k] * factor : 0.0f;
            }
            continue;
        }
        const std::int64_t pairs = (depth + 1) / 2;
        BFloat16* result = reinterpret_cast<BFloat16*>(packed) + first * pairs * 2;
        for (std::int64_t k = 0; k < pairs; ++k) {
            const float* rows[2] = {source + 2 * k, 2 * k + 1 < depth ? source + 2 * k + 1 : nullptr};
            store_pairs(rows, valid, width, depth, factor, result + k * width * 2);
        }
    }
}

PackedLayout packed_layout(const Shape& shape, Dtype dtype) {
    std::int64_t end = 0;
    const auto part = [&end](std::int64_t bytes) {
        const std::int64_t begin = end;
        end = round_up(end + bytes, kAlignment);
        return begin;
    };
    const std::int64_t mid = padded(shape.mid_channels), k = shape.kernel;
    PackedLayout layout{};
    layout.conv_pw =
        part(shape.has_expansion ? packed_matrix_bytes(shape.in_channels, shape.mid_channels, kVector, dtype) : 0);
    layout.conv_dw = part(k * k * groups(shape.mid_channels) * kGroup * 4);
    // Pairs of kernel rows, once for each parity of the first input row: (k + 1) / 2 pairs of k taps.
    layout.conv_dw_pairs =
        part(dtype == Dtype::bfloat16 ? 2 * (k + 1) / 2 * k * groups(shape.mid_channels) * kGroup * 4 : 0);
    layout.conv_pwl = part(packed_matrix_bytes(shape.mid_channels, shape.out_channels, kHalfVector, dtype));
    layout.se_reduce = part(shape.se_channels * mid * 4);
    layout.se_reduce_bias = part(shape.se_channels * 4);
    layout.se_expand = part(shape.se_channels * mid * 4);
    layout.se_expand_bias = part(shape.se_channels > 0 ? mid * 4 : 0);
    layout.bytes = end;
    return layout;
}

namespace {

// [group][k * k][48], rounded to the storage type so that every instruction set multiplies by the same numbers.
void pack_depthwise(const Shape& shape, Dtype dtype, const float* conv_dw, float factor, float* result) {
    const std::int64_t taps = shape.kernel * shape.kernel;
    for (std::int64_t group = 0; group < groups(shape.mid_channels); ++group) {
        const std::int64_t first = group * kGroup, width = group_width(shape.mid_channels, group);
        for (std::int64_t tap = 0; tap < taps; ++tap) {
            for (std::int64_t c = 0; c < width; ++c) {
                float value = first + c < shape.mid_channels ? conv_dw[(first + c) * taps + tap] * factor : 0.0f;
                if (dtype == Dtype::bfloat16) {
                    BFloat16 rounded;
                    narrow(value, rounded);
                    value = widen(rounded);
                }
                result[first * taps + tap * kGroup + c] = value;
            }
        }
    }
}

// [parity][group][pair][kernel column][48][2]. Input rows are stored in pairs (0, 1), (2, 3), ...; a window that
// begins on the second row of a pair (parity 1) meets a zero first, one that begins on the first row a zero last.
void pack_depthwise_pairs(const Shape& shape, const float* conv_dw, float factor, BFloat16* result) {
    const std::int64_t k = shape.kernel, pairs = (k + 1) / 2, mid = groups(shape.mid_channels) * kGroup;
    for (std::int64_t parity = 0; parity < 2; ++parity) {
        for (std::int64_t group = 0; group < groups(shape.mid_channels); ++group) {
            const std::int64_t first = group * kGroup, width = group_width(shape.mid_channels, group);
            BFloat16* base = result + 2 * (parity * mid + first) * pairs * k;
            for (std::int64_t pair = 0; pair < pairs; ++pair) {
                for (std::int64_t column = 0; column < k; ++column) {
                    const std::int64_t row = 2 * pair - parity;
                    const float* source = conv_dw + first * k * k + column;
                    const float* rows[2] = {row >= 0 ? source + row * k : nullptr,
                                            row + 1 < k ? source + (row + 1) * k : nullptr};
                    const std::int64_t valid = shape.mid_channels - first < width ? shape.mid_channels - first : width;
                    store_pairs(rows, valid, width, k * k, factor, base + (pair * k + column) * kGroup * 2);
                }
            }
        }
    }
}

}  // namespace

void pack(const Shape& shape, Dtype dtype, const Weights& weights, unsigned char* packed) {
    const PackedLayout layout = packed_layout(shape, dtype);
    std::memset(packed, 0, static_cast<std::size_t>(layout.bytes));
    const std::int64_t mid = shape.mid_channels, mid_padded = padded(mid);
    const float dw_factor = shape.has_expansion ? 1.0f / kSiluScale : 1.0f;
    if (shape.has_expansion)
        pack_matrix(shape.in_channels, mid, kVector, dtype, weights.conv_pw, 1.0f, packed + layout.conv_pw);
    pack_depthwise(shape, dtype, weights.conv_dw, dw_factor, reinterpret_cast<float*>(packed + layout.conv_dw));
    if (dtype == Dtype::bfloat16) {
        pack_depthwise_pairs(shape, weights.conv_dw, dw_factor,
                             reinterpret_cast<BFloat16*>(packed + layout.conv_dw_pairs));
    }
    pack_matrix(mid, shape.out_channels, kHalfVector, dtype, weights.conv_pwl, 1.0f / kSiluScale,
                packed + layout.conv_pwl);
    if (shape.se_channels == 0) return;
    float* reduce = reinterpret_cast<float*>(packed + layout.se_reduce);
    float* reduce_bias = reinterpret_cast<float*>(packed + layout.se_reduce_bias);
    float* expand = reinterpret_cast<float*>(packed + layout.se_expand);
    float* expand_bias = reinterpret_cast<float*>(packed + layout.se_expand_bias);
    for (std::int64_t s = 0; s < shape.se_channels; ++s) {
        std::memcpy(reduce + s * mid_padded, weights.se_reduce + s * mid, static_cast<std::size_t>(mid) * 4);
        for (std::int64_t m = 0; m < mid; ++m)
            expand[s * mid_padded + m] = weights.se_expand[m * shape.se_channels + s];
        reduce_bias[s] = weights.se_reduce_bias[s];
    }
    std::memcpy(expand_bias, weights.se_expand_bias, static_cast<std::size_t>(mid) * 4);
}

}  // namespace dna_fast::mbconv
