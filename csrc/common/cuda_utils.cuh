// What device code needs besides the language: storage types, 16-byte accesses, launches that report their error.
//
// The kernels use no other CUDA than this header and threadIdx, blockIdx, __syncthreads and __shared__: so
// tests/native/cuda_on_host/ can take its place and run the same kernels on a CPU, under sanitizers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dna_fast::cuda {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

__device__ inline double widen(double value) { return value; }
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(BFloat16 value) { return __bfloat162float(value); }
__device__ inline float widen(Float16 value) { return __half2float(value); }

// Rounds to nearest even, as the CPU's narrow() in low_precision.h.
__device__ inline void narrow(double value, double& result) { result = value; }
__device__ inline void narrow(float value, float& result) { result = value; }
__device__ inline void narrow(float value, BFloat16& result) { result = __float2bfloat16_rn(value); }
__device__ inline void narrow(float value, Float16& result) { result = __float2half_rn(value); }

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

inline constexpr int kVectorBytes = 16;  // the widest access of one thread

inline bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0; }

// kCount elements from or to an aligned address, by 16-byte accesses only.
template <class T, int kCount>
__device__ void load(const T* from, T (&to)[kCount]) {
    static_assert(sizeof(to) % kVectorBytes == 0);
    const uint4* words = reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int w = 0; w < static_cast<int>(sizeof(to)) / kVectorBytes; ++w) {
        const uint4 word = words[w];
        memcpy(reinterpret_cast<char*>(to) + w * kVectorBytes, &word, kVectorBytes);
    }
}
template <class T, int kCount>
__device__ void store(const T (&from)[kCount], T* to) {
    static_assert(sizeof(from) % kVectorBytes == 0);
    uint4* words = reinterpret_cast<uint4*>(to);
#pragma unroll
    for (int w = 0; w < static_cast<int>(sizeof(from)) / kVectorBytes; ++w) {
        uint4 word;
        memcpy(&word, reinterpret_cast<const char*>(from) + w * kVectorBytes, kVectorBytes);
        words[w] = word;
    }
}

// Starts a kernel on a one-dimensional grid. Unlike <<<>>> and cudaGetLastError(), the error returned is of this launch
// and of no earlier one; and it is taken back, so that nobody else mistakes it for theirs.
template <class... P>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t stream,
                   std::type_identity_t<P>... arguments) {
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    const cudaError_t error =
        cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(threads), pointers, 0, stream);
    if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
    return error;
}

}  // namespace dna_fast::cuda
