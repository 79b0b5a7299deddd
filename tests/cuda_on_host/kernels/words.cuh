// Every word of csrc/common/cuda_utils.cuh and cuda_warp.cuh in a kernel as small as can be, for words_driver.cpp.
#pragma once

#include "common/cuda_utils.cuh"
#include "common/cuda_warp.cuh"

namespace dna_fast::words {

constexpr int kThreads = 64;

// The number of every block, where its three indices say.
__global__ void __launch_bounds__(kThreads, 2) number_blocks(int* numbers) {  // [gridDim.z, gridDim.y, gridDim.x]
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    if (threadIdx.x + 1 == blockDim.x) numbers[block] = static_cast<int>(block);
}

// What lane l gets of all lanes' values, by every mask, in three types.
__global__ void __launch_bounds__(kThreads) shuffle(const double* values,                     // [kThreads]
                                                    float* f, double* d, std::uint32_t* u) {  // [32, kThreads]
    const int thread = static_cast<int>(threadIdx.x);
    const double value = values[thread];
    for (int mask = 0; mask < 32; ++mask) {
        f[mask * kThreads + thread] = cuda::shuffle_xor(static_cast<float>(value), mask);
        d[mask * kThreads + thread] = cuda::shuffle_xor(value, mask);
        u[mask * kThreads + thread] = cuda::shuffle_xor(cuda::as_word(static_cast<float>(value)), mask);
    }
}

// Each thread's value handed on through both kinds of shared memory: backwards in the block, then in its warp.
__global__ void __launch_bounds__(kThreads)
    hand_on(const float* values, float* in_block, float* in_warp) {  // [kThreads]
    __shared__ float kept[kThreads];
    float* const also_kept = reinterpret_cast<float*>(cuda::dynamic_shared());  // [kThreads]
    const int thread = static_cast<int>(threadIdx.x);
    kept[thread] = values[thread];
    __syncthreads();  // all have written kept
    in_block[thread] = kept[kThreads - 1 - thread];
    also_kept[thread] = values[thread];
    cuda::sync_warp();  // the warp has written its part of also_kept
    in_warp[thread] = also_kept[thread ^ 31];
}

// Words of four matrices that lie one after the other, as the lanes get them.
__global__ void __launch_bounds__(32) load_matrices(const std::uint16_t* matrices,                  // [4, 8, 8]
                                                    std::uint32_t* rows, std::uint32_t* columns) {  // [32, 4]
    __shared__ __align__(16) std::uint16_t kept[4 * 8 * 8];
    const int lane = static_cast<int>(threadIdx.x);
    std::uint16_t row[8];
    cuda::load(matrices + lane * 8, row);
    cuda::store(row, kept + lane * 8);
    cuda::sync_warp();  // all rows are there
    std::uint32_t words[4];
    cuda::load_matrix_x4(words, kept + lane * 8);
    cuda::store(words, rows + lane * 4);
    cuda::load_matrix_x4_transposed(words, kept + lane * 8);
    cuda::store(words, columns + lane * 4);
}

// d = 1 + a b, each lane taking its elements from where the PTX ISA says; element i of a lane is the i-th, low to high.
template <class T>
__global__ void __launch_bounds__(32) multiply(const std::uint16_t* a,  // [16, 16], the bits of T
                                               const std::uint16_t* b,  // [16, 8]
                                               float* d) {              // [16, 8]
    const int lane = static_cast<int>(threadIdx.x), group = lane / 4, place = lane % 4;
    std::uint32_t a_words[4] = {}, b_words[2] = {};
    for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const int column = place * 2 + i % 2 + (i < 4 ? 0 : 8);
        a_words[i / 2] |= static_cast<std::uint32_t>(a[row * 16 + column]) << (16 * (i % 2));
    }
    for (int i = 0; i < 4; ++i) {
        const int row = place * 2 + i % 2 + (i < 2 ? 0 : 8);
        b_words[i / 2] |= static_cast<std::uint32_t>(b[row * 8 + group]) << (16 * (i % 2));
    }
    float sums[4] = {1, 1, 1, 1};
    cuda::multiply_m16n8k16(sums, a_words, b_words, T());
    for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2] = sums[i];
}
__global__ void __launch_bounds__(32) multiply_tf32(const std::uint32_t* a,  // [16, 8], the bits of float32
                                                    const std::uint32_t* b,  // [8, 8]
                                                    float* d) {              // [16, 8]
    const int lane = static_cast<int>(threadIdx.x), group = lane / 4, place = lane % 4;
    std::uint32_t a_words[4], b_words[2];
    for (int i = 0; i < 4; ++i) {
        const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? place : place + 4;
        a_words[i] = a[row * 8 + column];
    }
    for (int i = 0; i < 2; ++i) b_words[i] = b[(i == 0 ? place : place + 4) * 8 + group];
    float sums[4] = {1, 1, 1, 1};
    cuda::multiply_m16n8k8_tf32(sums, a_words, b_words);
    for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + place * 2 + i % 2] = sums[i];
}

// Two groups of copies; the first can be read while the second is under way. Odd threads get zeros.
__global__ void __launch_bounds__(kThreads) copy(const float* from, float* first, float* second) {  // [kThreads, 4]
    float* const kept = reinterpret_cast<float*>(cuda::dynamic_shared());                           // [2, kThreads, 4]
    const int thread = static_cast<int>(threadIdx.x), other = kThreads - 1 - thread;
    const bool there = thread % 2 == 0;
    cuda::copy_async_16(kept + thread * 4, there ? from + thread * 4 : from, there);
    cuda::copy_async_commit();
    cuda::copy_async_16(kept + (kThreads + thread) * 4, there ? from + thread * 4 : from, there);
    cuda::copy_async_commit();
    cuda::copy_async_wait<1>();
    __syncthreads();  // everybody's first group is there
    float values[4];
    cuda::load(kept + other * 4, values);
    cuda::store(values, first + thread * 4);
    cuda::copy_async_wait<0>();
    __syncthreads();  // and the second
    cuda::load(kept + (kThreads + other) * 4, values);
    cuda::store(values, second + thread * 4);
}

// Approximations and formats, of each value and the one behind it.
__global__ void __launch_bounds__(kThreads) convert(const float* values, int count,                       // [count + 1]
                                                    float* exp2, float* reciprocal, std::uint32_t* tf32,  // [count]
                                                    float* bfloat16, float* float16) {                    // [count, 2]
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count) return;
    exp2[i] = cuda::exp2_approximate(values[i]);
    reciprocal[i] = cuda::reciprocal_approximate(values[i]);
    tf32[i] = cuda::to_tf32(values[i]);
    const std::uint32_t b = cuda::pack(values[i], values[i + 1], cuda::BFloat16());
    bfloat16[2 * i] = cuda::unpack_low(b, cuda::BFloat16());
    bfloat16[2 * i + 1] = cuda::unpack_high(b, cuda::BFloat16());
    const std::uint32_t f = cuda::pack(values[i], values[i + 1], cuda::Float16());
    float16[2 * i] = cuda::unpack_low(f, cuda::Float16());
    float16[2 * i + 1] = cuda::unpack_high(f, cuda::Float16());
}

}  // namespace dna_fast::words
