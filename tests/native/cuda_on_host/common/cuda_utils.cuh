// Takes the place of csrc/common/cuda_utils.cuh where a kernel is compiled for the CPU: CUDA's words, as far as kernels
// of ours use them. A block's threads are threads; its shared memory is static, so blocks run one after another.
//
// This shows whether indices, bounds and synchronisation are right. It knows nothing of warps, memory spaces or speed.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#include "common/low_precision.h"
#include "cuda_runtime_api.h"
#include "driver.h"

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
    unsigned x;
};
inline thread_local Index threadIdx, blockIdx;
inline pthread_barrier_t block_barrier;
inline bool barriers_hold = true;  // false: an error made on purpose, which ThreadSanitizer must find
inline void __syncthreads() {
    if (barriers_hold) pthread_barrier_wait(&block_barrier);
}

namespace dna_fast::cuda {

using BFloat16 = dna_fast::BFloat16;
using Float16 = dna_fast::Float16;
using dna_fast::narrow;
using dna_fast::widen;

inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }

inline constexpr int kVectorBytes = 16;

inline bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0; }

// A GPU stops at a 16-byte access to another address; a CPU would not.
inline void expect_aligned(const void* pointer) { expect(aligned(pointer), "a 16-byte access to ", pointer); }

template <class T, int kCount>
void load(const T* from, T (&to)[kCount]) {
    static_assert(sizeof(to) % kVectorBytes == 0);
    expect_aligned(from);
    std::memcpy(to, from, sizeof(to));
}
template <class T, int kCount>
void store(const T (&from)[kCount], T* to) {
    static_assert(sizeof(from) % kVectorBytes == 0);
    expect_aligned(to);
    std::memcpy(to, from, sizeof(from));
}

template <class... P>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t,
                   std::type_identity_t<P>... arguments) {
    pthread_barrier_init(&block_barrier, nullptr, threads);
    std::vector<std::thread> block;
    for (unsigned thread = 0; thread < threads; ++thread) {
        block.emplace_back([=] {
            threadIdx.x = thread;
            for (unsigned b = 0; b < blocks; ++b) {
                blockIdx.x = b;
                kernel(arguments...);
                pthread_barrier_wait(&block_barrier);  // the next block takes over the shared memory
            }
        });
    }
    for (std::thread& thread : block) thread.join();
    pthread_barrier_destroy(&block_barrier);
    return cudaSuccess;
}

}  // namespace dna_fast::cuda
