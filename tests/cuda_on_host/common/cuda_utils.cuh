// Takes the place of csrc/common/cuda_utils.cuh where a kernel is compiled for the CPU: the same names, and CUDA's
// words as far as kernels of ours use them.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/low_precision.h"
#include "cuda_runtime_api.h"
#include "machine.h"
#include "shared_memory.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local  // shared_memory.cpp finds these variables, and has them full of NaN
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace dna_fast::cuda {

using BFloat16 = dna_fast::BFloat16;
using Float16 = dna_fast::Float16;
using dna_fast::narrow;
using dna_fast::widen;

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }

inline constexpr int kVectorBytes = host::kAccessBytes;

inline bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0; }

template <class T, int kCount>
void load(const T* from, T (&to)[kCount]) {
    static_assert(sizeof(to) % kVectorBytes == 0);
    host::expect_aligned("load", from);
    std::memcpy(to, from, sizeof(to));
}
template <class T, int kCount>
void store(const T (&from)[kCount], T* to) {
    static_assert(sizeof(from) % kVectorBytes == 0);
    host::expect_aligned("store", to);
    std::memcpy(to, from, sizeof(from));
}

inline unsigned char* dynamic_shared() { return host::dynamic_shared_memory(); }

inline void copy_async_16(void* shared, const void* global, bool there) { host::start_copy(shared, global, there); }
inline void copy_async_commit() { host::end_group_of_copies(); }
template <int kLeft>
void copy_async_wait() {
    host::finish_copies(kLeft);
}

inline float as_float(std::uint32_t word) { return std::bit_cast<float>(word); }
inline std::uint32_t as_word(float value) { return std::bit_cast<std::uint32_t>(value); }

// As wrong as it may be, up or down: `exact` with the relative error, on a side that depends on the argument's bits.
inline float inexact(double exact, double error, float argument) {
    const double side = std::popcount(std::bit_cast<std::uint32_t>(argument)) % 2 == 0 ? 1 : -1;
    const float result = static_cast<float>(exact * (1 + side * error));
    return std::abs(result) < std::numeric_limits<float>::min() ? std::copysign(0.0f, result) : result;
}
inline float without_subnormal(float value) {
    return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}
// The errors are what PTX allows less the rounding to float32. 2^0 is exact.
inline float exp2_approximate(float x) {
    x = without_subnormal(x);
    return x == 0 ? 1 : inexact(std::exp2(static_cast<double>(x)), 0x1p-22 - 0x1p-24, x);
}
inline float reciprocal_approximate(float x) {
    x = without_subnormal(x);
    return x == 0 || std::isinf(x) ? 1 / x : inexact(1 / static_cast<double>(x), 0x1p-23 - 0x1p-24, x);
}

template <class T>
std::uint32_t pack(float low, float high, T) {
    T lower, upper;
    narrow(low, lower);
    narrow(high, upper);
    return std::uint32_t{upper.bits} << 16 | lower.bits;
}
template <class T>
float unpack_low(std::uint32_t word, T) {
    return widen(T{static_cast<std::uint16_t>(word)});
}
template <class T>
float unpack_high(std::uint32_t word, T) {
    return widen(T{static_cast<std::uint16_t>(word >> 16)});
}

template <class... P>
cudaError_t launch(void (*kernel)(P...), Grid grid, unsigned threads, std::size_t shared_bytes, cudaStream_t,
                   std::type_identity_t<P>... arguments) {
    host::run_grid(grid, threads, shared_bytes, [&] { kernel(arguments...); });
    return cudaSuccess;
}
template <class... P>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t stream,
                   std::type_identity_t<P>... arguments) {
    return launch(kernel, Grid{blocks, 1, 1}, threads, 0, stream, arguments...);
}

}  // namespace dna_fast::cuda
