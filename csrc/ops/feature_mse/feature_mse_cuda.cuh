// feature_mse on a GPU: the CPU's chunks, one block each.
//
// Computes: stage 1, sum (s - t)^2 of each chunk and, if wanted, (s - t) * gradient_scale, both from the same
// registers; stage 2, the mean. Work: a block of kThreads threads takes one chunk, a thread every kThreads-th group of
// it, a group being the elements of one 16-byte access to the narrower operand (the wider takes two); stage 2 is a
// single block over all chunk sums. Assumes: both operands dense in the same order; 16-byte accesses only where all
// pointers are aligned for them, else one element at a time, by the same threads in the same order.
// Synchronises: within a block, for the tree over its threads; stage 2 follows stage 1 on the same stream. No atomics:
// the bits depend on the number of elements only.
// Accumulates: in float32 within a chunk (float64 for float64), in float64 above, as the CPU. A summand goes through
// kChunk / kThreads = 32 additions and log2(kThreads) = 8 of the tree: fewer than on the CPU, whose error bound holds.
// Bound by memory: 8 bytes read and 4 written per float32 element. Measured: nowhere yet, see docs/gpu-status.md.
#pragma once

#include <algorithm>
#include <cassert>
#include <limits>
#include <type_traits>

#include "common/cuda_utils.cuh"
#include "feature_mse_cuda.h"

namespace dna_fast::feature_mse {

constexpr int kThreads = 256;
constexpr int kTotalThreads = 512;

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
template <>
struct Storage<Dtype::float64> {
    using Type = double;
};

template <class S, class T>
struct Traits {
    static_assert(std::is_same_v<S, double> == std::is_same_v<T, double>, "float64 mixes with no other dtype");
    using Acc = std::conditional_t<std::is_same_v<S, double>, double, float>;
    static constexpr int kGroup = cuda::kVectorBytes / static_cast<int>(std::min(sizeof(S), sizeof(T)));
    static constexpr int kStride = kThreads * kGroup;  // elements that a block takes at once
    static constexpr int kSteps = static_cast<int>(kChunk) / kStride;
    static_assert(kSteps * kStride == kChunk, "a full chunk must not need a check per element");
};

// Sum of `partial` over the threads of a block, in partial[0]: always by the same tree.
template <int kWidth, class Acc>
__device__ void block_sum(Acc (&partial)[kWidth]) {
    static_assert((kWidth & (kWidth - 1)) == 0);
    for (int width = kWidth / 2; width > 0; width /= 2) {
        __syncthreads();  // all wait: the upper half, or the last level's sums, must be written before they are read
        const int thread = static_cast<int>(threadIdx.x);
        if (thread < width) partial[thread] += partial[thread + width];  // nobody reads what another writes here
    }
}

// Stage 1. kAligned: student, teacher and gradient allow 16-byte accesses.
template <class S, class T, bool kGradient, bool kAligned>
__global__ void __launch_bounds__(kThreads) chunk_sums(const S* __restrict__ student,  // [numel]
                                                       const T* __restrict__ teacher,  // [numel]
                                                       S* __restrict__ gradient,  // [numel], null without kGradient
                                                       std::int64_t numel, typename Traits<S, T>::Acc scale,
                                                       double* __restrict__ sums) {  // [gridDim.x]
    using Acc = typename Traits<S, T>::Acc;
    constexpr int kGroup = Traits<S, T>::kGroup, kStride = Traits<S, T>::kStride, kSteps = Traits<S, T>::kSteps;
    const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kChunk, left = numel - begin;
    const int thread = static_cast<int>(threadIdx.x);
    student += begin;
    teacher += begin;
    if constexpr (kGradient) gradient += begin;

    Acc sum = 0;
    if (kAligned && left >= kChunk) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {  // without a branch, so that many loads are under way at once
            const int first = step * kStride + thread * kGroup;
            S s[kGroup], g[kGroup];
            T t[kGroup];
            cuda::load(student + first, s);
            cuda::load(teacher + first, t);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                const Acc difference = cuda::widen(s[i]) - cuda::widen(t[i]);
                sum = cuda::multiply_add(difference, difference, sum);
                if constexpr (kGradient) cuda::narrow(difference * scale, g[i]);
            }
            if constexpr (kGradient) cuda::store(g, gradient + first);
        }
    } else {
        const int count = static_cast<int>(left < kChunk ? left : kChunk);
        for (int first = thread * kGroup; first < count; first += kStride) {
            for (int i = first; i < first + kGroup && i < count; ++i) {
                const Acc difference = cuda::widen(student[i]) - cuda::widen(teacher[i]);
                sum = cuda::multiply_add(difference, difference, sum);
                if constexpr (kGradient) cuda::narrow(difference * scale, gradient[i]);
            }
        }
    }

    __shared__ Acc partial[kThreads];
    partial[thread] = sum;
    block_sum(partial);
    if (thread == 0) sums[blockIdx.x] = partial[0];  // thread 0 itself wrote it last
}

// Stage 2, one block.
template <class Loss>
__global__ void __launch_bounds__(kTotalThreads)
    mean(const double* __restrict__ sums,  // [chunks]
         std::int64_t chunks, std::int64_t numel, Loss* __restrict__ loss) {
    const int thread = static_cast<int>(threadIdx.x);
    double sum = 0.0;
    for (std::int64_t chunk = thread; chunk < chunks; chunk += kTotalThreads) sum += sums[chunk];
    __shared__ double partial[kTotalThreads];
    partial[thread] = sum;
    block_sum(partial);
    if (thread == 0) *loss = static_cast<Loss>(partial[0] / static_cast<double>(numel));
}

template <class S, class T, bool kGradient, bool kAligned>
cudaError_t launch_stages(const Params& params, const CudaOutput& output, cudaStream_t stream) {
    using Acc = typename Traits<S, T>::Acc;
    const std::int64_t count = chunks(params.numel);
    assert(count > 0 && count <= std::numeric_limits<std::int32_t>::max());  // CUDA's largest grid: 1.7e13 elements
    const cudaError_t error = cuda::launch(chunk_sums<S, T, kGradient, kAligned>, static_cast<unsigned>(count),
                                           kThreads, stream, static_cast<const S*>(params.student),
                                           static_cast<const T*>(params.teacher), static_cast<S*>(params.gradient),
                                           params.numel, static_cast<Acc>(params.gradient_scale), output.sums);
    if (error != cudaSuccess) return error;
    return cuda::launch(mean<Acc>, 1u, kTotalThreads, stream, output.sums, count, params.numel,
                        static_cast<Acc*>(output.loss));
}

template <class S, class T>
cudaError_t with_types(const Params& params, const CudaOutput& output, cudaStream_t stream) {
    const bool aligned =
        cuda::aligned(params.student) && cuda::aligned(params.teacher) && cuda::aligned(params.gradient);
    if (params.gradient == nullptr) {
        return aligned ? launch_stages<S, T, false, true>(params, output, stream)
                       : launch_stages<S, T, false, false>(params, output, stream);
    }
    return aligned ? launch_stages<S, T, true, true>(params, output, stream)
                   : launch_stages<S, T, true, false>(params, output, stream);
}

template <Dtype kStudent>
cudaError_t launch(const Params& params, const CudaOutput& output, cudaStream_t stream) {
    using S = typename Storage<kStudent>::Type;
    assert(params.student_dtype == kStudent);
    if constexpr (kStudent == Dtype::float64) {
        assert(params.teacher_dtype == Dtype::float64);
        return with_types<S, double>(params, output, stream);
    } else {
        switch (params.teacher_dtype) {
            case Dtype::bfloat16:
                return with_types<S, cuda::BFloat16>(params, output, stream);
            case Dtype::float16:
                return with_types<S, cuda::Float16>(params, output, stream);
            case Dtype::float32:
            case Dtype::float64:  // refused at the border
                break;
        }
        assert(params.teacher_dtype == Dtype::float32);
        return with_types<S, float>(params, output, stream);
    }
}

}  // namespace dna_fast::feature_mse
