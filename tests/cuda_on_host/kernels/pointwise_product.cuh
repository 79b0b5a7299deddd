// A matrix product that shows the machinery at work; no kernel of the package.
//
// Computes: y = x w^T in float32, from 16-bit storage or from float32 rounded to tf32. Work: a block takes kRows x
// kColumns of y, each of its 4 warps 16 rows of them; it goes along the depth in stages of 64 bytes per row, the next
// stage being copied to shared memory while one is multiplied.
// Assumes: rows of x and w are multiples of 16 bytes, and aligned.
// Synchronises: a barrier before a stage is read, which other threads copied, and one before it is copied over.
// Accumulates in float32, 32 bytes of depth per instruction: 16 elements, or 8 of tf32.
#pragma once

#include <cassert>
#include <type_traits>

#include "common/cuda_utils.cuh"
#include "common/cuda_warp.cuh"

namespace dna_fast::pointwise_product {

// An error made on purpose.
enum class Fault { none, no_barrier_before_read, no_barrier_before_copy, no_wait, wrong_fragment, no_row_check };

template <class T>
struct Params {
    const T* x;  // [rows, depth]
    const T* w;  // [columns, depth], or [depth, columns] if transposed
    float* y;    // [rows, columns]
    int rows, columns, depth;
};

constexpr int kThreads = 128;
constexpr int kRows = 64, kColumns = 32;                     // of y, per block
constexpr int kParts = 4;                                    // of 16 bytes: a row of a stage
constexpr int kRowBytes = (kParts + 1) * 16;                 // 16 more, so that 8 rows lie in different banks
constexpr int kStageBytes = (kRows + kColumns) * kRowBytes;  // x, then w
constexpr int kSharedBytes = 2 * kStageBytes;

// Starts this thread's part of the copies of one stage.
template <class T, bool kTransposed>
__device__ void copy_stage(const Params<T>& p, int row0, int column0, int depth0, unsigned char* stage) {
    constexpr int kGroup = 16 / static_cast<int>(sizeof(T));
    for (int i = static_cast<int>(threadIdx.x); i < (kRows + kColumns) * kParts; i += kThreads) {
        const int row = i / kParts, part = i % kParts;
        const T* from = p.x;  // in any case somewhere to point to
        bool there;
        if (row < kRows) {
            const int r = row0 + row, k = depth0 + part * kGroup;
            there = r < p.rows && k < p.depth;
            if (there) from = p.x + static_cast<std::int64_t>(r) * p.depth + k;
        } else if constexpr (kTransposed) {
            const int k = depth0 + row - kRows, c = column0 + part * kGroup;
            there = k < p.depth && c < p.columns;
            if (there) from = p.w + static_cast<std::int64_t>(k) * p.columns + c;
        } else {
            const int c = column0 + row - kRows, k = depth0 + part * kGroup;
            there = c < p.columns && k < p.depth;
            if (there) from = p.w + static_cast<std::int64_t>(c) * p.depth + k;
        }
        cuda::copy_async_16(stage + row * kRowBytes + part * 16, from, there);
    }
}

template <class T, int kCount>
__device__ void round_to_storage(std::uint32_t (&words)[kCount]) {
    if constexpr (std::is_same_v<T, float>) {
        for (std::uint32_t& word : words) word = cuda::to_tf32(cuda::as_float(word));
    }
}

template <class T>
__device__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    const std::uint32_t b[2] = {b0, b1};
    if constexpr (std::is_same_v<T, float>) {
        cuda::multiply_m16n8k8_tf32(d, a, b);
    } else {
        cuda::multiply_m16n8k16(d, a, b, T());
    }
}

template <class T, bool kTransposed, Fault kFault>
__global__ void __launch_bounds__(kThreads) product(Params<T> p) {
    constexpr int kDepth = kParts * 16 / static_cast<int>(sizeof(T));  // of a stage
    static_assert(!kTransposed || kDepth == kColumns, "w's part of a stage must have as many rows either way");
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int row0 = static_cast<int>(blockIdx.x) * kRows, column0 = static_cast<int>(blockIdx.y) * kColumns;
    unsigned char* const stages = cuda::dynamic_shared();

    float sums[kColumns / 8][4] = {};
    copy_stage<T, kTransposed>(p, row0, column0, 0, stages);
    cuda::copy_async_commit();
    const int count = (p.depth + kDepth - 1) / kDepth;
    for (int s = 0; s < count; ++s) {
        const unsigned char* const x = stages + s % 2 * kStageBytes;
        const unsigned char* const w = x + kRows * kRowBytes;
        if (s + 1 < count) {
            copy_stage<T, kTransposed>(p, row0, column0, (s + 1) * kDepth, stages + (s + 1) % 2 * kStageBytes);
        }
        cuda::copy_async_commit();  // the last one is empty, so that the wait is for stage s here, too
        if constexpr (kFault != Fault::no_wait) cuda::copy_async_wait<1>();
        if constexpr (kFault != Fault::no_barrier_before_read) __syncthreads();  // all have waited for their copies
        for (int step = 0; step < kParts / 2; ++step) {
            std::uint32_t a[4];
            cuda::load_matrix_x4(a, x + (warp * 16 + lane % 16) * kRowBytes + (2 * step + lane / 16) * 16);
            round_to_storage<T>(a);
            for (int pair = 0; pair < kColumns / 16; ++pair) {
                std::uint32_t b[4];  // two b of 8 columns
                if constexpr (kTransposed) {
                    const int k = step * 16 + lane / 8 % 2 * 8 + lane % 8;
                    cuda::load_matrix_x4_transposed(b, w + k * kRowBytes + (2 * pair + lane / 16) * 16);
                } else {
                    const int column = pair * 16 + lane / 16 * 8 + lane % 8;
                    cuda::load_matrix_x4(b, w + column * kRowBytes + (2 * step + lane / 8 % 2) * 16);
                }
                round_to_storage<T>(b);
                multiply<T>(sums[2 * pair], a, b[0], b[1]);
                multiply<T>(sums[2 * pair + 1], a, b[2], b[3]);
            }
        }
        if constexpr (kFault != Fault::no_barrier_before_copy) __syncthreads();  // all have read stage s
    }

    for (int tile = 0; tile < kColumns / 8; ++tile) {
        for (int i = 0; i < 4; ++i) {
            const int place = kFault == Fault::wrong_fragment ? lane % 4 + i % 2 * 4 : lane % 4 * 2 + i % 2;
            const int row = row0 + warp * 16 + lane / 4 + i / 2 * 8, column = column0 + tile * 8 + place;
            if ((row < p.rows || kFault == Fault::no_row_check) && column < p.columns) {
                p.y[static_cast<std::int64_t>(row) * p.columns + column] = sums[tile][i];
            }
        }
    }
}

template <class T, bool kTransposed, Fault kFault = Fault::none>
cudaError_t launch(const Params<T>& p, cudaStream_t stream) {
    assert((kTransposed ? p.columns : p.depth) * sizeof(T) % 16 == 0 && p.depth * sizeof(T) % 16 == 0);
    const cuda::Grid grid{static_cast<unsigned>((p.rows + kRows - 1) / kRows),
                          static_cast<unsigned>((p.columns + kColumns - 1) / kColumns), 1};
    return cuda::launch(product<T, kTransposed, kFault>, grid, kThreads, kSharedBytes, stream, p);
}

}  // namespace dna_fast::pointwise_product
