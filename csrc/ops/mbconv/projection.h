// From the activated depthwise result to the layer's ending: squeeze-excite gates, the projection, batch norm 3 and
// what is made of the output.
#pragma once

#include "memory.h"

namespace dna_fast::mbconv {
namespace {

template <class S, bool kDot>
struct Projection : Memory<S, kDot> {
    using Base = Memory<S, kDot>;
    using Base::affine_of;
    using Base::image_of;
    using Base::kNarrow;
    using Base::kWeightPair;
    using Base::mid_padded;
    using Base::out_padded;
    using Base::own_layout;
    using Base::shared_layout;
    using typename Base::Operand;
    using typename Base::Own;
    using typename Base::Shared;
    using typename Base::Weight;

    static constexpr std::int64_t kMomentRun = 32;  // pixels summed in float32 before double takes over

    // ---- phase 2: squeeze-excite ------------------------------------------------------------------------------------

    static bool gates_result(const Shape& s) { return s.out_pixels() < s.out_channels; }

    static void gate(const Call& c, unsigned char* shared) {
        const Shape& s = c.shape;
        if (s.se_channels == 0) return;
        const Shared layout = shared_layout(c);
        const std::int64_t mid = mid_padded(s);
        float* pooled = at<float>(shared, layout.pooled);
        float* gates = at<float>(shared, layout.gates);
        float* squeezed = at<float>(shared, layout.squeezed);
        const auto weights = [&c](std::int64_t offset) { return reinterpret_cast<const float*>(c.packed + offset); };
        // Back from SiLU's units.
        const float share = 1.0f / (kSiluScale * static_cast<float>(s.out_pixels()));
        for (std::int64_t m = 0; m < mid; m += kLanes) store(pooled + m, load(pooled + m) * share);
        // Several sums at once, as each waits for its last product.
        constexpr int kChains = 4;
        const float* reduce = weights(c.layout.se_reduce);
        for (std::int64_t i = 0; i < s.se_channels; i += kChains) {
            Vec sums[kChains] = {};
            const std::int64_t count = least(kChains, s.se_channels - i);
            for (std::int64_t m = 0; m < mid; m += kLanes) {
                const Vec mean = load(pooled + m);
#pragma GCC unroll 4
                for (int j = 0; j < kChains; ++j) sums[j] += mean * load(reduce + (i + (j < count ? j : 0)) * mid + m);
            }
            for (std::int64_t j = 0; j < count; ++j) {
                float total = weights(c.layout.se_reduce_bias)[i + j];
                for (int lane = 0; lane < kLanes; ++lane) total += sums[j][lane];
                squeezed[i + j] = (splat(total) * sigmoid(splat(total)))[0];
            }
        }
        const float* expand = weights(c.layout.se_expand);
        for (std::int64_t m = 0; m < mid; m += kChains * kLanes) {
            const std::int64_t count = least(kChains, (mid - m) / kLanes);
            Vec sums[kChains] = {};
            for (std::int64_t i = 0; i < s.se_channels; ++i) {
                const float* row = expand + i * mid + m;
#pragma GCC unroll 4
                for (int j = 0; j < kChains; ++j) sums[j] += load(row + (j < count ? j : 0) * kLanes) * squeezed[i];
            }
            for (std::int64_t j = 0; j < count; ++j) {
                const std::int64_t first = m + j * kLanes;
                store(gates + first, sigmoid(sums[j] + load(weights(c.layout.se_expand_bias) + first)));
            }
        }
        if (!gates_result(s)) return;
        Operand* result = at<Operand>(shared, layout.result);
        for (std::int64_t pixel = 0; pixel < s.out_pixels(); ++pixel, result += mid) {
            for (std::int64_t m = 0; m < mid; m += kLanes) store(result + m, load(result + m) * load(gates + m));
        }
    }

    // ---- phase 3: projection and endings ----------------------------------------------------------------------------

    // Sums of d, |d| and d^2, in float32 over one register block and in double above.
    struct Sums {
        Vec d{}, magnitudes{}, squares{};

        MBCONV_INLINE void add(Vec value) {
            d += value;
            magnitudes += magnitude(value);
            squares += value * value;
        }
        void drain(double* totals) {
            for (int lane = 0; lane < kLanes; ++lane) {
                totals[0] += static_cast<double>(d[lane]);
                totals[1] += static_cast<double>(magnitudes[lane]);
                totals[2] += static_cast<double>(squares[lane]);
            }
            *this = {};
        }
    };

    // A block of finished sums, [pixels][48] in memory, and where it belongs.
    struct Block {
        const float* values;
        std::int64_t pixel, pixels, first, width;  // first: its first channel
    };

    template <class W>
    struct Matrix {
        const W* data;  // one group, [depth][width]
        std::int64_t depth, first, width;
    };

    // values = a * matrix for pixels [begin, end), a block at a time handed to `finish`.
    template <class W, class Finish>
    static void multiply(const Operand* a, std::int64_t a_stride, const Matrix<W>& matrix, std::int64_t begin,
                         std::int64_t end, const Finish& finish) {
        constexpr int kWide = std::is_same_v<W, BFloat16> ? 2 : 1;
        in_blocks(begin, end, [&]<int kP>(std::int64_t pixel) {
            alignas(64) float values[kP * kGroup];
            const Operand* rows = a + pixel * a_stride;
            const auto whole = [&]<int kV>(std::int64_t column) {
                Vec acc[kP][kV] = {};
                product<kP, kV>(rows, a_stride, matrix.depth, matrix.data + kWide * column, matrix.width, acc);
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 3
                    for (int v = 0; v < kV; ++v) store(values + p * kGroup + column + v * kLanes, acc[p][v]);
                }
            };
#if defined(__AVX512F__)
            const auto halves = [&]<int kH>() {
                __m256 acc[kP][kH];
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 3
                    for (int h = 0; h < kH; ++h) acc[p][h] = _mm256_setzero_ps();
                }
                product_in_halves<kP, kH>(rows, a_stride, matrix.depth, matrix.data, matrix.width, acc);
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) {
                    float* const to = values + p * kGroup;
                    // In whole vectors, as they are read back: a read that two writes must answer waits for the cache.
                    if constexpr (kH > 1)
                        store(to, _mm512_insertf32x8(_mm512_castps256_ps512(acc[p][0]), acc[p][1], 1));
                    store(to + (kH - 1) * kHalfVector, _mm512_zextps256_ps512(acc[p][kH - 1]));
                }
            };
            if (matrix.width == kHalfVector) {
                halves.template operator()<1>();
            } else if (matrix.width % kVector == 0) {
                in_columns(matrix.width, whole);
            } else {
                halves.template operator()<3>();
                if (matrix.width > 3 * kHalfVector) whole.template operator()<1>(3 * kHalfVector);
            }
#else
            in_columns(matrix.width, whole);
#endif
            finish(Block{values, pixel, kP, matrix.first, matrix.width});
        });
    }

    // Reads and writes up to a vector of lanes of 32 bits, whatever they hold.
    MBCONV_INLINE static Vec read_lanes(const void* from, std::int64_t lanes) {
        const float* p = static_cast<const float*>(from);
        return lanes >= kLanes ? load(p) : load_first(p, lanes);
    }
    MBCONV_INLINE static void write_lanes(void* to, Vec value, std::int64_t lanes) {
        float* p = static_cast<float*>(to);
        lanes >= kLanes ? store(p, value) : store_first(p, value, lanes);
    }

    // The projection's weights of one group with the gates multiplied in.
    static void fold(const Weight* weights, std::int64_t depth, std::int64_t width, const float* gates,
                     Operand* folded) {
        constexpr std::int64_t kStep = kNarrow ? 2 : 1;
        for (std::int64_t k = 0; k < depth; k += kStep) {
            for (std::int64_t v = 0; v < width; v += kLanes) {
                const std::int64_t lanes = width - v;
                const Vec row = read_lanes(weights + k * width + kWeightPair * v, lanes);
                if constexpr (kNarrow) {
                    const bool has_second = k + 1 < depth;
                    const Bits pairs = reinterpret_cast<Bits>(row);
                    const Vec first = first_of(pairs) * gates[k];
                    const Vec second = has_second ? second_of(pairs) * gates[k + 1] : Vec{};
                    if constexpr (kDot) {
#if defined(__AVX512BF16__)
                        write_lanes(folded + k * width + 2 * v, paired(first, second), lanes);
#endif
                    } else {
                        write_lanes(folded + k * width + v, first, lanes);
                        if (has_second) write_lanes(folded + (k + 1) * width + v, second, lanes);
                    }
                } else {
                    write_lanes(folded + k * width + v, row * gates[k], lanes);
                }
            }
        }
    }

    struct Output {
        const Call& call;
        std::int64_t image;
        const float *scale, *shift;  // batch norm 3; null: raw
        const S* residual;           // null without
        Operand* scratch;            // [Q * R][K padded] for an adapter, else null
        double* tile_sums;

        const S* target(std::int64_t pixel) const {
            const Call& c = call;
            const std::int64_t n = image % c.images_per_prefix;
            return static_cast<const S*>(c.target) + (n * c.shape.out_pixels() + pixel) * c.target_channels;
        }

        // Batch norm 3, the residual, and the ending.
        void operator()(const Block& b) const {
            const Shape& s = call.shape;
            const std::int64_t channels = s.out_channels, pixels = b.pixels;
            Sums sums;
            for (std::int64_t v = 0; v < b.width; v += kLanes) {
                const std::int64_t channel = b.first + v, valid = most(channels - channel, 0);
                if (valid == 0 && scratch == nullptr) break;
                const bool whole = valid >= kLanes;
                const auto read = [=](const auto* p) { return whole ? load(p) : load_first(p, valid); };
                const Vec factor = scale == nullptr ? splat(1.0f) : read(scale + channel);
                const Vec offset = scale == nullptr ? Vec{} : read(shift + channel);
                const float* const values = b.values + v;
                const S* const added = residual == nullptr ? nullptr : residual + b.pixel * channels + channel;
                const auto y = [=](std::int64_t p) {
                    const Vec normed = load(values + p * kGroup) * factor + offset;
                    return added == nullptr ? normed : normed + read(added + p * channels);
                };
                if (scratch != nullptr) {
                    Operand* const to = scratch + b.pixel * out_padded(s) + channel;
                    const std::int64_t pitch = out_padded(s);
                    // Zeros beyond the last channel: a pair of channels reads one of them.
                    for (std::int64_t p = 0; p < pixels; ++p)
                        store(to + p * pitch, whole ? y(p) : only_first(y(p), valid));
                } else if (tile_sums != nullptr) {
                    const S* const expected = target(b.pixel) + channel;
                    for (std::int64_t p = 0; p < pixels; ++p) {
                        const Vec difference = y(p) - read(expected + p * channels);
                        sums.add(whole ? difference : only_first(difference, valid));
                    }
                } else {
                    S* const to = static_cast<S*>(call.y) + (image * s.out_pixels() + b.pixel) * channels + channel;
                    if (whole) {
                        for (std::int64_t p = 0; p < pixels; ++p) store(to + p * channels, y(p));
                    } else {
                        for (std::int64_t p = 0; p < pixels; ++p) store_first(to + p * channels, y(p), valid);
                    }
                }
            }
            if (tile_sums != nullptr) sums.drain(tile_sums + b.pixel / kTile * 3);
        }
    };

    struct Adapted {
        const Output& output;

        void operator()(const Block& b) const {
            const Call& c = output.call;
            const std::int64_t channels = c.target_channels, pixels = b.pixels;
            Sums sums;
            for (std::int64_t v = 0; v < b.width; v += kLanes) {
                const std::int64_t channel = b.first + v, valid = channels - channel;
                if (valid <= 0) break;
                const bool whole = valid >= kLanes;
                const auto read = [=](const auto* p) { return whole ? load(p) : load_first(p, valid); };
                const Vec bias = read(c.adapter_bias + channel);
                const float* const values = b.values + v;
                const S* const expected = output.target(b.pixel) + channel;
                for (std::int64_t p = 0; p < pixels; ++p) {
                    const Vec difference = load(values + p * kGroup) + bias - read(expected + p * channels);
                    sums.add(whole ? difference : only_first(difference, valid));
                }
            }
            sums.drain(output.tile_sums + b.pixel / kTile * 3);
        }
    };

    // Blocks never cross a tile, so that sums do not depend on how tiles are spread over threads.
    template <class W, class Finish>
    static void multiply_tiles(const Call& c, const Operand* a, std::int64_t a_stride, const Matrix<W>& matrix,
                               std::int64_t begin, std::int64_t end, const Finish& finish) {
        for (std::int64_t tile = begin; tile < end; ++tile) {
            multiply(a, a_stride, matrix, tile * kTile, least((tile + 1) * kTile, c.shape.out_pixels()), finish);
        }
    }

    static void project(const Call& c, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* shared,
                        unsigned char* own, double* tile_sums) {
        const Shape& s = c.shape;
        const Shared layout = shared_layout(c);
        const Operand* result = at<Operand>(shared, layout.result);
        const bool is_raw = c.ending == Ending::write_raw, adapts = c.ending == Ending::adapt_and_reduce;
        const float* norm3 = affine_of(c, image) + (s.has_expansion ? 4 : 2) * s.mid_channels;
        const Output output{c,
                            image,
                            is_raw ? nullptr : norm3,
                            is_raw ? nullptr : norm3 + s.out_channels,
                            s.has_residual && !is_raw ? image_of(c, image) : nullptr,
                            adapts ? at<Operand>(shared, layout.output) : nullptr,
                            adapts || c.ending == Ending::write || is_raw ? nullptr : tile_sums};
        if (tile_sums != nullptr) std::memset(tile_sums + begin * 3, 0, static_cast<std::size_t>(end - begin) * 24);
        const std::int64_t depth = s.mid_channels, packed_depth = kNarrow ? round_up(depth, 2) : depth;
        for (std::int64_t group = 0; group < groups(s.out_channels); ++group) {
            const std::int64_t first = group * kGroup, width = group_width(s.out_channels, group, kHalfVector);
            const Weight* weights =
                reinterpret_cast<const Weight*>(c.packed + c.layout.conv_pwl) + first * packed_depth;
            if (s.se_channels > 0 && !gates_result(s)) {
                Operand* folded = at<Operand>(own, own_layout(c).folded);
                fold(weights, depth, width, at<float>(shared, layout.gates), folded);
                multiply_tiles(c, result, mid_padded(s), Matrix<Operand>{folded, depth, first, width}, begin, end,
                               output);
            } else {
                multiply_tiles(c, result, mid_padded(s), Matrix<Weight>{weights, depth, first, width}, begin, end,
                               output);
            }
        }
        if (!adapts) return;
        const Output compared{c, image, nullptr, nullptr, nullptr, nullptr, tile_sums};
        const std::int64_t adapter_depth = kNarrow ? round_up(s.out_channels, 2) : s.out_channels;
        for (std::int64_t group = 0; group < groups(c.target_channels); ++group) {
            const std::int64_t first = group * kGroup;
            const Matrix<Weight> matrix{reinterpret_cast<const Weight*>(c.adapter) + first * adapter_depth,
                                        s.out_channels, first, group_width(c.target_channels, group, kHalfVector)};
            multiply_tiles(c, at<Operand>(shared, layout.output), out_padded(s), matrix, begin, end, Adapted{compared});
        }
    }

    // ---- calibration's second half ----------------------------------------------------------------------------------

    static void output_moments(const Call& c, std::int64_t image) {
        const Shape& s = c.shape;
        const std::int64_t channels = s.out_channels;
        const S* y = static_cast<const S*>(c.y) + image * s.out_pixels() * channels;
        double* moments = c.moments + image * 2 * channels;
        for (std::int64_t v = 0; v < channels; v += kLanes) {
            const std::int64_t valid = least(channels - v, kLanes);
            double sums[kLanes] = {}, squares[kLanes] = {};
            for (std::int64_t begin = 0; begin < s.out_pixels(); begin += kMomentRun) {
                Vec sum{}, square{};
                for (std::int64_t pixel = begin; pixel < least(begin + kMomentRun, s.out_pixels()); ++pixel) {
                    const S* in = y + pixel * channels + v;
                    const Vec value = valid == kLanes ? load(in) : load_first(in, valid);
                    sum += value;
                    square += value * value;
                }
                for (int lane = 0; lane < kLanes; ++lane) {
                    sums[lane] += static_cast<double>(sum[lane]);
                    squares[lane] += static_cast<double>(square[lane]);
                }
            }
            std::memcpy(moments + v, sums, static_cast<std::size_t>(valid) * sizeof(double));
            std::memcpy(moments + channels + v, squares, static_cast<std::size_t>(valid) * sizeof(double));
        }
    }
};

}  // namespace
}  // namespace dna_fast::mbconv
