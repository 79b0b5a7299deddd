// Vectors of floats as wide as the including file is compiled for: loads and stores of float32 and bfloat16, whole or
// of the first elements only.
//
// Everything has internal linkage: the same text is compiled once per instruction set, and a function that escaped
// inlining must not be shared among them by the linker.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "low_precision.h"

namespace dna_fast {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float VecAnywhere __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t BitsAnywhere __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef std::uint16_t HalvesAnywhere __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

DNA_FAST_INLINE Vec splat(float value) { return value - Vec{}; }
DNA_FAST_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAnywhere*>(p); }
DNA_FAST_INLINE void store(float* p, Vec value) { *reinterpret_cast<VecAnywhere*>(p) = value; }

DNA_FAST_INLINE Vec load(const BFloat16* p) {
    const Halves halves = *reinterpret_cast<const HalvesAnywhere*>(p);
    return reinterpret_cast<Vec>(__builtin_convertvector(halves, Bits) << 16);
}
DNA_FAST_INLINE void store(BFloat16* p, Vec value) {
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

// The first `count` <= kLanes elements; the others are zero, or left alone.
#if defined(__AVX512F__)
DNA_FAST_INLINE __mmask16 first_lanes(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
DNA_FAST_INLINE Vec load_first(const float* p, std::int64_t count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
DNA_FAST_INLINE Vec load_first(const BFloat16* p, std::int64_t count) {
    const __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(count), p);
    return reinterpret_cast<Vec>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
DNA_FAST_INLINE void store_first(float* p, Vec value, std::int64_t count) {
    _mm512_mask_storeu_ps(p, first_lanes(count), value);
}
DNA_FAST_INLINE void store_first(BFloat16* p, Vec value, std::int64_t count) {
    alignas(32) BFloat16 narrowed[kLanes];
    store(narrowed, value);
    const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i*>(narrowed));
    _mm256_mask_storeu_epi16(p, first_lanes(count), halves);
}
#else
template <class S>
DNA_FAST_INLINE Vec load_first(const S* p, std::int64_t count) {
    alignas(64) float values[kLanes] = {};
    for (std::int64_t i = 0; i < count; ++i) values[i] = widen(p[i]);
    return load(values);
}
template <class S>
DNA_FAST_INLINE void store_first(S* p, Vec value, std::int64_t count) {
    alignas(64) S values[kLanes];
    store(values, value);
    std::memcpy(p, values, static_cast<std::size_t>(count) * sizeof(S));
}
#endif

}  // namespace
}  // namespace dna_fast
