// mbconv on a GPU: kernels that know nothing of the storage type.
// Measured: nowhere yet, see docs/gpu-status.md.
#pragma once

#include "cuda_product.cuh"

namespace dna_fast::mbconv {

__device__ inline float sigmoid(float x) {
    return cuda::reciprocal_approximate(1.0f + cuda::exp2_approximate(x * kSiluScale));
}

// sigmoid(conv_expand(silu(conv_reduce(means)))) for kGateImages images a block. Parts of an image are added in order.
// Synchronises: twice, means -> squeezed -> gates.
__global__ void __launch_bounds__(kThreads) gate_kernel(const __grid_constant__ GateCall a) {
    const int mid = static_cast<int>(a.mid_channels), squeezed = static_cast<int>(a.se_channels);
    float* const means = reinterpret_cast<float*>(cuda::dynamic_shared());  // [kGateImages][M]
    float* const hidden = means + kGateImages * mid;                        // [kGateImages][S]
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kGateImages;
    const int images = static_cast<int>(a.images - first < kGateImages ? a.images - first : kGateImages);
    const int thread = static_cast<int>(threadIdx.x), lane = lane_number();
    const float inverse = 1.0f / (static_cast<float>(a.pixels) * kSiluScale);
    for (int i = thread; i < kGateImages * mid; i += kThreads) {
        const int image = i / mid, m = i % mid;
        float sum = 0.0f;
        for (std::int64_t part = 0; image < images && part < a.parts; ++part)
            sum += a.sums[((first + image) * a.parts + part) * mid + m];
        means[i] = sum * inverse;
    }
    __syncthreads();  // all means are there
    for (int s = warp_number(); s < squeezed; s += kWarps) {
        float sums[kGateImages] = {};
        for (int m = lane; m < mid; m += kWarp) {
            const float weight = a.reduce[static_cast<std::int64_t>(s) * mid + m];
#pragma unroll
            for (int image = 0; image < kGateImages; ++image)
                sums[image] = cuda::multiply_add(weight, means[image * mid + m], sums[image]);
        }
#pragma unroll
        for (int image = 0; image < kGateImages; ++image) {
            const float value = warp_sum(sums[image]) + a.reduce_bias[s];
            if (lane == 0) hidden[image * squeezed + s] = value * sigmoid(value);
        }
    }
    __syncthreads();  // all hidden channels are there
    for (int m = thread; m < mid; m += kThreads) {
        float sums[kGateImages];
#pragma unroll
        for (int image = 0; image < kGateImages; ++image) sums[image] = a.expand_bias[m];
        for (int s = 0; s < squeezed; ++s) {
            const float weight = a.expand[static_cast<std::int64_t>(s) * mid + m];
#pragma unroll
            for (int image = 0; image < kGateImages; ++image)
                sums[image] = cuda::multiply_add(weight, hidden[image * squeezed + s], sums[image]);
        }
        for (int image = 0; image < images; ++image) a.gates[(first + image) * mid + m] = sigmoid(sums[image]);
    }
}

inline cudaError_t launch_gate_kernel(const GateCall& call, cudaStream_t stream) {
    const std::int64_t bytes = gate_shared_bytes(call.mid_channels, call.se_channels);
    const cuda::Grid grid{static_cast<unsigned>((call.images + kGateImages - 1) / kGateImages), 1, 1};
    return cuda::launch(&gate_kernel, grid, kThreads, static_cast<std::size_t>(bytes), stream, call);
}

// Sums over an image of its blocks of 8 columns: a block an image, every thread some of them, then a tree over threads.
constexpr int kEndingSums = 3;
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishCall a) {
    __shared__ double partial[kWarps][kEndingSums];
    const std::int64_t image = blockIdx.x;
    double sums[kEndingSums] = {};
    for (std::int64_t i = threadIdx.x; i < a.count; i += kThreads) {
        for (int k = 0; k < kEndingSums; ++k)
            sums[k] += static_cast<double>(a.partial_sums[(image * a.count + i) * kEndingSums + k]);
    }
    for (int k = 0; k < kEndingSums; ++k) {
        const double sum = warp_sum(sums[k]);
        if (lane_number() == 0) partial[warp_number()][k] = sum;
    }
    __syncthreads();  // all warps' shares are there
    if (threadIdx.x < kEndingSums) {
        double total = 0.0;
        for (int warp = 0; warp < kWarps; ++warp) total += partial[warp][threadIdx.x];
        a.sums[image * kEndingSums + threadIdx.x] = total;
    }
}

inline cudaError_t launch_finish_kernel(const FinishCall& call, cudaStream_t stream) {
    const cuda::Grid grid{static_cast<unsigned>(call.images), 1, 1};
    return cuda::launch(&finish_kernel, grid, kThreads, 0, stream, call);
}

}  // namespace dna_fast::mbconv
