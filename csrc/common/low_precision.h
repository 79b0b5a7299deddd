// bfloat16 and float16 as storage: to and from float32 in integer arithmetic without branches, which every instruction
// set vectorises to the same bits. Rounding is to nearest even; any NaN becomes the quiet one.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu_target.h"

namespace dna_fast {

struct BFloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

DNA_FAST_INLINE double widen(double value) { return value; }
DNA_FAST_INLINE float widen(float value) { return value; }
DNA_FAST_INLINE float widen(BFloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
DNA_FAST_INLINE float widen(Float16 value) {
    const std::uint32_t word = std::uint32_t{value.bits} << 16;
    const std::uint32_t magnitude = word + word;  // without the sign: exponent in the upper 5 bits
    // Exponent moved to float32's place and set 112 too high, so that 31 (inf, NaN) becomes 255; then scaled back.
    const float normal = std::bit_cast<float>((magnitude >> 4) + 0x70000000u) * 0x1p-112f;
    // A subnormal's mantissa below the one of 0.5, which is then taken away: exact.
    const float subnormal = std::bit_cast<float>((magnitude >> 17) | 0x3f000000u) - 0.5f;
    const std::uint32_t bits = magnitude < (1u << 27) ? std::bit_cast<std::uint32_t>(subnormal)  //
                                                      : std::bit_cast<std::uint32_t>(normal);
    return std::bit_cast<float>((word & 0x80000000u) | bits);
}

DNA_FAST_INLINE void narrow(double value, double& result) { result = value; }
DNA_FAST_INLINE void narrow(float value, float& result) { result = value; }
DNA_FAST_INLINE void narrow(float value, BFloat16& result) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    result.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
DNA_FAST_INLINE void narrow(float value, Float16& result) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = word + word;
    // Too large for float16 becomes inf in the first product; the second leaves everything else 4 times too large.
    const float base = (std::bit_cast<float>(word & 0x7fffffffu) * 0x1p112f) * 0x1p-110f;
    // Adding a power of two that pushes all but float16's mantissa bits out lets the addition itself round.
    const std::uint32_t exponent = magnitude & 0xff000000u;
    const std::uint32_t least = exponent < 0x71000000u ? 0x71000000u : exponent;  // float16's smallest normal
    const std::uint32_t sum = std::bit_cast<std::uint32_t>(std::bit_cast<float>((least >> 1) + 0x07800000u) + base);
    const std::uint32_t finite = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);  // a mantissa that overflowed carries over
    result.bits =
        static_cast<std::uint16_t>(((word & 0x80000000u) >> 16) | (magnitude > 0xff000000u ? 0x7e00u : finite));
}

}  // namespace dna_fast
