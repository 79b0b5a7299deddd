// What a thread of device code needs besides the language: storage types, 16-byte accesses and copies, approximations;
// and launches that report their error. What a warp does together: cuda_warp.cuh.
//
// The kernels use no other CUDA than these two headers, threadIdx.x, blockDim.x, blockIdx, gridDim, __syncthreads and
// __shared__: so tests/cuda_on_host/ can take their place and run the same kernels on a CPU, under sanitizers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
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

// The block's dynamic shared memory, of the size that the launch gave.
__device__ inline unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

__device__ inline std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes from global to shared memory, past the registers, while the thread goes on; zeros where !there, and
// then `global` is not read. Both addresses must be aligned to 16 bytes. What the copy brings can be read by this
// thread after the copy_async_wait for its group, by other threads after a barrier that follows it.
__device__ inline void copy_async_16(void* shared, const void* global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0)
                 : "memory");
}

// Ends a group: the copies that this thread has started since its last group, possibly none.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread but the last kLeft.
template <int kLeft>
__device__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// The bits of a float32.
__device__ inline float as_float(std::uint32_t word) { return __uint_as_float(word); }
__device__ inline std::uint32_t as_word(float value) { return __float_as_uint(value); }

// 2^x and 1 / x within 2^-22 and 2^-23 of the exact value, relatively; subnormal numbers count as zero.
__device__ inline float exp2_approximate(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
__device__ inline float reciprocal_approximate(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// Two values, each rounded to nearest even, in one word: `low` in its lower half.
__device__ inline std::uint32_t pack(float low, float high, BFloat16) {
    std::uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
__device__ inline std::uint32_t pack(float low, float high, Float16) {
    std::uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
__device__ inline float unpack_low(std::uint32_t word, BFloat16) { return __uint_as_float(word << 16); }
__device__ inline float unpack_high(std::uint32_t word, BFloat16) { return __uint_as_float(word & 0xffff0000u); }
__device__ inline float unpack_low(std::uint32_t word, Float16) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
}
__device__ inline float unpack_high(std::uint32_t word, Float16) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}

struct Grid {
    unsigned x, y, z;  // blocks; y and z at most 65535
};

// Starts a kernel. Unlike <<<>>> and cudaGetLastError(), the error returned is of this launch and of no earlier one;
// and it is taken back, so that nobody else mistakes it for theirs.
template <class... P>
cudaError_t launch(void (*kernel)(P...), Grid grid, unsigned threads, std::size_t shared_bytes, cudaStream_t stream,
                   std::type_identity_t<P>... arguments) {
    const void* const function = reinterpret_cast<const void*>(kernel);
    constexpr std::size_t kGranted = 48 << 10;  // more dynamic shared memory than this must be asked for
    cudaError_t error = cudaSuccess;
    if (shared_bytes > kGranted) {
        // Always the device's most: another thread may be about to launch the same kernel with another size.
        int device = 0, most = 0;
        error = cudaGetDevice(&device);
        if (error == cudaSuccess)
            error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    }
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    if (error == cudaSuccess) {
        error = cudaLaunchKernel(function, dim3(grid.x, grid.y, grid.z), dim3(threads), pointers, shared_bytes, stream);
    }
    if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
    return error;
}

// The same on a one-dimensional grid, without dynamic shared memory.
template <class... P>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t stream,
                   std::type_identity_t<P>... arguments) {
    return launch(kernel, Grid{blocks, 1, 1}, threads, 0, stream, arguments...);
}

}  // namespace dna_fast::cuda
