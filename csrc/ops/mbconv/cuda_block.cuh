// Where a block of mbconv's `expand` works: which rows, columns and channels, where they lie in shared memory, and
// lists of that for warps to read.
#pragma once

#include "cuda_product.cuh"

namespace dna_fast::mbconv {

constexpr int kWindow = 16;  // ring columns that a block of 8 output columns is made from
constexpr int kMargin = 4;   // of them in front of the first: at least kernel / 2, and even, so that pairs are aligned
constexpr int kTilesAtOnce = 4;   // products of 8 pixels
constexpr int kChannelTiles = 2;  // products of 16 channels
constexpr int kMaxImages = 4;

// Input rows [first, last) that are expanded at once.
struct Rows {
    int step, first, last;
    bool ends_step;
};

// What the 8 pixels of a product are: entry of a table in shared memory.
struct alignas(16) InputTile {
    int row_pixel;  // in the fetched x: of the row's first column
    int col;        // input column of the first pixel; the others follow at the stride
    int ring;       // bytes into a channel's ring
    int image;      // of the block's
};
// A block of 8 output columns in one row.
struct alignas(16) OutputBlock {
    int ring;               // bytes into a channel's ring: image and column of the window, not its row
    int slot;               // ring row of the window's first row
    int offset;             // elements into the result
    int columns_and_image;  // how many of the columns are real, and 16 times the image

    __device__ int columns() const { return columns_and_image % 16; }
    __device__ int image() const { return columns_and_image / 16; }
};

struct ExpandArguments {
    ExpandPlan plan;
    const void* x;
    const unsigned char* conv_pw;
    const unsigned char* taps;
    const float* affine;
    void* h;
    float* sums;
    double* moments;
    std::int64_t affine_stride, first_image, images, images_per_prefix;
    int in_channels, height, width, mid_channels, out_rows, out_cols, pad_top, pad_left, chunks, parts, in_pitch,
        output_blocks;
    bool has_expansion, raw, is_aligned;
};

template <class T, int kKernel, int kStride>
struct ExpandBlock {
    static constexpr int kSize = static_cast<int>(sizeof(T));
    static constexpr int kPhases = kStride;
    static constexpr int kTaps = kKernel * (kSize == 4 ? 1 : kPhases) * static_cast<int>(kTapWords);

    __device__ explicit ExpandBlock(const ExpandArguments& arguments) : a(arguments), p(arguments.plan) {
        int block = static_cast<int>(blockIdx.x);
        first_channel = block % a.chunks * p.channels;  // neighbours share their x
        block /= a.chunks;
        part = block % a.parts;
        first_image = static_cast<std::int64_t>(block / a.parts) * p.images;
        images = min_of(p.images, a.images - first_image);
        channels = min_of(p.channels, a.mid_channels - first_channel);

        const int col_tile = part % p.col_tiles;
        first_row = part / p.col_tiles * (p.steps * p.rows);
        last_row = min_of(first_row + p.steps * p.rows, a.out_rows);
        ring_top = first_row * kStride - a.pad_top;
        first_block = col_tile * p.col_blocks;
        col_blocks = min_of(p.col_blocks, a.output_blocks - first_block);
        // A tile of columns has neighbours that it must expand as well, and begins with the ring's first column.
        const bool is_whole_row = p.col_tiles == 1;
        first_col = is_whole_row ? 0 : first_block * 8 * kStride - kMargin;
        ring_col = is_whole_row ? kMargin / kStride : 0;
        x_col = max_of(first_col, 0);
        x_cols = min_of(first_col + p.input_tiles * 8, a.width) - x_col;

        unsigned char* shared = cuda::dynamic_shared();
        const auto take = [&shared](int bytes) {
            unsigned char* const part = shared;
            shared += bytes;
            return part;
        };
        weights = take(p.channels * p.x_pitch);
        pixels = take(p.images * p.x_rows * p.x_cols * p.x_pitch);
        ring = take(p.channels * p.channel_pitch);
        taps = reinterpret_cast<std::uint32_t*>(take(p.channels * kTaps * 4));
        input_tiles = reinterpret_cast<InputTile*>(take(p.images * p.x_rows * p.input_tiles * 16));
        output_blocks = reinterpret_cast<OutputBlock*>(take(2 * p.images * p.rows * p.col_blocks * 16));
        sums = reinterpret_cast<float*>(shared);
    }

    template <class A, class B>
    static __device__ int min_of(A a, B b) {
        return static_cast<int>(a < b ? a : b);
    }
    static __device__ int max_of(int a, int b) { return a > b ? a : b; }

    __device__ int step_row(int step) const { return first_row + step * p.rows; }
    __device__ int step_end(int step) const { return min_of(step_row(step) + p.rows, last_row); }
    // Behind the last input row that the outputs of a step need; step -1: in front of the first.
    __device__ int input_end(int step) const {
        return step < 0 ? ring_top : (step_end(step) - 1) * kStride + kKernel - a.pad_top;
    }
    __device__ Rows piece(int step, int first) const {
        const int end = min_of(input_end(step), a.height), last = min_of(first + p.x_rows, end);
        return {step, first, max_of(last, first), last >= end};
    }
    __device__ Rows rows_of_step(int step) const {
        return piece(step, step < p.steps ? max_of(input_end(step - 1), 0) : 0);
    }
    __device__ Rows after(const Rows& rows) const {
        if (!rows.ends_step) return piece(rows.step, rows.last);
        const int step = rows.step + 1;
        return step < p.steps && step_row(step) < last_row ? rows_of_step(step) : Rows{p.steps, 0, 0, true};
    }
    __device__ int slot_of(int input_row) const { return (input_row - ring_top) % p.ring_rows; }

    // The products' pixels. Behind it every warp knows where 8 pixels come from and where they go.
    __device__ void list_input(const Rows& rows) {
        const int per_row = p.input_tiles, per_image = (rows.last - rows.first) * per_row;
        for (int i = static_cast<int>(threadIdx.x); i < images * per_image; i += kThreads) {
            const int image = i / per_image, row = i % per_image / per_row, tile = i % per_row;
            const int phase = tile % kPhases, index = tile / kPhases;
            InputTile entry;
            entry.row_pixel = (image * (rows.last - rows.first) + row) * x_cols;
            entry.col = first_col + index * 8 * kStride + phase;
            entry.ring = (image * p.ring_rows + slot_of(rows.first + row)) * p.ring_pitch +
                         phase * (p.ring_pitch / kPhases) + (ring_col + index * 8) * kSize;
            entry.image = image;
            input_tiles[i] = entry;
        }
    }

    // Two lists take turns: a slow warp may still be reading that of the step before.
    __device__ OutputBlock* output_list(int step) const {
        return output_blocks + step % 2 * (p.images * p.rows * p.col_blocks);
    }
    __device__ int output_count(int step) const { return images * (step_end(step) - step_row(step)) * col_blocks; }
    __device__ void list_output(int step) {
        const int per_image = (step_end(step) - step_row(step)) * col_blocks;
        for (int i = static_cast<int>(threadIdx.x); i < output_count(step); i += kThreads) {
            const int image = i / per_image, row = step_row(step) + i % per_image / col_blocks;
            const int block = i % col_blocks, col = (first_block + block) * 8;
            const int padded_cols = a.output_blocks * 8;
            OutputBlock entry;
            entry.ring = image * p.ring_rows * p.ring_pitch + block * 8 * kSize;
            entry.slot = (row - first_row) * kStride % p.ring_rows;
            entry.offset = a.raw ? row * a.out_cols + col
                                 : image * a.mid_channels * a.out_rows * padded_cols + row * padded_cols + col;
            entry.columns_and_image = min_of(8, a.out_cols - col) + 16 * image;
            output_list(step)[i] = entry;
        }
    }

    __device__ const float* affine_of(int image) const {
        return a.affine + (a.first_image + first_image + image) / a.images_per_prefix * a.affine_stride;
    }
    __device__ bool is_column(int col) const { return col >= 0 && col < a.width; }

    const ExpandArguments& a;
    const ExpandPlan& p;
    std::int64_t first_image;
    int images, first_channel, channels, part;  // what the block makes
    int first_row, last_row, first_block, col_blocks;
    int ring_top;             // input row of the ring's first
    int first_col, ring_col;  // input column of a row's first product, and where it lies in the ring
    int x_col, x_cols;        // what is fetched of a row
    unsigned char *weights, *pixels, *ring;
    std::uint32_t* taps;
    InputTile* input_tiles;
    OutputBlock* output_blocks;
    float* sums;
};

}  // namespace dna_fast::mbconv
