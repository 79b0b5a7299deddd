// mbconv's `expand`, second half of a step: from the ring through the depthwise to the result.
#pragma once

#include "cuda_block.cuh"

namespace dna_fast::mbconv {

template <class T, int kKernel, int kStride>
class Depthwise : protected ExpandBlock<T, kKernel, kStride> {
  protected:
    using Block = ExpandBlock<T, kKernel, kStride>;
    using Block::Block;

    // Ring -> result: depthwise, batch norm 2, SiLU. The ring is only read; a channel belongs to one warp.
    __device__ void make_rows(int step) const {
        for (int channel = warp_number(); channel < this->channels; channel += kWarps) {
            Sums sums;
            if constexpr (Block::kSize == 4) {
                // At stride 2 the padding is one of two, and decides at which column of the window the taps begin.
                if (kStride == 1 || this->a.pad_left == kKernel / 2) {
                    by_lanes<kKernel / 2>(step, channel, sums);
                } else {
                    by_lanes<kKernel / 2 - 1>(step, channel, sums);
                }
            } else {
                by_products(step, channel, sums);
            }
            add_sums(channel, sums);
        }
    }

    // Each warp writes the sums of its own channels, so that it needs not wait for others.
    __device__ void finish() const {
        cuda::sync_warp();
        for (int channel = warp_number(); channel < this->channels; channel += kWarps) {
            const int m = this->first_channel + channel;
            if (this->a.raw) {
                const int moment = lane_number();
                if (moment < 2) {
                    this->a.moments[((this->part * this->a.images + this->first_image) * 2 + moment) *
                                        this->a.mid_channels +
                                    m] = reinterpret_cast<const double*>(this->sums)[2 * channel + moment];
                }
            } else if (this->a.sums != nullptr && lane_number() < this->images) {
                const int image = lane_number();
                this->a.sums[((this->first_image + image) * this->a.parts + this->part) * this->a.mid_channels + m] =
                    this->sums[channel * this->p.images + image];
            }
        }
    }

  private:
    // A channel's sums over the pixels that a lane has seen.
    struct Sums {
        float of_image[kMaxImages] = {}, squares = 0.0f;
    };

    __device__ void by_products(int step, int channel, Sums& sums) const {
        const int lane = lane_number(), count = this->output_count(step);
        // The band: row k of it is a column of the window, column n an output; its tap is k - n + first.
        std::uint32_t word[kKernel][Block::kPhases], mask[Block::kPhases][2];
        int plane[Block::kPhases];
#pragma unroll
        for (int phase = 0; phase < Block::kPhases; ++phase) {
            const int parity =
                kStride == 1 ? 0 : (phase + this->a.pad_left) % 2;  // of the columns that meet these taps
            const int first =
                kStride == 1 ? this->a.pad_left - kMargin : (parity + this->a.pad_left - kMargin - phase) / 2;
            plane[phase] = parity * (this->p.ring_pitch / Block::kPhases);
            // Rows k = 2 (l % 4) and the next in the first word of a fragment, 8 more in the second: one of both at
            // most has taps, as they are 8 in a row, with a zero in front.
            int pair = lane % 4 * 2 - lane / 4 + first;
            mask[phase][0] = pair >= -1 && pair <= 6 ? 0xffffffffu : 0u;
            mask[phase][1] = pair >= -9 && pair <= -2 ? 0xffffffffu : 0u;
            if (pair < -1) pair += 8;
            const bool there = (mask[phase][0] | mask[phase][1]) != 0;
            const int index = !there ? 0 : pair % 2 == 0 ? pair / 2 : 4 + (pair + 1) / 2;
#pragma unroll
            for (int row = 0; row < kKernel; ++row)
                word[row][phase] = this->taps[channel * Block::kTaps + (row * Block::kPhases + phase) * 8 + index];
        }
        const OutputBlock* const blocks = this->output_list(step);
        const unsigned char* const ring = this->ring + channel * this->p.channel_pitch + lane / 16 * 16;
        for (int first = 0; first < count; first += 16) {
            const OutputBlock mine = blocks[Block::min_of(first + lane % 16, count - 1)];
            const unsigned char* const window = ring + mine.ring;
            float result[4] = {};
            int slot = mine.slot;
#pragma unroll
            for (int row = 0; row < kKernel; ++row) {
                if (slot >= this->p.ring_rows) slot -= this->p.ring_rows;
#pragma unroll
                for (int phase = 0; phase < Block::kPhases; ++phase) {
                    std::uint32_t a[4];
                    cuda::load_matrix_x4(a, window + slot * this->p.ring_pitch + plane[phase]);
                    const std::uint32_t b[2] = {word[row][phase] & mask[phase][0], word[row][phase] & mask[phase][1]};
                    multiply<T>(result, a, b);
                }
                ++slot;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int index = first + lane / 4 + 8 * half;
                if (index < count) store_result<2>(blocks[index], channel, lane % 4 * 2, &result[2 * half], sums);
            }
        }
    }

    template <int kPad>
    __device__ void by_lanes(int step, int channel, Sums& sums) const {
        const int count = this->output_count(step);
        const OutputBlock* const blocks = this->output_list(step);
        const float* const taps = reinterpret_cast<const float*>(this->taps) + channel * Block::kTaps;
        for (int index = lane_number(); index < count; index += kWarp) {
            const OutputBlock block = blocks[index];
            const unsigned char* const window = this->ring + channel * this->p.channel_pitch + block.ring;
            float result[8] = {};
            int slot = block.slot;
            for (int row = 0; row < kKernel; ++row, ++slot) {
                if (slot >= this->p.ring_rows) slot -= this->p.ring_rows;
#pragma unroll
                for (int phase = 0; phase < Block::kPhases; ++phase) {
                    constexpr int kBase = kPad - kMargin;
                    const int parity = kStride == 1 ? 0 : (phase + kPad) % 2;
                    const int begin = kStride == 1 ? -kBase : -(parity + kBase - phase) / 2;
                    float columns[kWindow];
                    cuda::load(reinterpret_cast<const float*>(window + slot * this->p.ring_pitch +
                                                              parity * (this->p.ring_pitch / Block::kPhases)),
                               columns);
#pragma unroll
                    for (int i = 0; phase + i * kStride < kKernel; ++i) {
                        const float tap = taps[row * 8 + phase + i * kStride];
#pragma unroll
                        for (int n = 0; n < 8; ++n)
                            result[n] = cuda::multiply_add(tap, columns[n + i + begin], result[n]);
                    }
                }
            }
            store_result<8>(block, channel, 0, result, sums);
        }
    }

    // kCount neighbours of a channel, an even number.
    template <int kCount>
    __device__ void store_result(const OutputBlock& block, int channel, int col, const float* values,
                                 Sums& sums) const {
        const int valid = block.columns() - col, m = this->first_channel + channel;
        if (this->a.raw) {
            T* const to =
                static_cast<T*>(this->a.h) +
                (this->first_image * this->a.out_rows * this->a.out_cols + block.offset + col) * this->a.mid_channels +
                m;
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                if (i >= valid) break;
                cuda::narrow(values[i], to[static_cast<std::int64_t>(i) * this->a.mid_channels]);
                sums.of_image[0] += values[i];
                sums.squares = cuda::multiply_add(values[i], values[i], sums.squares);
            }
            return;
        }
        const float* const row =
            this->affine_of(block.image()) + (this->a.has_expansion ? 2 * this->a.mid_channels : 0);
        const ScaleShift norm = scaled(row, this->a.mid_channels, m);
        T* const to = static_cast<T*>(this->a.h) +
                      (this->first_image * this->a.mid_channels + m) *
                          (static_cast<std::int64_t>(this->a.out_rows) * this->a.output_blocks * 8) +
                      block.offset + col;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kCount; i += 2) {
            float first = cuda::multiply_add(values[i], norm.scale, norm.shift);
            float second = cuda::multiply_add(values[i + 1], norm.scale, norm.shift);
            scaled_silu<T>(first, second);
            if (i >= valid) first = 0.0f;
            if (i + 1 >= valid) second = 0.0f;
            store_pair(first, second, to + i);
            sum += first + second;
        }
#pragma unroll
        for (int image = 0; image < kMaxImages; ++image) sums.of_image[image] += image == block.image() ? sum : 0.0f;
    }

    // The step's share, into shared memory. Nobody else touches the channel's place there.
    __device__ void add_sums(int channel, const Sums& sums) const {
        if (this->a.raw) {
            const double sum = warp_sum(static_cast<double>(sums.of_image[0]));
            const double squares = warp_sum(static_cast<double>(sums.squares));
            if (lane_number() == 0) {
                double* const to = reinterpret_cast<double*>(this->sums) + 2 * channel;
                to[0] += sum;
                to[1] += squares;
            }
            return;
        }
        if (this->a.sums == nullptr) return;
#pragma unroll
        for (int image = 0; image < kMaxImages; ++image) {  // unrolled, as registers have no index
            if (image >= this->images) break;
            const float sum = warp_sum(sums.of_image[image]);
            if (lane_number() == 0) this->sums[channel * this->p.images + image] += sum;
        }
    }
};

}  // namespace dna_fast::mbconv
