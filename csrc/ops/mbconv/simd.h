// How many pixels a register block has, and the functions that mbconv's kernels need on vectors. Internal linkage, as
// common/vectors.h says.
#pragma once

#include <cstdint>

#include "common/vectors.h"

namespace dna_fast::mbconv {
namespace {

// kPixels x 3 accumulators, 3 weights and a broadcast fit the registers: 28 of 32, 16 of 16.
#if defined(__AVX512F__)
constexpr int kPixels = 8;
#else
constexpr int kPixels = 4;
#endif

#define MBCONV_INLINE DNA_FAST_INLINE

// The first `count` lanes, the others zero, whatever they held.
MBCONV_INLINE Vec only_first(Vec value, std::int64_t count) {
#if defined(__AVX512F__)
    return _mm512_maskz_mov_ps(first_lanes(count), value);
#else
    alignas(64) float values[kLanes];
    store(values, value);
    return load_first(values, count);
#endif
}

MBCONV_INLINE Vec magnitude(Vec value) { return reinterpret_cast<Vec>(reinterpret_cast<Bits>(value) & 0x7fffffffu); }

// Pairs of bfloat16 as products take them: the first in the lower half of each lane.
MBCONV_INLINE Bits load_pairs(const BFloat16* p) { return *reinterpret_cast<const BitsAnywhere*>(p); }
MBCONV_INLINE Vec first_of(Bits pairs) { return reinterpret_cast<Vec>(pairs << 16); }
MBCONV_INLINE Vec second_of(Bits pairs) { return reinterpret_cast<Vec>(pairs & 0xffff0000u); }

#if defined(__AVX512BF16__)
// Two vectors rounded to bfloat16 and paired lane by lane; 32 bits a lane that are no float.
MBCONV_INLINE Vec paired(Vec first, Vec second) {
    alignas(64) static constexpr std::uint16_t interleaved[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                  21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
    return reinterpret_cast<Vec>(_mm512_permutexvar_epi16(_mm512_load_si512(interleaved), both));
}
#endif

constexpr float kLog2E = 1.44269504f;

// How accurate: full to 2e-7 of the value, half to 2e-4, a tenth of what rounding to bfloat16 loses.
enum class Accuracy { full, half };

#if defined(__AVX512F__)
// 1 + 2^t. 2^t = 2^floor(t) p(t - floor(t)); far out it becomes 1 or infinity by itself.
template <Accuracy kAccuracy>
MBCONV_INLINE Vec exp2_plus_1(Vec t) {
    const Vec f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
    // Minimax in relative error: 7.5e-8 of degree 5, 7.5e-5 of degree 3.
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
}
#else
template <Accuracy kAccuracy>
MBCONV_INLINE Vec exp2_plus_1(Vec t) {
    // Clamped, so that the exponent stays one: 1 + 2^126 is as good as infinity to all who divide by it.
    t = t > 126.0f ? splat(126.0f) : t;
    t = t < -126.0f ? splat(-126.0f) : t;
    // Adding 1.5 * 2^23 leaves the nearest integer in the lower bits.
    const Vec shifted = t + 12582912.0f;
    const Vec f = t - (shifted - 12582912.0f);
    // Minimax in relative error: 7.5e-8.
    Vec p = splat(1.3276471e-3f);
    p = p * f + 9.6755413e-3f;
    p = p * f + 5.5507133e-2f;
    p = p * f + 2.4022120e-1f;
    p = p * f + 6.9314697e-1f;
    p = p * f + 1.0000001f;
    const Bits exponent = reinterpret_cast<Bits>(shifted) << 23;
    return reinterpret_cast<Vec>(reinterpret_cast<Bits>(p) + exponent) + 1.0f;
}
#endif

MBCONV_INLINE Vec sigmoid(Vec x) { return 1.0f / exp2_plus_1<Accuracy::full>(x * -kLog2E); }

// SiLU in units that save a product an element: with x = t / kSiluScale it is silu(x) * kSiluScale. Scales and shifts
// in front are multiplied by kSiluScale (mbconv.h), weights behind by its inverse.
template <Accuracy kAccuracy>
MBCONV_INLINE Vec scaled_silu(Vec t) {
    const Vec denominator = exp2_plus_1<kAccuracy>(t);
#if defined(__AVX512F__)
    if constexpr (kAccuracy == Accuracy::half) return t * _mm512_rcp14_ps(denominator);
#endif
    return t / denominator;
}

}  // namespace
}  // namespace dna_fast::mbconv
