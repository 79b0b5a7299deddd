// Kernels with one error each, for faults_driver.cpp: all meant to write out[i] = in[i] * 2 + 1 or to say why not.
#pragma once

#include "common/cuda_utils.cuh"
#include "common/cuda_warp.cuh"

namespace dna_fast::faults {

constexpr int kThreads = 64;
constexpr int kSharedBytes = kThreads * 16;

struct Params {
    const float* in;  // [gridDim.x, kThreads], of blocks of kThreads
    float* out;       // likewise
};

__device__ inline int own(int thread) { return static_cast<int>(blockIdx.x) * kThreads + thread; }
__device__ inline int thread_of_block() { return static_cast<int>(threadIdx.x); }
__device__ inline float* floats() { return reinterpret_cast<float*>(cuda::dynamic_shared()); }

// The block reads what other threads may not have written yet.
__global__ void no_barrier(Params p) {
    const int thread = thread_of_block(), other = kThreads - 1 - thread;
    floats()[thread] = p.in[own(thread)];
    p.out[own(other)] = floats()[other] * 2 + 1;
}

// A lane reads what other lanes may not have written yet.
__global__ void no_warp_barrier(Params p) {
    const int thread = thread_of_block(), other = thread ^ 1;
    floats()[thread] = p.in[own(thread)];
    p.out[own(other)] = floats()[other] * 2 + 1;
}

// The same of the rows of matrices.
__global__ void no_warp_barrier_before_rows(Params p) {
    const int thread = thread_of_block(), warp = thread / 32, lane = thread % 32;
    const float values[4] = {p.in[own(thread)], 0, 0, 0};
    cuda::store(values, floats() + 4 * thread);
    std::uint32_t words[4];
    cuda::load_matrix_x4(words, floats() + 4 * (32 * warp + 31 - lane));
    // Matrix m is rows 31 - 8m, 30 - 8m, ... of the warp; lane 4 g has the first words of their g-th rows.
    for (int m = 0; m < 4; ++m) {
        if (lane % 4 == 0) p.out[own(32 * warp + 31 - 8 * m - lane / 4)] = cuda::as_float(words[m]) * 2 + 1;
    }
}

// A variable that only the first block writes: the others find it as another block may have left it.
__global__ void left_by_another_block(Params p) {
    __shared__ float factor;
    const int thread = thread_of_block();
    if (blockIdx.x == 0 && thread == 0) factor = 2;
    __syncthreads();  // factor is there
    p.out[own(thread)] = p.in[own(thread)] * factor + 1;
}

// Every block goes on where the one before it is thought to have ended.
__global__ void in_order_of_blocks(Params p) {
    const int thread = thread_of_block();
    p.out[own(thread)] = p.in[own(thread)] * 2 + 1;
    if (blockIdx.x > 0 && p.out[own(thread) - kThreads] != p.in[own(thread) - kThreads] * 2 + 1) p.out[own(thread)] = 0;
}

__global__ void shared_store_beyond(Params p) {
    const int thread = thread_of_block();
    floats()[kSharedBytes / 4 + thread] = p.in[own(thread)];
}

__global__ void shared_store_below(Params p) {
    const int thread = thread_of_block();
    floats()[-1 - thread] = p.in[own(thread)];
}

__global__ void shared_variable_beyond(Params p) {
    __shared__ float kept[kThreads / 2];
    const int thread = thread_of_block();
    kept[thread] = p.in[own(thread)];
    p.out[own(thread)] = kept[thread] * 2 + 1;
}

__global__ void global_store_beyond(Params p) {
    const int thread = thread_of_block();
    p.out[own(thread) + 1] = p.in[own(thread)] * 2 + 1;
}

__global__ void barrier_after_return(Params p) {
    const int thread = thread_of_block();
    p.out[own(thread)] = p.in[own(thread)] * 2 + 1;
    if (thread >= 32) return;
    __syncthreads();
}

__global__ void two_barriers(Params p) {
    const int thread = thread_of_block();
    if (thread < 32) {
        __syncthreads();
        p.out[own(thread)] = p.in[own(thread)] * 2 + 1;
    } else {
        p.out[own(thread)] = p.in[own(thread)] * 2 + 1;
        __syncthreads();
    }
}

__global__ void half_a_warp(Params p) {
    const int thread = thread_of_block();
    float value = p.in[own(thread)];
    if (thread % 32 < 16) value = cuda::shuffle_xor(cuda::shuffle_xor(value, 1), 1);
    p.out[own(thread)] = value * 2 + 1;
}

__global__ void two_places_in_a_warp(Params p) {
    const int thread = thread_of_block();
    float value = p.in[own(thread)];
    if (thread % 32 < 16) {
        value = cuda::shuffle_xor(value, 0);
    } else {
        value = cuda::shuffle_xor(value, 0);
    }
    p.out[own(thread)] = value * 2 + 1;
}

__global__ void misaligned_load(Params p) {
    float values[4];
    cuda::load(p.in + 1, values);
    p.out[own(thread_of_block())] = values[0];
}

__global__ void misaligned_copy(Params p) { cuda::copy_async_16(floats() + 2 * thread_of_block(), p.in, true); }

__global__ void misaligned_row(Params) {
    std::uint32_t words[4];
    cuda::load_matrix_x4(words, floats() + 2 * thread_of_block());
}

__global__ void copy_beyond(Params p) { cuda::copy_async_16(floats() + 4 * thread_of_block() + 4, p.in, true); }

__global__ void row_beyond(Params) {
    std::uint32_t words[4];
    cuda::load_matrix_x4(words, floats() + 4 * thread_of_block() + 4);
}

// Copies the block's values to shared memory, four by a thread.
__device__ inline void copy_values(const Params& p) {
    const int thread = thread_of_block();
    if (thread < kThreads / 4) cuda::copy_async_16(floats() + 4 * thread, p.in + own(4 * thread), true);
    cuda::copy_async_commit();
}

__global__ void no_wait(Params p) {
    copy_values(p);
    __syncthreads();
    p.out[own(thread_of_block())] = floats()[thread_of_block()] * 2 + 1;
}

__global__ void wait_for_too_few(Params p) {
    copy_values(p);
    cuda::copy_async_wait<1>();
    __syncthreads();
    p.out[own(thread_of_block())] = floats()[thread_of_block()] * 2 + 1;
}

// Waits for groups, of which there are none.
__global__ void no_commit(Params p) {
    const int thread = thread_of_block();
    if (thread < kThreads / 4) cuda::copy_async_16(floats() + 4 * thread, p.in + own(4 * thread), true);
    cuda::copy_async_wait<0>();
    __syncthreads();
    p.out[own(thread)] = floats()[thread] * 2 + 1;
}

__global__ void no_barrier_after_wait(Params p) {
    copy_values(p);
    cuda::copy_async_wait<0>();
    p.out[own(thread_of_block())] = floats()[thread_of_block()] * 2 + 1;
}

}  // namespace dna_fast::faults
