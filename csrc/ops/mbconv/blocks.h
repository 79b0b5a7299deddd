// Register blocks: pixels x vectors of channels, accumulated in registers over a product's depth or a kernel's taps.
#pragma once

#include <type_traits>

#include "mbconv.h"
#include "simd.h"

namespace dna_fast::mbconv {
namespace {

// Calls work.operator()<pixels>(first) for blocks of nearly equal size, at most kPixels each, that cover [begin, end):
// 49 pixels are 7 blocks of 7 rather than 6 of 8 and one of 1.
template <class Work>
MBCONV_INLINE void in_blocks(std::int64_t begin, std::int64_t end, const Work& work) {
    if (begin >= end) return;
    const std::int64_t count = (end - begin + kPixels - 1) / kPixels;
    const std::int64_t size = (end - begin) / count;
    std::int64_t larger = (end - begin) % count;
    for (std::int64_t first = begin; first < end;) {
        const std::int64_t pixels = size + (larger-- > 0 ? 1 : 0);
        switch (pixels) {
#if defined(__AVX512F__)
            case 8:
                work.template operator()<8>(first);
                break;
            case 7:
                work.template operator()<7>(first);
                break;
            case 6:
                work.template operator()<6>(first);
                break;
            case 5:
                work.template operator()<5>(first);
                break;
#endif
            case 4:
                work.template operator()<4>(first);
                break;
            case 3:
                work.template operator()<3>(first);
                break;
            case 2:
                work.template operator()<2>(first);
                break;
            default:
                work.template operator()<1>(first);
                break;
        }
        first += pixels;
    }
}

// Calls work.operator()<vectors>(column) for 1 to 3 vectors at a time that cover `width` columns.
template <class Work>
MBCONV_INLINE void in_columns(std::int64_t width, const Work& work) {
    std::int64_t column = 0;
    for (; column + 3 * kLanes <= width; column += 3 * kLanes) work.template operator()<3>(column);
    if (column + 2 * kLanes <= width) {
        work.template operator()<2>(column);
    } else if (column + kLanes <= width) {
        work.template operator()<1>(column);
    }
}

// acc[p][v] += sum over k of a[p * a_stride + k] * b[k * width + v * kLanes + lane].
template <int kP, int kV>
MBCONV_INLINE void product(const float* a, std::int64_t a_stride, std::int64_t depth, const float* b,
                           std::int64_t width, Vec (&acc)[kP][kV]) {
    for (std::int64_t k = 0; k < depth; ++k) {
        Vec row[kV];
#pragma GCC unroll 3
        for (int v = 0; v < kV; ++v) row[v] = load(b + k * width + v * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            const float factor = a[p * a_stride + k];
#pragma GCC unroll 3
            for (int v = 0; v < kV; ++v) acc[p][v] += row[v] * factor;
        }
    }
}

// The same with bfloat16 weights in pairs of rows, b [depth / 2][width][2], that are widened for a float32 product.
template <int kP, int kV>
MBCONV_INLINE void product(const float* a, std::int64_t a_stride, std::int64_t depth, const BFloat16* b,
                           std::int64_t width, Vec (&acc)[kP][kV]) {
    for (std::int64_t k = 0; k < depth; k += 2) {
        Bits row[kV];
#pragma GCC unroll 3
        for (int v = 0; v < kV; ++v) row[v] = load_pairs(b + k * width + 2 * v * kLanes);
        const bool both = k + 1 < depth;
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            const float first = a[p * a_stride + k], second = both ? a[p * a_stride + k + 1] : 0.0f;
#pragma GCC unroll 3
            for (int v = 0; v < kV; ++v) {
                acc[p][v] += first_of(row[v]) * first;
                acc[p][v] += second_of(row[v]) * second;
            }
        }
    }
}

#if defined(__AVX512BF16__)
// Both sides bfloat16, two steps of the depth an instruction. `a` must be readable, and finite, up to an even depth.
template <int kP, int kV>
MBCONV_INLINE void product(const BFloat16* a, std::int64_t a_stride, std::int64_t depth, const BFloat16* b,
                           std::int64_t width, Vec (&acc)[kP][kV]) {
    for (std::int64_t k = 0; k < depth; k += 2) {
        __m512bh row[kV];
#pragma GCC unroll 3
        for (int v = 0; v < kV; ++v) row[v] = reinterpret_cast<__m512bh>(load_pairs(b + k * width + 2 * v * kLanes));
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            std::int32_t pair;
            std::memcpy(&pair, a + p * a_stride + k, sizeof(pair));
            const __m512bh factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 3
            for (int v = 0; v < kV; ++v) acc[p][v] = _mm512_dpbf16_ps(acc[p][v], row[v], factor);
        }
    }
}
#endif

#if defined(__AVX512F__)
// The same in half vectors, for widths of 8 and 24. Mixing both sizes took 13.7 cycles a step for 8 x 24, this
// takes 12.3.
template <int kP, int kH>
MBCONV_INLINE void product_in_halves(const float* a, std::int64_t a_stride, std::int64_t depth, const float* b,
                                     std::int64_t width, __m256 (&acc)[kP][kH]) {
    for (std::int64_t k = 0; k < depth; ++k) {
        __m256 row[kH];
#pragma GCC unroll 3
        for (int h = 0; h < kH; ++h) row[h] = _mm256_loadu_ps(b + k * width + h * kHalfVector);
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            const __m256 factor = _mm256_set1_ps(a[p * a_stride + k]);
#pragma GCC unroll 3
            for (int h = 0; h < kH; ++h) acc[p][h] = _mm256_fmadd_ps(row[h], factor, acc[p][h]);
        }
    }
}

template <int kP, int kH>
MBCONV_INLINE void product_in_halves(const float* a, std::int64_t a_stride, std::int64_t depth, const BFloat16* b,
                                     std::int64_t width, __m256 (&acc)[kP][kH]) {
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    for (std::int64_t k = 0; k < depth; k += 2) {
        __m256i row[kH];
#pragma GCC unroll 3
        for (int h = 0; h < kH; ++h) {
            row[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + k * width + 2 * h * kHalfVector));
        }
        const bool both = k + 1 < depth;
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            const __m256 first = _mm256_set1_ps(a[p * a_stride + k]);
            const __m256 second = _mm256_set1_ps(both ? a[p * a_stride + k + 1] : 0.0f);
#pragma GCC unroll 3
            for (int h = 0; h < kH; ++h) {
                acc[p][h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(row[h], 16)), first, acc[p][h]);
                acc[p][h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(row[h], upper)), second, acc[p][h]);
            }
        }
    }
}
#endif

#if defined(__AVX512BF16__)
template <int kP, int kH>
MBCONV_INLINE void product_in_halves(const BFloat16* a, std::int64_t a_stride, std::int64_t depth, const BFloat16* b,
                                     std::int64_t width, __m256 (&acc)[kP][kH]) {
    for (std::int64_t k = 0; k < depth; k += 2) {
        __m256bh row[kH];
#pragma GCC unroll 3
        for (int h = 0; h < kH; ++h) {
            row[h] = reinterpret_cast<__m256bh>(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + k * width + 2 * h * kHalfVector)));
        }
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
            std::int32_t pair;
            std::memcpy(&pair, a + p * a_stride + k, sizeof(pair));
            const __m256bh factor = reinterpret_cast<__m256bh>(_mm256_set1_epi32(pair));
#pragma GCC unroll 3
            for (int h = 0; h < kH; ++h) acc[p][h] = _mm256_dpbf16_ps(acc[p][h], row[h], factor);
        }
    }
}
#endif

// acc[p] += sum over the taps of rows[ky][p * kStride + kx] * weights[ky * kK + kx], pixels and taps kGroup
// apart: offsets known when compiling leave registers to data. Every input is loaded once
// per kernel row and serves all taps that meet it; at stride 2 even and odd columns meet different taps, and are loaded
// one after the other to leave registers free.
template <int kK, int kStride, int kP>
MBCONV_INLINE void taps(const float* const* rows, std::int64_t offset, const float* weights, Vec (&acc)[kP]) {
#pragma GCC unroll 7
    for (int ky = 0; ky < kK; ++ky) {
        const float* row = rows[ky] + offset;
#pragma GCC unroll 2
        for (int first = 0; first < kStride; ++first) {
            constexpr int kInputs = kP + (kK - 1) / kStride;
            Vec in[kInputs];
#pragma GCC unroll 16
            for (int i = 0; i < kP + (kK - 1 - first) / kStride; ++i)
                in[i] = load(row + (i * kStride + first) * kGroup);
#pragma GCC unroll 7
            for (int kx = first; kx < kK; kx += kStride) {
                const Vec weight = load(weights + (ky * kK + kx) * kGroup);
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) acc[p] += in[p + kx / kStride] * weight;
            }
        }
    }
}

#if defined(__AVX512BF16__)
// The same on pairs of rows: rows[pair] and weights [pair][kx] hold two taps a lane.
template <int kK, int kStride, int kP>
MBCONV_INLINE void taps(const BFloat16* const* rows, std::int64_t offset, const BFloat16* weights, Vec (&acc)[kP]) {
#pragma GCC unroll 4
    for (int pair = 0; pair < (kK + 1) / 2; ++pair) {
        const BFloat16* row = rows[pair] + offset;
#pragma GCC unroll 2
        for (int first = 0; first < kStride; ++first) {
            constexpr int kInputs = kP + (kK - 1) / kStride;
            Bits in[kInputs];
#pragma GCC unroll 16
            for (int i = 0; i < kP + (kK - 1 - first) / kStride; ++i) {
                in[i] = load_pairs(row + (i * kStride + first) * 2 * kGroup);
            }
#pragma GCC unroll 7
            for (int kx = first; kx < kK; kx += kStride) {
                const __m512bh weight = reinterpret_cast<__m512bh>(load_pairs(weights + (pair * kK + kx) * 2 * kGroup));
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) {
                    acc[p] = _mm512_dpbf16_ps(acc[p], reinterpret_cast<__m512bh>(in[p + kx / kStride]), weight);
                }
            }
        }
    }
}
#endif

}  // namespace
}  // namespace dna_fast::mbconv
