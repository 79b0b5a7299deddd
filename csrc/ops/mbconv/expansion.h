// From the image to the depthwise result: expansion into a ring of rows, the depthwise out of it, and what becomes of
// its blocks of sums: activated for the projection, or raw for calibration.
#pragma once

#include "memory.h"

namespace dna_fast::mbconv {
namespace {

template <class S, bool kDot>
struct Expansion : Memory<S, kDot> {
    using Base = Memory<S, kDot>;
    using Base::affine_of;
    using Base::converts_x;
    using Base::image_of;
    using Base::kAccuracy;
    using Base::kNarrow;
    using Base::kPair;
    using Base::kWeightPair;
    using Base::mid_padded;
    using Base::own_layout;
    using Base::ring_cols;
    using Base::ring_rows;
    using Base::shared_layout;
    using Base::x_pitch;
    using typename Base::Operand;
    using typename Base::Own;
    using typename Base::Shared;
    using typename Base::Weight;

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

    // ---- calibration's first half: conv_dw's result as it is --------------------------------------------------------

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
};

}  // namespace
}  // namespace dna_fast::mbconv
