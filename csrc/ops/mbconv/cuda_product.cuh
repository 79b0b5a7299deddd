// What the kernels of mbconv share: storage, products of 16 x 8 on tensor cores, SiLU.
#pragma once

#include <cstdint>

#include "common/cuda_utils.cuh"
#include "common/cuda_warp.cuh"
#include "mbconv_cuda.h"

namespace dna_fast::mbconv {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kGranule = 16;  // bytes of one asynchronous copy

template <Dtype kDtype>
struct Storage;
template <>
struct Storage<Dtype::float32> {
    using Type = float;
};
template <>
struct Storage<Dtype::bfloat16> {
    using Type = cuda::BFloat16;
};
template <>
struct Storage<Dtype::float16> {
    using Type = cuda::Float16;
};

// d += a b over one step of depth. a: 16 rows, b: 8 columns, each a row of kStepBytes bytes of depth; both as
// load_matrix_x4 brings them, whatever the storage: 4 floats lie where 8 halves do.
template <class T>
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    cuda::multiply_m16n8k16(d, a, b, T{});
}
// Tensor cores keep 11 bits of a float. A float is the sum of two such numbers and a rest of 2^-22; of the four
// products of the parts the smallest is left out.
template <>
__device__ inline void multiply<float>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    const auto low_part = [](std::uint32_t word, std::uint32_t high) {
        return cuda::to_tf32(cuda::as_float(word) - cuda::as_float(high));
    };
    // What lies below tf32's bits is for the hardware to leave as it likes.
    const auto high_part = [](std::uint32_t word) { return cuda::to_tf32(cuda::as_float(word)) & 0xffffe000u; };
    std::uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        a_high[i] = high_part(a[i]);
        a_low[i] = low_part(a[i], a_high[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        b_high[i] = high_part(b[i]);
        b_low[i] = low_part(b[i], b_high[i]);
    }
    cuda::multiply_m16n8k8_tf32(d, a_low, b_high);
    cuda::multiply_m16n8k8_tf32(d, a_high, b_low);
    cuda::multiply_m16n8k8_tf32(d, a_high, b_high);
}

// Two neighbours of a row, as every lane holds them in a product's result: one store, aligned.
__device__ inline void store_pair(float low, float high, float* at) {
    *reinterpret_cast<float2*>(at) = make_float2(low, high);
}
template <class T>
__device__ inline void store_pair(float low, float high, T* at) {
    *reinterpret_cast<std::uint32_t*>(at) = cuda::pack(low, high, T{});
}

// -log2(e) silu(x) of t = -log2(e) x, twice. One division serves both where storage is coarse: it takes the unit that
// also makes exponentials, which is the scarcest. Beyond 2^60 the sigmoid is 0 in any storage.
template <class T>
__device__ inline void scaled_silu(float& first, float& second) {
    if constexpr (sizeof(T) == 4) {
        first *= cuda::reciprocal_approximate(1.0f + cuda::exp2_approximate(first));
        second *= cuda::reciprocal_approximate(1.0f + cuda::exp2_approximate(second));
    } else {
        const float a = 1.0f + cuda::exp2_approximate(fminf(first, 60.0f));
        const float b = 1.0f + cuda::exp2_approximate(fminf(second, 60.0f));
        const float inverse = cuda::reciprocal_approximate(a * b);
        first *= inverse * b;
        second *= inverse * a;
    }
}

// A scale and a shift, multiplied so that the result is what scaled_silu takes.
struct ScaleShift {
    float scale, shift;
};
__device__ inline ScaleShift scaled(const float* row, int channels, int channel) {
    if (channel >= channels) return {0.0f, 0.0f};
    return {row[channel] * kSiluScale, row[channels + channel] * kSiluScale};
}

__device__ inline int warp_number() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_number() { return static_cast<int>(threadIdx.x) % kWarp; }

template <class V>
__device__ inline V warp_sum(V value) {
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += cuda::shuffle_xor(value, lanes);
    return value;
}

}  // namespace dna_fast::mbconv
