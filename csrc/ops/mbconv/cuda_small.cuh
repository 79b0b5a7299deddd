// mbconv on a GPU: the small kernels around the two large ones. None of them has atomics; every sum has one order.
// Measured: nowhere yet, see docs/gpu-status.md.
#pragma once

#include "cuda_product.cuh"

namespace dna_fast::mbconv {

constexpr int kTileSide = 32;

// Calibration's second half: raw results [images, Q, R, M] through batch norm 2 and SiLU into planes, with sums over
// pixels. A block takes kTileSide channels of one image and goes through its pixels in groups of kTileSide, which it
// turns from rows of channels into rows of pixels in shared memory.
struct ActivateArguments {
    const void* h;
    const float* affine;
    void* planes;
    float* sums;
    std::int64_t affine_stride, first_image, images_per_prefix;
    int mid_channels, out_rows, out_cols, padded_cols;
};
template <class T>
__global__ void __launch_bounds__(kThreads) activate_kernel(const __grid_constant__ ActivateArguments a) {
    __shared__ float tile[kTileSide][kTileSide + 1];
    __shared__ float partial[kWarps][kTileSide];
    const int lane = lane_number(), warp = warp_number();
    const std::int64_t image = blockIdx.y;
    const int first = static_cast<int>(blockIdx.x) * kTileSide, channel = first + lane;
    const float* const row = a.affine + (a.first_image + image) / a.images_per_prefix * a.affine_stride;
    const ScaleShift norm = scaled(row, a.mid_channels, channel);
    const int size = a.out_rows * a.padded_cols;
    float sum = 0.0f;
    for (int begin = 0; begin < size; begin += kTileSide) {
        for (int i = warp; i < kTileSide; i += kWarps) {  // a warp a pixel, a lane a channel
            const int at = begin + i, q = at / a.padded_cols, r = at % a.padded_cols;
            float value = 0.0f;
            if (at < size && r < a.out_cols && channel < a.mid_channels) {
                const std::int64_t pixel = (image * a.out_rows + q) * a.out_cols + r;
                value = cuda::multiply_add(cuda::widen(static_cast<const T*>(a.h)[pixel * a.mid_channels + channel]),
                                           norm.scale, norm.shift);
                float unused = 0.0f;
                scaled_silu<float>(value, unused);
                sum += value;
            }
            tile[i][lane] = value;
        }
        __syncthreads();                                  // the tile is complete
        for (int i = warp; i < kTileSide; i += kWarps) {  // a warp a channel, a lane a pixel
            const int at = begin + lane;
            if (first + i < a.mid_channels && at < size) {
                T* const plane = static_cast<T*>(a.planes) + (image * a.mid_channels + first + i) * size;
                cuda::narrow(tile[lane][i], plane[at]);
            }
        }
        __syncthreads();  // nobody reads it any more
    }
    if (a.sums == nullptr) return;  // all threads alike
    partial[warp][lane] = sum;
    __syncthreads();  // all warps' shares are there
    if (warp == 0 && channel < a.mid_channels) {
        float total = 0.0f;
        for (int w = 0; w < kWarps; ++w) total += partial[w][lane];
        a.sums[image * a.mid_channels + channel] = total;
    }
}

template <class T>
cudaError_t launch_activate(const ActivateCall& call, cudaStream_t stream) {
    const Shape& s = call.shape;
    ActivateArguments a{};
    a.h = call.h;
    a.affine = call.affine;
    a.planes = call.planes;
    a.sums = call.sums;
    a.affine_stride = call.affine_stride;
    a.first_image = call.first_image;
    a.images_per_prefix = call.images_per_prefix;
    a.mid_channels = static_cast<int>(s.mid_channels);
    a.out_rows = static_cast<int>(s.out_rows);
    a.out_cols = static_cast<int>(s.out_cols);
    a.padded_cols = static_cast<int>(plane_cols(s.out_cols));
    const cuda::Grid grid{static_cast<unsigned>((s.mid_channels + kTileSide - 1) / kTileSide),
                          static_cast<unsigned>(call.images), 1};
    return cuda::launch(&activate_kernel<T>, grid, kThreads, 0, stream, a);
}

// Moments of the projection's raw result over pixels: a thread a channel, in float64, pixel by pixel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const T* __restrict__ y,  // [images, pixels, channels]
                   std::int64_t pixels, int channels, double* __restrict__ moments) {
    const int channel = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
    if (channel >= channels) return;
    const std::int64_t image = blockIdx.y;
    double sum = 0.0, squares = 0.0;
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        const double value = static_cast<double>(cuda::widen(y[(image * pixels + pixel) * channels + channel]));
        sum += value;
        squares = cuda::multiply_add(value, value, squares);
    }
    moments[image * 2 * channels + channel] = sum;
    moments[(image * 2 + 1) * channels + channel] = squares;
}

template <class T>
cudaError_t launch_moments(const MomentsCall& call, cudaStream_t stream) {
    const cuda::Grid grid{static_cast<unsigned>((call.channels + kThreads - 1) / kThreads),
                          static_cast<unsigned>(call.images), 1};
    return cuda::launch(&moments_kernel<T>, grid, kThreads, 0, stream, static_cast<const T*>(call.y), call.pixels,
                        static_cast<int>(call.channels), call.moments);
}

}  // namespace dna_fast::mbconv
