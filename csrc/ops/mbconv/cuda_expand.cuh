// mbconv on a GPU, first kernel: expansion, batch norm 1, SiLU, depthwise, batch norm 2, SiLU.
//
// Computes: for some channels of M and some output rows and columns of an image (or whole small images), conv_dw's
// activated result as planes [images, M, Q, plane_cols(R)], zeros where a row is padded, with the sums over pixels that
// squeeze-excite wants; or its raw result [images, Q, R, M] with moments, for calibration.
//
// Work: a block walks down its rows in steps. Each step expands the rows that are new into a ring in shared memory, a
// plane a channel, and makes its output rows from the ring. Expansion is a product [channels] x [pixels]: a warp takes
// 32 channels of 32 pixels at a time, and as a lane then holds neighbouring pixels of a channel, it stores into the
// planes in pairs. The depthwise belongs to one warp per channel. In 2-byte storage it is a product too: 16 blocks of 8
// output columns against a band matrix of the taps, kernel row by kernel row, from a window of 16 columns; at stride 2
// even and odd columns lie in planes of their own (phases). float32 has no such product without loss; there a lane
// makes 8 columns by itself.
//
// Assumes: dense channels-last x; nothing about sizes or alignment. Rows of x that are multiples of 16 bytes are
// fetched asynchronously while the previous step's depthwise runs, others one element at a time.
//
// Synchronises: twice a step, see run(). No atomics; a channel's sums are always added by one warp in one order.
//
// Measured: nowhere yet, see docs/gpu-status.md.
#pragma once

#include <cassert>

#include "cuda_depthwise.cuh"

namespace dna_fast::mbconv {

template <class T, int kKernel, int kStride>
class Expand : Depthwise<T, kKernel, kStride> {
  public:
    using Depthwise<T, kKernel, kStride>::Depthwise;

    __device__ void run() {
        Rows rows = this->rows_of_step(0);
        prepare();
        fetch(rows);
        for (;;) {
            cuda::copy_async_wait<0>();
            this->list_input(rows);
            this->list_output(rows.step);
            __syncthreads();  // all of x and both lists are there; nobody reads what the last step left in the ring
            if (this->a.has_expansion) {
                expand(rows);
            } else {
                copy(rows);
            }
            if (rows.ends_step) clear_below(rows.step);
            __syncthreads();  // the ring is complete; nobody reads x or the list of input
            const Rows next = this->after(rows);
            if (next.step < this->p.steps) fetch(next);
            if (rows.ends_step) this->make_rows(rows.step);
            if (next.step >= this->p.steps) break;
            rows = next;
        }
        this->finish();
    }

  private:
    using Block = ExpandBlock<T, kKernel, kStride>;

    // Zeros in the whole ring, of which the margins and the rows above the image stay; weights, taps and sums.
    __device__ void prepare() {
        const int thread = static_cast<int>(threadIdx.x);
        for (int i = thread; i < this->p.channels * this->p.channel_pitch / 16; i += kThreads)
            reinterpret_cast<uint4*>(this->ring)[i] = uint4{0, 0, 0, 0};
        const unsigned char* taps = this->a.taps + static_cast<std::int64_t>(this->first_channel) * Block::kTaps * 4;
        const int rows = (this->channels + 15) / 16 * 16;  // packed so far
        for (int i = thread; i < rows * Block::kTaps * 4 / 16; i += kThreads)
            cuda::copy_async_16(reinterpret_cast<unsigned char*>(this->taps) + 16 * i, taps + 16 * i, true);
        if (this->a.has_expansion) {
            const int granules = this->a.in_pitch * Block::kSize / 16;
            const unsigned char* from =
                this->a.conv_pw + static_cast<std::int64_t>(this->first_channel) * this->a.in_pitch * Block::kSize;
            for (int i = thread; i < rows * granules; i += kThreads) {
                const int row = i / granules, granule = i % granules;
                cuda::copy_async_16(this->weights + row * this->p.x_pitch + 16 * granule, from + 16 * i, true);
            }
        }
        const int words = this->p.channels * (this->a.raw ? 4 : this->p.images);
        for (int i = thread; i < words; i += kThreads) this->sums[i] = 0.0f;  // a double 0 is two of them
    }

    // The block's columns of some rows of x, pixel after pixel, depth padded with zeros.
    __device__ void fetch(const Rows& rows) {
        if (this->a.has_expansion) {
            const int per_image = (rows.last - rows.first) * this->x_cols, pixels = this->images * per_image;
            const int thread = static_cast<int>(threadIdx.x);
            const int row_bytes = this->a.in_channels * Block::kSize, granules = this->a.in_pitch * Block::kSize / 16;
            const auto source = [&](int pixel) {
                const int image = pixel / per_image, in_image = pixel % per_image;
                const int row = rows.first + in_image / this->x_cols, col = this->x_col + in_image % this->x_cols;
                return static_cast<const T*>(this->a.x) +
                       (((this->first_image + image) * this->a.height + row) * this->a.width + col) *
                           this->a.in_channels;
            };
            if (this->a.is_aligned) {
                for (int i = thread; i < pixels * granules; i += kThreads) {
                    const int pixel = i / granules, byte = i % granules * 16;
                    const bool there = byte < row_bytes;
                    const unsigned char* from = reinterpret_cast<const unsigned char*>(source(pixel));
                    cuda::copy_async_16(this->pixels + pixel * this->p.x_pitch + byte, there ? from + byte : from,
                                        there);
                }
            } else {
                for (int i = thread; i < pixels * this->a.in_pitch; i += kThreads) {
                    const int pixel = i / this->a.in_pitch, channel = i % this->a.in_pitch;
                    T* const to = reinterpret_cast<T*>(this->pixels + pixel * this->p.x_pitch) + channel;
                    if (channel < this->a.in_channels) {
                        *to = source(pixel)[channel];
                    } else {
                        cuda::narrow(0.0f, *to);
                    }
                }
            }
        }
        cuda::copy_async_commit();  // in any case, with the first also what prepare() asked for
    }

    // Ring rows behind the image's last: zeros.
    __device__ void clear_below(int step) {
        const int granules = this->p.ring_pitch / 16, first = Block::max_of(this->input_end(step - 1), this->a.height);
        for (int row = first; row < this->input_end(step); ++row) {
            for (int i = static_cast<int>(threadIdx.x); i < this->channels * this->images * granules; i += kThreads) {
                const int granule = i % granules, image = i / granules % this->images,
                          channel = i / granules / this->images;
                unsigned char* const to = this->ring + channel * this->p.channel_pitch +
                                          (image * this->p.ring_rows + this->slot_of(row)) * this->p.ring_pitch +
                                          granule * 16;
                *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
            }
        }
    }

    // x -> ring: product, batch norm 1, SiLU. A warp's tiles are its own; nobody reads the ring meanwhile.
    __device__ void expand(const Rows& rows) {
        const int tiles = this->images * (rows.last - rows.first) * this->p.input_tiles,
                  channel_tiles = (this->channels + 15) / 16;
        const int pairs = (channel_tiles + kChannelTiles - 1) / kChannelTiles;
        const int items = pairs * ((tiles + kTilesAtOnce - 1) / kTilesAtOnce), lane = lane_number();
        const int steps = this->a.in_pitch * Block::kSize / static_cast<int>(kStepBytes);
        for (int item = warp_number(); item < items; item += kWarps) {
            const int first_channel = item % pairs * (16 * kChannelTiles), first_tile = item / pairs * kTilesAtOnce;
            const int tiles_of_channels = Block::min_of(kChannelTiles, channel_tiles - first_channel / 16);
            // Lane l gives row l % 8 of fragment l / 8: pixels of tile l / 16, half l / 8 % 2 of the step.
            const unsigned char* b_rows[kTilesAtOnce / 2];
#pragma unroll
            for (int i = 0; i < kTilesAtOnce / 2; ++i) {
                const InputTile tile = this->input_tiles[Block::min_of(first_tile + 2 * i + lane / 16, tiles - 1)];
                const int col = Block::min_of(Block::max_of(tile.col + lane % 8 * kStride, this->x_col),
                                              this->x_col + this->x_cols - 1);
                b_rows[i] = this->pixels + (tile.row_pixel + col - this->x_col) * this->p.x_pitch + lane / 8 % 2 * 16;
            }
            // Rows of conv_pw: fragments 0 and 1 are channels 0 to 7 and 8 to 15, 2 and 3 the second half of the step.
            const unsigned char* const a_row =
                this->weights + (first_channel + lane % 16) * this->p.x_pitch + lane / 16 * 16;
            float sums[kChannelTiles][kTilesAtOnce][4] = {};
            for (int step = 0; step < steps; ++step) {
                std::uint32_t b[kTilesAtOnce][2];
#pragma unroll
                for (int i = 0; i < kTilesAtOnce / 2; ++i) {
                    std::uint32_t words[4];
                    cuda::load_matrix_x4(words, b_rows[i] + step * kStepBytes);
                    b[2 * i][0] = words[0];
                    b[2 * i][1] = words[1];
                    b[2 * i + 1][0] = words[2];
                    b[2 * i + 1][1] = words[3];
                }
#pragma unroll
                for (int c = 0; c < kChannelTiles; ++c) {
                    if (c >= tiles_of_channels) break;
                    std::uint32_t a[4];
                    cuda::load_matrix_x4(a, a_row + c * 16 * this->p.x_pitch + step * kStepBytes);
#pragma unroll
                    for (int i = 0; i < kTilesAtOnce; ++i) multiply<T>(sums[c][i], a, b[i]);
                }
            }
#pragma unroll
            for (int c = 0; c < kChannelTiles; ++c) {  // unrolled, as registers have no index
                if (c < tiles_of_channels) store_expanded(sums[c], first_channel + 16 * c, first_tile, tiles);
            }
        }
    }

    // Lane l holds channels l / 4 and l / 4 + 8, pixels 2 (l % 4) and the next.
    __device__ void store_expanded(const float (&sums)[kTilesAtOnce][4], int channel, int first_tile, int tiles) {
        const int lane = lane_number(), pixel = lane % 4 * 2, mid = this->a.mid_channels;
        int image = -1;
        ScaleShift norm[2];
#pragma unroll
        for (int i = 0; i < kTilesAtOnce; ++i) {
            if (first_tile + i >= tiles) break;
            const InputTile tile = this->input_tiles[first_tile + i];
            if (tile.image != image) {
                image = tile.image;
                for (int half = 0; half < 2; ++half)
                    norm[half] =
                        scaled(this->affine_of(image), mid, this->first_channel + channel + lane / 4 + 8 * half);
            }
            const int col = tile.col + pixel * kStride;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float first = cuda::multiply_add(sums[i][2 * half], norm[half].scale, norm[half].shift);
                float second = cuda::multiply_add(sums[i][2 * half + 1], norm[half].scale, norm[half].shift);
                scaled_silu<T>(first, second);
                unsigned char* const to =
                    this->ring + (channel + lane / 4 + 8 * half) * this->p.channel_pitch + tile.ring;
                store_pair(this->is_column(col) ? first : 0.0f, this->is_column(col + kStride) ? second : 0.0f,
                           reinterpret_cast<T*>(to) + pixel);
            }
        }
    }

    // Without expansion: x -> ring as it is. Neighbouring threads take neighbouring channels.
    __device__ void copy(const Rows& rows) {
        const int tiles = this->images * (rows.last - rows.first) * this->p.input_tiles, per_row = this->p.input_tiles;
        const int rows_of_image = rows.last - rows.first;
        for (int i = static_cast<int>(threadIdx.x); i < tiles * 4 * this->channels; i += kThreads) {
            const int channel = i % this->channels, pixel = i / this->channels % 4 * 2, index = i / this->channels / 4;
            const InputTile tile = this->input_tiles[index];
            const int row = rows.first + index / per_row % rows_of_image, col = tile.col + pixel * kStride;
            const T* const from =
                static_cast<const T*>(this->a.x) +
                ((this->first_image + tile.image) * this->a.height + row) * this->a.width * this->a.in_channels +
                this->first_channel + channel;
            const float first =
                this->is_column(col) ? cuda::widen(from[static_cast<std::int64_t>(col) * this->a.in_channels]) : 0.0f;
            const int behind = col + kStride;
            const float second = this->is_column(behind)
                                     ? cuda::widen(from[static_cast<std::int64_t>(behind) * this->a.in_channels])
                                     : 0.0f;
            store_pair(first, second,
                       reinterpret_cast<T*>(this->ring + channel * this->p.channel_pitch + tile.ring) + pixel);
        }
    }
};

template <class T, int kKernel, int kStride>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 1 : 2)
    expand_kernel(const __grid_constant__ ExpandArguments arguments) {
    Expand<T, kKernel, kStride>(arguments).run();
}

template <class T, int kKernel>
cudaError_t launch_expand(const ExpandCall& call, cudaStream_t stream) {
    const Shape& s = call.shape;
    const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
    ExpandArguments a{};
    a.plan = call.plan;
    a.x = call.x;
    a.conv_pw = call.conv_pw;
    a.taps = call.taps;
    a.affine = call.affine;
    a.h = call.h;
    a.sums = call.sums;
    a.moments = call.moments;
    a.affine_stride = call.affine_stride;
    a.first_image = call.first_image;
    a.images = call.images;
    a.images_per_prefix = call.images_per_prefix;
    a.in_channels = as_int(s.in_channels);
    a.height = as_int(s.height);
    a.width = as_int(s.width);
    a.mid_channels = as_int(s.mid_channels);
    a.out_rows = as_int(s.out_rows);
    a.out_cols = as_int(s.out_cols);
    a.pad_top = as_int(s.pad_top);
    a.pad_left = as_int(s.pad_left);
    a.chunks = as_int((s.mid_channels + call.plan.channels - 1) / call.plan.channels);
    a.parts = call.plan.parts();
    a.in_pitch = as_int(call.in_pitch);
    a.output_blocks = as_int(plane_cols(s.out_cols) / kBlockCols);
    a.has_expansion = s.has_expansion;
    a.raw = call.raw;
    a.is_aligned = cuda::aligned(call.x) && s.in_channels * static_cast<std::int64_t>(sizeof(T)) % kGranule == 0;
    const std::int64_t groups = (call.images + call.plan.images - 1) / call.plan.images;
    const cuda::Grid grid{static_cast<unsigned>(groups * a.parts * a.chunks), 1, 1};
    const auto kernel = s.stride == 1 ? &expand_kernel<T, kKernel, 1> : &expand_kernel<T, kKernel, 2>;
    return cuda::launch(kernel, grid, kThreads, static_cast<std::size_t>(a.plan.shared_bytes), stream, a);
}

}  // namespace dna_fast::mbconv
