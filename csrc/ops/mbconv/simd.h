// Vectors of floats as wide as the including file is compiled for, and the few functions that kernels need on them.
//
// Everything has internal linkage: the same text is compiled once per instruction set, and a function that escaped
// inlining must not be shared among them by the linker.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "common/low_precision.h"

namespace dna_fast::mbconv {
namespace {

// kPixels x 3 accumulators, 3 weights and a broadcast fit the registers: 28 of 32, 16 of 16.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kPixels = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kPixels = 4;
#else
constexpr int kLanes = 4, kPixels = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float VecAnywhere __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t BitsAnywhere __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef std::uint16_t HalvesAnywhere __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

#define MBCONV_INLINE [[gnu::always_inline]] inline

MBCONV_INLINE Vec splat(float value) { return value - Vec{}; }
MBCONV_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAnywhere*>(p); }
MBCONV_INLINE void store(float* p, Vec value) { *reinterpret_cast<VecAnywhere*>(p) = value; }

MBCONV_INLINE Vec load(const BFloat16* p) {
    const Halves halves = *reinterpret_cast<const HalvesAnywhere*>(p);
    return reinterpret_cast<Vec>(__builtin_convertvector(halves, Bits) << 16);
}
MBCONV_INLINE void store(BFloat16* p, Vec value) {
#if defined(__AVX512BF16__)
    *reinterpret_cast<HalvesAnywhere*>(p) = reinterpret_cast<Halves>(_mm512_cvtneps_pbh(value));
#else
    const Bits bits = reinterpret_cast<Bits>(value);
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits quiet = (bits & 0u) + 0x7fc0u;
    *reinterpret_cast<HalvesAnywhere*>(p) =
        __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Halves);
#endif
}

// The first `count` < kLanes elements; the others are zero, or left alone.
template <class S>
MBCONV_INLINE Vec load_first(const S* p, std::int64_t count) {
    alignas(64) float values[kLanes] = {};
    for (std::int64_t i = 0; i < count; ++i) values[i] = widen(p[i]);
    return load(values);
}
template <class S>
MBCONV_INLINE void store_first(S* p, Vec value, std::int64_t count) {
    alignas(64) S values[kLanes];
    store(values, value);
    std::memcpy(p, values, static_cast<std::size_t>(count) * sizeof(S));
}

MBCONV_INLINE Vec magnitude(Vec value) { return reinterpret_cast<Vec>(reinterpret_cast<Bits>(value) & 0x7fffffffu); }

// Pairs of bfloat16 as products take them: the first in the lower half of each lane.
MBCONV_INLINE Bits load_pairs(const BFloat16* p) { return *reinterpret_cast<const BitsAnywhere*>(p); }
MBCONV_INLINE Vec first_of(Bits pairs) { return reinterpret_cast<Vec>(pairs << 16); }
MBCONV_INLINE Vec second_of(Bits pairs) { return reinterpret_cast<Vec>(pairs & 0xffff0000u); }

constexpr float kLog2E = 1.44269504f;

// 1 + 2^t, and how accurate: kFull to 1.3 units in the last place of float32, kHalf to 1e-4, an eighth of what rounding
// to bfloat16 loses.
enum class Accuracy { full, half };

template <Accuracy kAccuracy>
MBCONV_INLINE Vec exp2_plus_1(Vec t) {
#if defined(__AVX512F__)
    // 2^t = 2^floor(t) p(t - floor(t)); out of range it becomes 0 or infinity by itself.
    const Vec f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
#else
    // Clamped, so that the exponent stays one: 1 + 2^126 is as good as infinity to all who divide by it.
    t = t > 126.0f ? splat(126.0f) : t;
    t = t < -126.0f ? splat(-126.0f) : t;
    // Adding 1.5 * 2^23 leaves the nearest integer in the lower bits.
    const Vec shifted = t + 12582912.0f;
    const Vec f = t - (shifted - 12582912.0f);
#endif
    // Minimax in relative error: 7.5e-8 of degree 5, 7.5e-5 of degree 3; on [0, 1) or, rounding to nearest, [-0.5,
    // 0.5].
#if defined(__AVX512F__)
    Vec p;
    if constexpr (kAccuracy == Accuracy::full) {
        p = splat(1.8775767e-3f);
        p = p * f + 8.9893397e-3f;
        p = p * f + 5.5826318e-2f;
        p = p * f + 2.4015361e-1f;
        p = p * f + 6.9315308e-1f;
        p = p * f + 9.9999993e-1f;
    } else {
        p = splat(7.8024514e-2f);
        p = p * f + 2.2606717e-1f;
        p = p * f + 6.9583354e-1f;
        p = p * f + 9.9992522e-1f;
    }
    return _mm512_scalef_ps(p, t) + 1.0f;
#else
    Vec p = splat(1.3276471e-3f);
    p = p * f + 9.6755413e-3f;
    p = p * f + 5.5507133e-2f;
    p = p * f + 2.4022120e-1f;
    p = p * f + 6.9314697e-1f;
    p = p * f + 1.0000001f;
    const Bits exponent = reinterpret_cast<Bits>(shifted) << 23;
    return reinterpret_cast<Vec>(reinterpret_cast<Bits>(p) + exponent) + 1.0f;
#endif
}

template <Accuracy kAccuracy>
MBCONV_INLINE Vec sigmoid(Vec x) {
    const Vec denominator = exp2_plus_1<kAccuracy>(x * -kLog2E);
#if defined(__AVX512F__)
    if constexpr (kAccuracy == Accuracy::half) return _mm512_rcp14_ps(denominator);
#endif
    return 1.0f / denominator;
}

template <Accuracy kAccuracy>
MBCONV_INLINE Vec silu(Vec x) {
    const Vec denominator = exp2_plus_1<kAccuracy>(x * -kLog2E);
#if defined(__AVX512F__)
    if constexpr (kAccuracy == Accuracy::half) return x * _mm512_rcp14_ps(denominator);
#endif
    return x / denominator;
}

}  // namespace
}  // namespace dna_fast::mbconv
