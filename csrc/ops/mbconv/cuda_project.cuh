// mbconv on a GPU, last kernel: squeeze-excite's gates, projection, batch norm 3, residual, and the endings.
//
// Computes: y = (a2 gate) conv_pwl^T, and of y what is asked for: stored, or compared with a target. The same product,
// from rows instead of planes, is an adapter's.
//
// Work: a block takes kPixels pixels, that is blocks of 8 columns of planes, of however many images, and some output
// channels; it walks through the depth in stages of kStageBytes, kStages of them under way. A warp has 16 pixels and
// all channels, or 32 and half of them.
//
// Assumes: planes and rows 16-byte aligned with pitches that are multiples of 16 bytes; planes' padded columns are
// finite.
//
// Synchronises: once a stage; partial sums belong to one warp each, no atomics.
//
// Measured: nowhere yet, see docs/gpu-status.md.
#pragma once

#include <algorithm>

#include "cuda_product.cuh"

namespace dna_fast::mbconv {

constexpr int kPixels = 128;
constexpr int kBlocks = kPixels / static_cast<int>(kBlockCols);
constexpr int kStages = 3;
constexpr int kSums = 3;  // sum d, sum |d|, sum d^2

struct ProjectArguments {
    const unsigned char* planes;  // or null
    const unsigned char* rows;
    const unsigned char* matrix;
    const float *gates, *scale, *shift;
    const void *residual, *target;
    void* y;
    float* partial_sums;
    std::int64_t affine_stride, first_image, images, images_per_prefix, depth_pitch, matrix_pitch, y_pitch;
    std::int64_t blocks;  // of 8 columns, in all images
    int blocks_per_image, blocks_per_row, depth, columns, out_rows, out_cols, parts;
    CudaEnding ending;
};

// kPlanes: the left operand lies in planes, else in rows. kTilesM: products of 16 pixels a warp, kTilesN: of 8
// channels. With two tiles of pixels two warps share them, each with half of the channels.
template <class T, bool kPlanes, int kTilesM, int kTilesN>
class Project {
  public:
    static constexpr int kWarpsN = kTilesM;
    static constexpr int kChannels = kWarpsN * kTilesN * 8;  // of a block
    static_assert(kPixels == kWarps / kWarpsN * kTilesM * 16);
    static constexpr int kSize = static_cast<int>(sizeof(T));
    static constexpr int kDepth = static_cast<int>(kStageBytes) / kSize;  // of a stage
    // Pitches that put the rows of a fragment into different banks.
    static constexpr int kRowPitch = static_cast<int>(kStageBytes) + kGranule;
    static constexpr int kPlanePitch = kPixels * kSize + (kSize == 4 ? 32 : 16);
    static constexpr int kLeftBytes = kPlanes ? kDepth * kPlanePitch : kPixels * kRowPitch;
    static constexpr int kRightBytes = kChannels * kRowPitch;
    static constexpr int kGateBytes = kPlanes ? kBlocks * kDepth * 4 : 0;
    static constexpr int kStage = kLeftBytes + kRightBytes + kGateBytes;
    static constexpr int kSharedBytes = kStages * kStage + kBlocks * 16;

    __device__ explicit Project(const ProjectArguments& arguments) : a_(arguments), shared_(cuda::dynamic_shared()) {
        first_block_ = static_cast<std::int64_t>(blockIdx.x) * kBlocks;
        first_column_ = static_cast<int>(blockIdx.y) * kChannels;
        places_ = reinterpret_cast<Place*>(shared_ + kStages * kStage);
    }

    __device__ void run() {
        list_places();
        __syncthreads();
        const int stages = (a_.depth + kDepth - 1) / kDepth;
        for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage, stages);
        float sums[kTilesM][kTilesN][4] = {};
        for (int stage = 0; stage < stages; ++stage) {
            cuda::copy_async_wait<kStages - 2>();
            __syncthreads();  // the stage is there for all, and nobody reads the one before it, which is filled next
            fetch(stage + kStages - 1, stages);
            multiply_stage(stage, sums);
        }
        cuda::copy_async_wait<0>();
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) end(m, sums[m]);
    }

  private:
    // Where 8 columns lie; image -1: behind the last.
    struct alignas(16) Place {
        int image, in_image;  // number of the block in its image
        int row, col;
    };

    __device__ void list_places() {
        const int i = static_cast<int>(threadIdx.x);
        if (i >= kBlocks) return;
        const std::int64_t block = first_block_ + i;
        const int in_image = static_cast<int>(block % a_.blocks_per_image);
        places_[i] = Place{block < a_.blocks ? static_cast<int>(block / a_.blocks_per_image) : -1, in_image,
                           in_image / a_.blocks_per_row, in_image % a_.blocks_per_row * 8};
    }

    __device__ unsigned char* left(int stage) const { return shared_ + stage % kStages * kStage; }
    __device__ unsigned char* right(int stage) const { return left(stage) + kLeftBytes; }
    __device__ unsigned char* gates(int stage) const { return right(stage) + kRightBytes; }

    // Asks for a stage; for none behind the last, but a group of copies it is all the same.
    __device__ void fetch(int stage, int stages) {
        if (stage < stages) {
            const int depth = stage * kDepth;
            if constexpr (kPlanes) {
                fetch_planes(stage, depth);
            } else {
                fetch_rows(stage, depth);
            }
            constexpr int kGranules = static_cast<int>(kStageBytes) / kGranule;
            const int padded_columns = (a_.columns + 7) / 8 * 8;
            for (int i = static_cast<int>(threadIdx.x); i < kChannels * kGranules; i += kThreads) {
                const int row = i / kGranules, byte = i % kGranules * kGranule, column = first_column_ + row;
                const bool there = column < padded_columns;
                cuda::copy_async_16(right(stage) + row * kRowPitch + byte,
                                    a_.matrix + ((there ? column : 0) * a_.matrix_pitch + depth) * kSize + byte, there);
            }
        }
        cuda::copy_async_commit();
    }
    __device__ void fetch_planes(int stage, int depth) {
        constexpr int kGranules = kPixels * kSize / kGranule, kPerBlock = kGranules / kBlocks;
        const std::int64_t plane_bytes = static_cast<std::int64_t>(a_.blocks_per_image) * 8 * kSize;
        for (int i = static_cast<int>(threadIdx.x); i < kDepth * kGranules; i += kThreads) {
            const int row = i / kGranules, granule = i % kGranules;
            const Place place = places_[granule / kPerBlock];
            const bool there = place.image >= 0 && depth + row < a_.depth;
            const unsigned char* from = a_.planes;
            if (there) {
                from += (static_cast<std::int64_t>(place.image) * a_.depth + depth + row) * plane_bytes +
                        place.in_image * 8 * kSize + granule % kPerBlock * kGranule;
            }
            cuda::copy_async_16(left(stage) + row * kPlanePitch + granule * kGranule, from, there);
        }
        if (a_.gates == nullptr) return;
        for (int i = static_cast<int>(threadIdx.x); i < kBlocks * kDepth; i += kThreads) {
            const Place place = places_[i / kDepth];
            const int m = depth + i % kDepth;
            const bool there = place.image >= 0 && m < a_.depth;
            // Plain stores: read behind the barrier before the stage's products, as what was fetched.
            reinterpret_cast<float*>(gates(stage))[i] =
                there ? a_.gates[static_cast<std::int64_t>(place.image) * a_.depth + m] : 0.0f;
        }
    }
    __device__ void fetch_rows(int stage, int depth) {
        constexpr int kGranules = static_cast<int>(kStageBytes) / kGranule;
        for (int i = static_cast<int>(threadIdx.x); i < kPixels * kGranules; i += kThreads) {
            const int pixel = i / kGranules, byte = i % kGranules * kGranule;
            const bool there =
                first_block_ * 8 + pixel < a_.blocks * 8 && depth * kSize + byte < a_.depth_pitch * kSize;
            const unsigned char* from = a_.rows;
            if (there) from += ((first_block_ * 8 + pixel) * a_.depth_pitch + depth) * kSize + byte;
            cuda::copy_async_16(left(stage) + pixel * kRowPitch + byte, from, there);
        }
    }

    __device__ int warp_pixel() const { return warp_number() / kWarpsN * kTilesM * 16; }
    __device__ int warp_channel() const { return warp_number() % kWarpsN * kTilesN * 8; }

    __device__ void multiply_stage(int stage, float (&sums)[kTilesM][kTilesN][4]) const {
        const int lane = lane_number();
        // Lane l gives row l % 8 of fragment l / 8: channels 8 (l / 16) and on, half l / 8 % 2 of a step.
        const unsigned char* const b_row =
            right(stage) + (warp_channel() + lane / 16 * 8 + lane % 8) * kRowPitch + lane / 8 % 2 * 16;
#pragma unroll
        for (int step = 0; step < static_cast<int>(kStageBytes / kStepBytes); ++step) {
            std::uint32_t a[kTilesM][4];
#pragma unroll
            for (int m = 0; m < kTilesM; ++m) load_left(stage, step, warp_pixel() + 16 * m, a[m]);
#pragma unroll
            for (int n = 0; n < kTilesN; n += 2) {
                std::uint32_t words[4];
                cuda::load_matrix_x4(words, b_row + n * 8 * kRowPitch + step * kStepBytes);
                const std::uint32_t b[2][2] = {{words[0], words[1]}, {words[2], words[3]}};
#pragma unroll
                for (int m = 0; m < kTilesM; ++m) {
                    multiply<T>(sums[m][n], a[m], b[0]);
                    multiply<T>(sums[m][n + 1], a[m], b[1]);
                }
            }
        }
    }

    // 16 pixels of one step, gated. Lane l holds pixels l / 4 (words 0 and 2) and 8 more (1 and 3): of one block of
    // columns each, so of one image.
    __device__ void load_left(int stage, int step, int pixel, std::uint32_t (&a)[4]) const {
        const int lane = lane_number(), step_depth = step * (kDepth / 2);
        if constexpr (!kPlanes) {
            cuda::load_matrix_x4(a, left(stage) + (pixel + lane % 16) * kRowPitch + step * kStepBytes + lane / 16 * 16);
            return;
        }
        const float* const gate = reinterpret_cast<const float*>(gates(stage)) + pixel / 8 * kDepth + step_depth;
        if constexpr (kSize == 4) {
            const unsigned char* const from =
                left(stage) + (step_depth + lane % 4) * kPlanePitch + (pixel + lane / 4) * 4;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float value = *reinterpret_cast<const float*>(from + i / 2 * 4 * kPlanePitch + i % 2 * 8 * 4);
                if (a_.gates != nullptr) value *= gate[i % 2 * kDepth + i / 2 * 4 + lane % 4];
                a[i] = cuda::as_word(value);
            }
        } else {
            // Stored depth by depth, so each fragment comes transposed: rows of memory are its columns.
            cuda::load_matrix_x4_transposed(a, left(stage) + (step_depth + lane / 16 * 8 + lane % 8) * kPlanePitch +
                                                   (pixel + lane / 8 % 2 * 8) * kSize);
            if (a_.gates == nullptr) return;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* const pair = gate + i % 2 * kDepth + i / 2 * 8 + lane % 4 * 2;
                a[i] = cuda::pack(cuda::unpack_low(a[i], T{}) * pair[0], cuda::unpack_high(a[i], T{}) * pair[1], T{});
            }
        }
    }

    // A tile of 16 pixels. Lane l holds channels 2 (l % 4) and the next of each product, pixels l / 4 and 8 more.
    __device__ void end(int m, const float (&sums)[kTilesN][4]) const {
        const int lane = lane_number(), first = (warp_pixel() + 16 * m) / 8;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Place place = places_[first + half];
            const int col = place.col + lane / 4;
            const bool is_pixel = place.image >= 0 && col < a_.out_cols;
            float differences[kSums] = {};
            if (is_pixel || (place.image >= 0 && a_.ending == CudaEnding::write_padded)) {
                const Pixel pixel = pixel_of(place, col);
#pragma unroll
                for (int n = 0; n < kTilesN; ++n) {
                    const int column = first_column_ + warp_channel() + n * 8 + lane % 4 * 2;
                    end_pair(pixel, is_pixel, column, sums[n][2 * half], sums[n][2 * half + 1], differences);
                }
            }
            if (a_.ending == CudaEnding::reduce && place.image >= 0) store_sums(place, differences);
        }
    }

    struct Pixel {
        const float *scale, *shift;
        std::int64_t y, residual, target;  // elements
    };
    __device__ Pixel pixel_of(const Place& place, int col) const {
        const std::int64_t image = a_.first_image + place.image;
        const std::int64_t affine = image / a_.images_per_prefix * a_.affine_stride;
        const std::int64_t in_image = static_cast<std::int64_t>(place.row) * a_.out_cols + col;
        const std::int64_t pixels = static_cast<std::int64_t>(a_.out_rows) * a_.out_cols;
        const std::int64_t dense = place.image * pixels + in_image;
        const std::int64_t padded =
            (static_cast<std::int64_t>(place.image) * a_.blocks_per_image + place.in_image) * 8 + col % 8;
        return {a_.scale == nullptr ? nullptr : a_.scale + affine, a_.shift == nullptr ? nullptr : a_.shift + affine,
                (a_.ending == CudaEnding::write_padded ? padded : dense) * a_.y_pitch, dense * a_.columns,
                (image % a_.images_per_prefix * pixels + in_image) * a_.columns};
    }

    __device__ void end_pair(const Pixel& pixel, bool is_pixel, int column, float first, float second,
                             float (&sums)[kSums]) const {
        const float values[2] = {first, second};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int c = column + i;
            float value = values[i];
            if (c >= a_.columns || !is_pixel) {
                // What lies between columns and pitch the next product multiplies by zero, so it must be finite.
                if (a_.ending == CudaEnding::write_padded && c < a_.y_pitch)
                    cuda::narrow(0.0f, static_cast<T*>(a_.y)[pixel.y + c]);
                continue;
            }
            if (pixel.scale != nullptr) value *= pixel.scale[c];
            if (pixel.shift != nullptr) value += pixel.shift[c];
            if (a_.residual != nullptr) value += cuda::widen(static_cast<const T*>(a_.residual)[pixel.residual + c]);
            if (a_.ending == CudaEnding::reduce) {
                const float d = value - cuda::widen(static_cast<const T*>(a_.target)[pixel.target + c]);
                sums[0] += d;
                sums[1] += fabsf(d);
                sums[2] = cuda::multiply_add(d, d, sums[2]);
            } else {
                cuda::narrow(value, static_cast<T*>(a_.y)[pixel.y + c]);
            }
        }
    }

    __device__ void store_sums(const Place& place, float (&sums)[kSums]) const {
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] = warp_sum(sums[i]);
        if (lane_number() != 0) return;
        const int part = static_cast<int>(blockIdx.y) * kWarpsN + warp_number() % kWarpsN;
        const std::int64_t block = static_cast<std::int64_t>(place.image) * a_.blocks_per_image + place.in_image;
        for (int i = 0; i < kSums; ++i) a_.partial_sums[(block * a_.parts + part) * kSums + i] = sums[i];
    }

    const ProjectArguments& a_;
    unsigned char* const shared_;
    Place* places_;
    std::int64_t first_block_;
    int first_column_;
};

template <class T, bool kPlanes, int kTilesM, int kTilesN>
__global__ void __launch_bounds__(kThreads, 1) project_kernel(const __grid_constant__ ProjectArguments arguments) {
    Project<T, kPlanes, kTilesM, kTilesN>(arguments).run();
}

template <class T, bool kPlanes, int kTilesM, int kTilesN>
cudaError_t launch_tiles(const ProjectArguments& arguments, cudaStream_t stream) {
    using Kernel = Project<T, kPlanes, kTilesM, kTilesN>;
    const std::int64_t column_blocks = (arguments.columns + Kernel::kChannels - 1) / Kernel::kChannels;
    const cuda::Grid grid{static_cast<unsigned>((arguments.blocks + kBlocks - 1) / kBlocks),
                          static_cast<unsigned>(column_blocks), 1};
    return cuda::launch(&project_kernel<T, kPlanes, kTilesM, kTilesN>, grid, kThreads,
                        static_cast<std::size_t>(Kernel::kSharedBytes), stream, arguments);
}

template <class T>
cudaError_t launch_project(const ProjectCall& call, cudaStream_t stream) {
    const Shape& s = call.shape;
    const auto as_int = [](std::int64_t value) { return static_cast<int>(value); };
    ProjectArguments a{};
    a.planes = static_cast<const unsigned char*>(call.planes);
    a.rows = static_cast<const unsigned char*>(call.rows);
    a.matrix = call.matrix;
    a.gates = call.gates;
    a.scale = call.scale;
    a.shift = call.shift;
    a.residual = call.residual;
    a.target = call.target;
    a.y = call.y;
    a.partial_sums = call.partial_sums;
    a.affine_stride = call.affine_stride;
    a.first_image = call.first_image;
    a.images = call.images;
    a.images_per_prefix = call.images_per_prefix;
    a.depth_pitch = call.depth_pitch;
    a.matrix_pitch = call.matrix_pitch;
    a.y_pitch = call.y_pitch;
    a.blocks_per_image = as_int(plane_size(s) / kBlockCols);
    a.blocks_per_row = as_int(plane_cols(s.out_cols) / kBlockCols);
    a.blocks = call.images * a.blocks_per_image;
    a.depth = as_int(call.depth);
    a.columns = as_int(call.columns);
    a.out_rows = as_int(s.out_rows);
    a.out_cols = as_int(s.out_cols);
    a.parts = as_int(project_parts(call.columns));
    a.ending = call.ending;
    if (call.planes == nullptr) {
        return call.columns > kWideColumns ? launch_tiles<T, false, 2, 12>(a, stream)
                                           : launch_tiles<T, false, 1, 12>(a, stream);
    }
    if (call.columns > kWideColumns) return launch_tiles<T, true, 2, 12>(a, stream);
    if (call.columns > 48) return launch_tiles<T, true, 1, 12>(a, stream);
    return call.columns > 32 ? launch_tiles<T, true, 1, 6>(a, stream) : launch_tiles<T, true, 1, 4>(a, stream);
}

}  // namespace dna_fast::mbconv
