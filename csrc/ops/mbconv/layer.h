// One MBConv layer on one image, in three phases (see Kernels in mbconv.h), for one instruction set and storage type.
//
// Work is ordered so that the expanded tensor exists only as a ring of k rows of one group of 48 channels, which stays
// in the level-2 cache: expansion writes rows of the ring, with batch norm 1 and SiLU applied while they are in
// registers, and the depthwise reads them k times. Its activated result (M channels of the output size) is kept for the
// image, because squeeze-excite needs all of it before the projection; the gate then goes into the projection's weights
// or, where there are fewer pixels than output channels, into that result. Accumulation is float32 throughout.
//
// bfloat16 has two forms. With dot products (kDot) both pointwise products and the depthwise take pairs: of channels,
// and of rows, which the ring holds interleaved. Without, bfloat16 is widened on loading and the rest is float32.
#pragma once

#include "blocks.h"
#include "mbconv.h"

namespace dna_fast::mbconv {
namespace {

template <class T>
MBCONV_INLINE T* at(unsigned char* base, std::int64_t offset) {
    return reinterpret_cast<T*>(base + offset);
}

MBCONV_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
MBCONV_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

template <class S, bool kDot>
struct Layer {
    // Elements of the ring and of the image's activated depthwise result, and left factors of products.
    using Operand = std::conditional_t<kDot, BFloat16, float>;
    // Elements of packed matrices.
    using Weight = S;
    static constexpr bool kNarrow = std::is_same_v<S, BFloat16>;
    static constexpr int kPair = kDot ? 2 : 1;           // ring rows, taps, and elements of Operand a lane
    static constexpr int kWeightPair = kNarrow ? 2 : 1;  // elements of Weight a lane
    static constexpr Accuracy kAccuracy = kDot ? Accuracy::half : Accuracy::full;
    static constexpr Dtype kDtype = kNarrow ? Dtype::bfloat16 : Dtype::float32;
    static constexpr std::int64_t kAlignment = 64;
    static constexpr std::int64_t kMomentRun = 32;  // pixels summed in float32 before double takes over

    // ---- scratch memory ---------------------------------------------------------------------------------------------

    struct Shared {             // byte offsets
        std::int64_t result;    // Operand [Q * R][M padded]
        std::int64_t pooled;    // float [M padded]: sums, then means
        std::int64_t gates;     // float [M padded]
        std::int64_t squeezed;  // float [S]
        std::int64_t output;    // Operand [Q * R][K padded], for an adapter
        std::int64_t bytes;
    };
    struct Own {
        std::int64_t x;       // Operand [H * W][x_pitch], where x cannot be used as it is
        std::int64_t ring;    // Operand [ring_rows + 1][ring_cols][48][kPair]; the last row is zeros
        std::int64_t folded;  // Operand [M][48], pairs as packed
        std::int64_t bytes;
    };

    static std::int64_t mid_padded(const Shape& s) { return round_up(s.mid_channels, kVector); }
    static std::int64_t out_padded(const Shape& s) { return round_up(s.out_channels, kVector); }
    // Dot products read a pair beyond an odd number of channels.
    static std::int64_t x_pitch(const Shape& s) { return kDot ? round_up(s.in_channels, 2) : s.in_channels; }
    static bool converts_x(const Shape& s) { return s.has_expansion && kNarrow && (!kDot || s.in_channels % 2 != 0); }
    static std::int64_t ring_rows(const Shape& s) { return kDot ? (s.kernel + 1) / 2 : s.kernel; }
    static std::int64_t ring_cols(const Shape& s) {
        return most(s.pad_left + s.width, (s.out_cols - 1) * s.stride + s.kernel);
    }

    static Shared shared_layout(const Call& c) {
        const Shape& s = c.shape;
        std::int64_t end = 0;
        const auto part = [&end](std::int64_t bytes) {
            const std::int64_t begin = end;
            end = round_up(end + bytes, kAlignment);
            return begin;
        };
        constexpr std::int64_t size = sizeof(Operand);
        Shared layout{};
        layout.result = part(s.out_pixels() * mid_padded(s) * size);
        layout.pooled = part(mid_padded(s) * 4);
        layout.gates = part(mid_padded(s) * 4);
        layout.squeezed = part(s.se_channels * 4);
        layout.output = part(c.ending == Ending::adapt_and_reduce ? s.out_pixels() * out_padded(s) * size : 0);
        layout.bytes = end;
        return layout;
    }

    static Own own_layout(const Call& c) {
        const Shape& s = c.shape;
        std::int64_t end = 0;
        const auto part = [&end](std::int64_t bytes) {
            const std::int64_t begin = end;
            end = round_up(end + bytes, kAlignment);
            return begin;
        };
        constexpr std::int64_t size = sizeof(Operand);
        Own layout{};
        layout.x = part(converts_x(s) ? s.in_pixels() * x_pitch(s) * size : 0);
        layout.ring = part((ring_rows(s) + 1) * ring_cols(s) * kGroup * kPair * size);
        layout.folded = part(s.se_channels > 0 ? round_up(s.mid_channels, 2) * kGroup * size : 0);
        layout.bytes = end;
        return layout;
    }

    static ScratchBytes scratch(const Call& c) { return {shared_layout(c).bytes, own_layout(c).bytes}; }

    // ---- expansion and depthwise ------------------------------------------------------------------------------------

    // Scales and shifts of one batch norm for a group of channels, in SiLU's units; zeros beyond the last channel,
    // which keep padded lanes zero.
    struct GroupNorm {
        alignas(64) float scale[kGroup], shift[kGroup];

        void read(const float* scales, const float* shifts, std::int64_t channels, std::int64_t first) {
            for (std::int64_t i = 0; i < kGroup; ++i) {
                scale[i] = first + i < channels ? scales[first + i] * kSiluScale : 0.0f;
                shift[i] = first + i < channels ? shifts[first + i] * kSiluScale : 0.0f;
            }
        }
    };

    static const float* affine_of(const Call& c, std::int64_t image) {
        return c.affine + image / c.images_per_prefix * c.affine_stride;
    }

    static const S* image_of(const Call& c, std::int64_t image) {
        return static_cast<const S*>(c.x) + image * c.shape.in_pixels() * c.shape.in_channels;
    }

    // The image as products read it.
    static const Operand* operand(const Call& c, std::int64_t image, Operand* copy) {
        const S* x = image_of(c, image);
        if constexpr (std::is_same_v<S, Operand>) {
            if (!converts_x(c.shape)) return x;
        }
        const std::int64_t channels = c.shape.in_channels, pitch = x_pitch(c.shape);
        for (std::int64_t pixel = 0; pixel < c.shape.in_pixels(); ++pixel) {
            for (std::int64_t i = 0; i < pitch; ++i) {
                const float value = i < channels ? widen(x[pixel * channels + i]) : 0.0f;
                narrow(value, copy[pixel * pitch + i]);
            }
        }
        return copy;
    }

    // One group of channels of one image on its way through the ring.
    struct Strip {
        const Call& call;
        const S* x;              // [H * W][C]
        const Operand* operand;  // the same for products, [H * W][x_pitch]
        std::int64_t first, width;
        const Weight* conv_pw;  // [C][width]
        GroupNorm norm1;
        Operand* ring;
        std::int64_t row_size;  // elements a ring row

        Operand* slot(std::int64_t row) const { return ring + row % ring_rows(call.shape) * row_size; }
        const Operand* zeros() const { return ring + ring_rows(call.shape) * row_size; }

        void clear() const {
            // Columns left and right of the image, and the row of zeros, are never written again.
            std::memset(static_cast<void*>(ring), 0,
                        static_cast<std::size_t>((ring_rows(call.shape) + 1) * row_size) * sizeof(Operand));
        }

        Operand* inside(Operand* row) const { return row + call.shape.pad_left * kGroup * kPair; }

        // Fills ring row `row`: an image row, or with kDot the pair of image rows 2 * row and 2 * row + 1.
        void fill(std::int64_t row) const {
            Operand* out = inside(slot(row));
            if (!call.shape.has_expansion) {
                copy(row, out);
            } else if constexpr (kDot) {
                expand_pair(row, out);
            } else {
                expand_row(row, out);
            }
        }

        // Locals hold what a block needs: stores of vectors may alias anything as far as the compiler knows, and it
        // would read members again after each.
        void expand_row(std::int64_t row, float* out) const {
            const Shape& s = call.shape;
            const std::int64_t pitch = x_pitch(s), depth = s.in_channels, columns = width;
            const float* const in = reinterpret_cast<const float*>(operand) + row * s.width * pitch;
            const GroupNorm& norm = norm1;
            const Weight* const weights = conv_pw;
            in_columns(columns, [=, &norm]<int kV>(std::int64_t column) {
                in_blocks(0, s.width, [=, &norm]<int kP>(std::int64_t pixel) {
                    Vec acc[kP][kV] = {};
                    product<kP, kV>(in + pixel * pitch, pitch, depth, weights + kWeightPair * column, columns, acc);
                    float* const to = out + pixel * kGroup + column;
                    activate_block<kP, kV>(acc, norm, column, [=](int p, int v, Vec value) {
                        store(to + p * kGroup + v * kLanes, value);
                    });
                });
            });
        }

        // Batch norm 1 and SiLU; take(pixel, vector, value) stores each result.
        template <int kP, int kV, class Take>
        MBCONV_INLINE static void activate_block(const Vec (&acc)[kP][kV], const GroupNorm& norm, std::int64_t column,
                                                 const Take& take) {
#pragma GCC unroll 3
            for (int v = 0; v < kV; ++v) {
                const Vec scale = load(norm.scale + column + v * kLanes);
                const Vec shift = load(norm.shift + column + v * kLanes);
#pragma GCC unroll 8
                for (int p = 0; p < kP; ++p) take(p, v, scaled_silu<kAccuracy>(acc[p][v] * scale + shift));
            }
        }

#if defined(__AVX512BF16__)
        void expand_pair(std::int64_t pair, BFloat16* out) const {
            const Shape& s = call.shape;
            const std::int64_t pitch = x_pitch(s), depth = s.in_channels, columns = width, row_pitch = s.width * pitch;
            const bool has_second = 2 * pair + 1 < s.height;
            const BFloat16* const in = operand + 2 * pair * row_pitch;
            const GroupNorm& norm = norm1;
            const Weight* const weights = conv_pw;
            in_columns(columns, [=, &norm]<int kV>(std::int64_t column) {
                in_blocks(0, s.width, [=, &norm]<int kP>(std::int64_t pixel) {
                    const BFloat16* const a = in + pixel * pitch;
                    const Weight* const b = weights + 2 * column;
                    BFloat16* const to = out + 2 * (pixel * kGroup + column);
                    Vec first[kP][kV] = {};
                    product<kP, kV>(a, pitch, depth, b, columns, first);
                    alignas(64) float kept[kP][kV][kLanes];
                    float* const keep = &kept[0][0][0];
                    activate_block<kP, kV>(first, norm, column, [=](int p, int v, Vec value) {
                        store(keep + (p * kV + v) * kLanes, value);
                    });
                    const auto put = [=](int p, int v, Vec value) {
                        store(reinterpret_cast<float*>(to + 2 * (p * kGroup + v * kLanes)),
                              paired(load(keep + (p * kV + v) * kLanes), value));
                    };
                    if (has_second) {
                        Vec second[kP][kV] = {};
                        product<kP, kV>(a + row_pitch, pitch, depth, b, columns, second);
                        activate_block<kP, kV>(second, norm, column, put);
                    } else {
                        for (int p = 0; p < kP; ++p) {
                            for (int v = 0; v < kV; ++v) put(p, v, Vec{});
                        }
                    }
                });
            });
        }
#endif

        // Without expansion the depthwise reads the layer's input.
        void copy(std::int64_t row, Operand* out) const {
            const Shape& s = call.shape;
            for (std::int64_t half = 0; half < kPair; ++half) {
                const std::int64_t image_row = kPair * row + half;
                const bool is_inside = image_row < s.height;
                for (std::int64_t pixel = 0; pixel < s.width; ++pixel) {
                    const S* in = x + (image_row * s.width + pixel) * s.in_channels + first;
                    Operand* to = out + pixel * kGroup * kPair + half;
                    const std::int64_t valid = is_inside ? least(width, s.in_channels - first) : 0;
                    for (std::int64_t i = 0; i < valid; ++i) narrow(widen(in[i]), to[i * kPair]);
                    for (std::int64_t i = valid; i < width; ++i) narrow(0.0f, to[i * kPair]);
                }
            }
        }
    };

    // Runs conv_dw over a strip. sink.block<pixels>(row, column, channel, acc) takes each block of sums of one vector
    // of channels, sink.row() the end of every output row.
    template <int kK, int kStride, class Sink>
    static void depthwise_strip(const Strip& strip, Sink& sink) {
        const Call& c = strip.call;
        const Shape& s = c.shape;
        const std::int64_t taps_before = strip.first * kK * kK;
        const float* plain = reinterpret_cast<const float*>(c.packed + c.layout.conv_dw) + taps_before;
        const std::int64_t image_rows = (s.height + kPair - 1) / kPair;  // rows or pairs of rows
        constexpr std::int64_t kRows = kDot ? (kK + 1) / 2 : kK;
        std::int64_t filled = 0;
        for (std::int64_t q = 0; q < s.out_rows; ++q) {
            const std::int64_t top = q * kStride - s.pad_top;
            const std::int64_t begin = kDot ? top >> 1 : top;  // rounds down below zero, too
            const Operand* rows[kRows];
            for (; filled < least(image_rows, begin + kRows); ++filled) strip.fill(filled);
            for (std::int64_t i = 0; i < kRows; ++i) {
                const std::int64_t row = begin + i;
                rows[i] = row >= 0 && row < image_rows ? strip.slot(row) : strip.zeros();
            }
            const Operand* weights;
            if constexpr (kDot) {
                const std::int64_t parity = top & 1;
                weights = reinterpret_cast<const BFloat16*>(c.packed + c.layout.conv_dw_pairs) +
                          2 * (parity * groups(s.mid_channels) * kGroup + strip.first) * kRows * kK;
            } else {
                weights = plain;
            }
            const std::int64_t width = strip.width;
            in_blocks(0, s.out_cols, [&]<int kP>(std::int64_t column) {
                for (std::int64_t v = 0; v < width; v += kLanes) {
                    Vec acc[kP] = {};
                    taps<kK, kStride, kP>(rows, (column * kStride * kGroup + v) * kPair, weights + v * kPair, acc);
                    sink.template block<kP>(q, column, v, acc);
                }
            });
            sink.row();
        }
    }

    template <class Sink>
    static void depthwise_on(const Strip& strip, Sink& sink) {
        const Shape& s = strip.call.shape;
        if (s.stride == 1) {
            if (s.kernel == 3) return depthwise_strip<3, 1>(strip, sink);
            if (s.kernel == 5) return depthwise_strip<5, 1>(strip, sink);
            return depthwise_strip<7, 1>(strip, sink);
        }
        if (s.kernel == 3) return depthwise_strip<3, 2>(strip, sink);
        if (s.kernel == 5) return depthwise_strip<5, 2>(strip, sink);
        return depthwise_strip<7, 2>(strip, sink);
    }

    // Runs `work(strip)` for groups [begin, end).
    template <class Work>
    static void in_strips(const Call& c, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* own,
                          const Work& work) {
        const Shape& s = c.shape;
        const Own layout = own_layout(c);
        const float* affine = affine_of(c, image);
        const Operand* x = nullptr;
        if (s.has_expansion) x = operand(c, image, at<Operand>(own, layout.x));
        for (std::int64_t group = begin; group < end; ++group) {
            const std::int64_t first = group * kGroup, width = group_width(s.mid_channels, group);
            const std::int64_t depth = kNarrow ? round_up(s.in_channels, 2) : s.in_channels;
            Strip strip{c,
                        image_of(c, image),
                        x,
                        first,
                        width,
                        reinterpret_cast<const Weight*>(c.packed + c.layout.conv_pw) + first * depth,
                        {},
                        at<Operand>(own, layout.ring),
                        ring_cols(s) * kGroup * kPair};
            if (s.has_expansion) strip.norm1.read(affine, affine + s.mid_channels, s.mid_channels, first);
            strip.clear();
            work(strip);
        }
    }

    // ---- phase 1: into the image's activated result -----------------------------------------------------------------

    struct ActivateSink {
        std::int64_t cols, pitch, width;
        GroupNorm norm2;
        Operand* result;  // this group's first channel of [Q * R][pitch]
        float* pooled;
        alignas(64) float row_sums[kGroup];

        template <int kP>
        MBCONV_INLINE void block(std::int64_t q, std::int64_t column, std::int64_t v, const Vec (&acc)[kP]) {
            const Vec scale = load(norm2.scale + v), shift = load(norm2.shift + v);
            Operand* out = result + (q * cols + column) * pitch + v;
            const std::int64_t out_pitch = pitch;
            Vec sum = load(row_sums + v);
#pragma GCC unroll 8
            for (int p = 0; p < kP; ++p) {
                const Vec value = scaled_silu<kAccuracy>(acc[p] * scale + shift);
                sum += value;
                store(out + p * out_pitch, value);
            }
            store(row_sums + v, sum);
        }
        // Row by row, so that no sum has more than about H + W terms.
        void row() {
            for (std::int64_t i = 0; i < width; ++i) pooled[i] += row_sums[i];
            std::memset(row_sums, 0, sizeof(row_sums));
        }
    };

    static ActivateSink activate_sink(const Call& c, const float* norm2, std::int64_t group, unsigned char* shared) {
        const Shape& s = c.shape;
        const Shared layout = shared_layout(c);
        const std::int64_t first = group * kGroup;
        ActivateSink sink{s.out_cols,
                          mid_padded(s),
                          group_width(s.mid_channels, group),
                          {},
                          at<Operand>(shared, layout.result) + first,
                          at<float>(shared, layout.pooled) + first,
                          {}};
        sink.norm2.read(norm2, norm2 + s.mid_channels, s.mid_channels, first);
        std::memset(sink.pooled, 0, static_cast<std::size_t>(sink.width) * 4);
        return sink;
    }

    static void expand(const Call& c, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* shared,
                       unsigned char* own) {
        const float* norm2 = affine_of(c, image) + (c.shape.has_expansion ? 2 * c.shape.mid_channels : 0);
        in_strips(c, image, begin, end, own, [&](const Strip& strip) {
            ActivateSink sink = activate_sink(c, norm2, strip.first / kGroup, shared);
            depthwise_on(strip, sink);
        });
    }

    static void activate(const Call& c, std::int64_t image, std::int64_t begin, std::int64_t end,
                         unsigned char* shared) {
        const Shape& s = c.shape;
        for (std::int64_t group = begin; group < end; ++group) {
            ActivateSink sink = activate_sink(c, affine_of(c, image), group, shared);
            const std::int64_t first = group * kGroup, valid = least(sink.width, s.mid_channels - first);
            const S* in = static_cast<const S*>(c.x) + image * s.out_pixels() * s.mid_channels + first;
            for (std::int64_t q = 0; q < s.out_rows; ++q) {
                for (std::int64_t r = 0; r < s.out_cols; ++r, in += s.mid_channels) {
                    for (std::int64_t v = 0; v < sink.width; v += kLanes) {
                        const Vec raw[1] = {v + kLanes <= valid ? load(in + v)
                                                                : load_first(in + v, most(valid - v, 0))};
                        sink.template block<1>(q, r, v, raw);
                    }
                }
                sink.row();
            }
        }
    }

    // ---- calibration's first half: conv_dw's result as it is
    // ----------------------------------------------------------

    struct RawSink {
        std::int64_t cols, pitch, width, valid;
        S* out;  // this group's first channel of [Q * R][pitch]
        alignas(64) float row_sums[kGroup], row_squares[kGroup];
        double sums[kGroup], squares[kGroup];

        template <int kP>
        MBCONV_INLINE void block(std::int64_t q, std::int64_t column, std::int64_t v, const Vec (&acc)[kP]) {
            S* to = out + (q * cols + column) * pitch + v;
            Vec sum = load(row_sums + v), square = load(row_squares + v);
            for (int p = 0; p < kP; ++p) {
                sum += acc[p];
                square += acc[p] * acc[p];
                if (v + kLanes <= valid) {
                    store(to + p * pitch, acc[p]);
                } else if (v < valid) {
                    store_first(to + p * pitch, acc[p], valid - v);
                }
            }
            store(row_sums + v, sum);
            store(row_squares + v, square);
        }
        void row() {
            for (std::int64_t i = 0; i < width; ++i) {
                sums[i] += static_cast<double>(row_sums[i]);
                squares[i] += static_cast<double>(row_squares[i]);
            }
            std::memset(row_sums, 0, sizeof(row_sums));
            std::memset(row_squares, 0, sizeof(row_squares));
        }
    };

    static void depthwise(const Call& c, std::int64_t image, std::int64_t begin, std::int64_t end, unsigned char* own) {
        const Shape& s = c.shape;
        in_strips(c, image, begin, end, own, [&](const Strip& strip) {
            const std::int64_t valid = least(strip.width, s.mid_channels - strip.first);
            S* out = static_cast<S*>(c.y) + image * s.out_pixels() * s.mid_channels + strip.first;
            RawSink sink{s.out_cols, s.mid_channels, strip.width, valid, out, {}, {}, {}, {}};
            depthwise_on(strip, sink);
            double* moments = c.moments + image * 2 * s.mid_channels + strip.first;
            std::memcpy(moments, sink.sums, static_cast<std::size_t>(valid) * sizeof(double));
            std::memcpy(moments + s.mid_channels, sink.squares, static_cast<std::size_t>(valid) * sizeof(double));
        });
    }

    // ---- phase 2: squeeze-excite
    // --------------------------------------------------------------------------------------

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

    // ---- phase 3: projection and endings
    // ------------------------------------------------------------------------------

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

    // ---- calibration's second half
    // ------------------------------------------------------------------------------------

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

template <class S, bool kDot>
constexpr Kernels kernels_of() {
    using L = Layer<S, kDot>;
    return {L::scratch, L::expand, L::depthwise, L::activate, L::gate, L::project, L::output_moments};
}

}  // namespace
}  // namespace dna_fast::mbconv
