// Random small MBConv layers and what they give, in float64: for the drivers of the CPU's and of the GPU's kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "driver.h"
#include "ops/mbconv/mbconv.h"

namespace dna_fast::mbconv {

struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<unsigned char[], Free>;

// Not rounded up: what follows the last byte is poisoned by the sanitizer.
inline Bytes aligned_bytes(std::int64_t bytes) {
    void* p = nullptr;
    expect(posix_memalign(&p, 64, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))) == 0, "out of memory");
    std::fill_n(static_cast<unsigned char*>(p), bytes, static_cast<unsigned char>(0xff));  // every float a NaN
    return Bytes(static_cast<unsigned char*>(p));
}

// Numbers as the kernels store them, and what they are.
struct Stored {
    std::vector<double> values;
    std::vector<unsigned char> bytes;  // exactly as many as the numbers take

    const void* data() const { return bytes.data(); }
};

inline std::int64_t element_bytes(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

template <class T>
double put(float value, unsigned char* at) {
    T narrowed;
    narrow(value, narrowed);
    std::memcpy(at, &narrowed, sizeof(narrowed));
    return static_cast<double>(widen(narrowed));
}
template <class T>
double get(const unsigned char* at) {
    T value;
    std::memcpy(&value, at, sizeof(value));
    return static_cast<double>(widen(value));
}

using Random = std::mt19937;

inline std::vector<float> normals(Random& random, std::int64_t count, double scale) {
    std::normal_distribution<double> normal(0.0, scale);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(normal(random));
    return values;
}

inline Stored stored(Random& random, std::int64_t count, Dtype dtype) {
    Stored result;
    const std::int64_t size = element_bytes(dtype);
    result.bytes.resize(static_cast<std::size_t>(count * size));
    unsigned char* at = result.bytes.data();
    for (float value : normals(random, count, 1.0)) {
        result.values.push_back(dtype == Dtype::float32    ? put<float>(value, at)
                                : dtype == Dtype::bfloat16 ? put<BFloat16>(value, at)
                                                           : put<Float16>(value, at));
        at += size;
    }
    return result;
}
// The first numbers of it, with nothing behind them.
inline std::vector<unsigned char> beginning(const Stored& all, std::int64_t count, Dtype dtype) {
    return {all.bytes.begin(), all.bytes.begin() + count * element_bytes(dtype)};
}

inline double read(const unsigned char* bytes, Dtype dtype, std::int64_t index) {
    const unsigned char* at = bytes + index * element_bytes(dtype);
    return dtype == Dtype::float32 ? get<float>(at) : dtype == Dtype::bfloat16 ? get<BFloat16>(at) : get<Float16>(at);
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Layer {
    Shape shape;
    std::int64_t images, prefixes, target_channels;
    std::vector<float> conv_pw, conv_dw, conv_pwl, se_reduce, se_reduce_bias, se_expand, se_expand_bias;
    std::vector<float> affine, adapter, adapter_bias;
    Stored x, target;
};

inline Layer random_layer(Random& random, Dtype dtype) {
    const auto pick = [&random](std::initializer_list<std::int64_t> choices) {
        return *(choices.begin() + random() % choices.size());
    };
    Layer layer{};
    Shape& s = layer.shape;
    s.in_channels = pick({1, 3, 8, 17, 24, 40});
    s.has_expansion = pick({0, 1, 1}) == 1;
    s.mid_channels = s.has_expansion ? s.in_channels * pick({1, 3, 6}) + pick({0, 0, 1}) : s.in_channels;
    s.kernel = pick({3, 5, 7});
    s.stride = pick({1, 2});
    s.has_residual = s.stride == 1 && pick({0, 1}) == 1;
    s.out_channels = s.has_residual ? s.in_channels : pick({1, 7, 8, 16, 24, 40, 56, 100});
    s.se_channels = pick({0, 1, 5, 9});
    s.height = pick({1, 2, 5, 7, 9, 18});
    s.width = pick({1, 3, 7, 8, 15, 17});
    s.out_rows = (s.height + s.stride - 1) / s.stride;
    s.out_cols = (s.width + s.stride - 1) / s.stride;
    const bool same = pick({0, 1}) == 1;
    const auto pad = [&](std::int64_t size, std::int64_t out) {
        return same ? std::max<std::int64_t>((out - 1) * s.stride + s.kernel - size, 0) / 2 : s.kernel / 2;
    };
    s.pad_top = pad(s.height, s.out_rows);
    s.pad_left = pad(s.width, s.out_cols);
    layer.prefixes = pick({1, 2});
    layer.images = layer.prefixes * pick({1, 2});
    layer.target_channels = pick({1, 8, 24, 50});
    const std::int64_t mid = s.mid_channels, out = s.out_channels, se = s.se_channels;
    if (s.has_expansion) layer.conv_pw = normals(random, mid * s.in_channels, 1.0 / std::sqrt(s.in_channels));
    layer.conv_dw = normals(random, mid * s.kernel * s.kernel, 1.0 / static_cast<double>(s.kernel));
    layer.conv_pwl = normals(random, out * mid, 1.0 / std::sqrt(mid));
    layer.se_reduce = normals(random, se * mid, 1.0 / std::sqrt(mid));
    layer.se_reduce_bias = normals(random, se, 1.0);
    layer.se_expand = normals(random, se * mid, 1.0);
    layer.se_expand_bias = normals(random, se > 0 ? mid : 0, 1.0);
    layer.affine = normals(random, layer.prefixes * ((s.has_expansion ? 4 : 2) * mid + 2 * out), 1.0);
    layer.adapter = normals(random, layer.target_channels * out, 1.0 / std::sqrt(out));
    layer.adapter_bias = normals(random, layer.target_channels, 1.0);
    layer.x = stored(random, layer.images * s.in_pixels() * s.in_channels, dtype);
    const std::int64_t targets = layer.images / layer.prefixes * s.out_pixels();
    layer.target = stored(random, targets * std::max(layer.target_channels, out), dtype);
    return layer;
}

struct Expected {
    std::vector<double> depthwise, projected, y;  // [Q * R][M], [Q * R][K], [Q * R][K] of one image
};

inline Expected reference(const Layer& layer, std::int64_t image) {
    const Shape& s = layer.shape;
    const std::int64_t mid = s.mid_channels, in = s.in_channels, out = s.out_channels;
    const std::int64_t row = (s.has_expansion ? 4 : 2) * mid + 2 * out;
    const float* affine = layer.affine.data() + image / (layer.images / layer.prefixes) * row;
    const double* x = layer.x.values.data() + image * s.in_pixels() * in;
    const auto normed_silu = [](double value, const float* scale, const float* shift, std::int64_t channel) {
        const double t = value * static_cast<double>(scale[channel]) + static_cast<double>(shift[channel]);
        return t * sigmoid(t);
    };
    std::vector<double> expanded(static_cast<std::size_t>(s.in_pixels() * mid));
    for (std::int64_t pixel = 0; pixel < s.in_pixels(); ++pixel) {
        for (std::int64_t m = 0; m < mid; ++m) {
            double sum = s.has_expansion ? 0.0 : x[pixel * in + m];
            for (std::int64_t c = 0; s.has_expansion && c < in; ++c)
                sum += x[pixel * in + c] * static_cast<double>(layer.conv_pw[m * in + c]);
            expanded[pixel * mid + m] = s.has_expansion ? normed_silu(sum, affine, affine + mid, m) : sum;
        }
    }
    const float* norm2 = affine + (s.has_expansion ? 2 * mid : 0);
    Expected result;
    std::vector<double> active(static_cast<std::size_t>(s.out_pixels() * mid)), means(static_cast<std::size_t>(mid));
    result.depthwise.resize(active.size());
    for (std::int64_t q = 0; q < s.out_rows; ++q) {
        for (std::int64_t r = 0; r < s.out_cols; ++r) {
            for (std::int64_t m = 0; m < mid; ++m) {
                double sum = 0.0;
                for (std::int64_t ky = 0; ky < s.kernel; ++ky) {
                    for (std::int64_t kx = 0; kx < s.kernel; ++kx) {
                        const std::int64_t h = q * s.stride - s.pad_top + ky, w = r * s.stride - s.pad_left + kx;
                        if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
                        sum += expanded[(h * s.width + w) * mid + m] *
                               static_cast<double>(layer.conv_dw[(m * s.kernel + ky) * s.kernel + kx]);
                    }
                }
                const std::int64_t at = (q * s.out_cols + r) * mid + m;
                result.depthwise[at] = sum;
                active[at] = normed_silu(sum, norm2, norm2 + mid, m);
                means[m] += active[at] / static_cast<double>(s.out_pixels());
            }
        }
    }
    for (std::int64_t m = 0; s.se_channels > 0 && m < mid; ++m) {
        double gate = static_cast<double>(layer.se_expand_bias[m]);
        for (std::int64_t i = 0; i < s.se_channels; ++i) {
            double sum = static_cast<double>(layer.se_reduce_bias[i]);
            for (std::int64_t j = 0; j < mid; ++j) sum += means[j] * static_cast<double>(layer.se_reduce[i * mid + j]);
            gate += static_cast<double>(layer.se_expand[m * s.se_channels + i]) * sum * sigmoid(sum);
        }
        for (std::int64_t pixel = 0; pixel < s.out_pixels(); ++pixel) active[pixel * mid + m] *= sigmoid(gate);
    }
    const float* norm3 = norm2 + 2 * mid;
    for (std::int64_t pixel = 0; pixel < s.out_pixels(); ++pixel) {
        for (std::int64_t k = 0; k < out; ++k) {
            double sum = 0.0;
            for (std::int64_t m = 0; m < mid; ++m)
                sum += active[pixel * mid + m] * static_cast<double>(layer.conv_pwl[k * mid + m]);
            result.projected.push_back(sum);
            const double normed = sum * static_cast<double>(norm3[k]) + static_cast<double>(norm3[out + k]);
            result.y.push_back(normed + (s.has_residual ? x[pixel * in + k] : 0.0));
        }
    }
    return result;
}

inline double largest(const std::vector<double>& values) {
    double result = 0.0;
    for (double value : values) result = std::max(result, std::abs(value));
    return result;
}

// float32: a few roundings of sums of some hundred terms of size 1. The others: eight roundings on the way, bfloat16's
// of 2^-9, float16's of 2^-12.
inline double allowed_error(Dtype dtype) {
    return dtype == Dtype::float32 ? 2e-5 : 8.0 * 4.0 * (dtype == Dtype::bfloat16 ? 0x1p-9 : 0x1p-12);
}
inline const char* name_of(Dtype dtype) {
    return dtype == Dtype::float32 ? "float32" : dtype == Dtype::bfloat16 ? "bfloat16" : "float16";
}

// Sums of d, |d| and d^2 of one image against the target, directly or behind the adapter; and what a relative error of
// the outputs has to be multiplied by for errors of the sums, as d may be small where outputs are not.
struct ExpectedSums {
    double sums[3], scales[3];
};
inline ExpectedSums expected_sums(const Layer& layer, const Expected& expected, std::int64_t image,
                                  std::int64_t channels, bool adapts) {
    const Shape& s = layer.shape;
    const std::int64_t in_prefix = image % (layer.images / layer.prefixes), pixels = s.out_pixels();
    ExpectedSums result{};
    const double size = largest(expected.y);
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        const double* y = expected.y.data() + pixel * s.out_channels;
        for (std::int64_t t = 0; t < channels; ++t) {
            double value = adapts ? static_cast<double>(layer.adapter_bias[t]) : y[t];
            double terms = adapts ? std::abs(value) : size;
            for (std::int64_t k = 0; adapts && k < s.out_channels; ++k) {
                const double weight = static_cast<double>(layer.adapter[t * s.out_channels + k]);
                value += y[k] * weight;
                terms += size * std::abs(weight);
            }
            const double d = value - layer.target.values[(in_prefix * pixels + pixel) * channels + t];
            const double of_sums[3] = {d, std::abs(d), d * d},
                         of_scales[3] = {terms, terms, (2 * std::abs(d) + terms) * terms};
            for (int i = 0; i < 3; ++i) {
                result.sums[i] += of_sums[i];
                result.scales[i] += of_scales[i];
            }
        }
    }
    return result;
}

// Rows of batch norm 2 alone, [prefixes][2 M], as calibration's second half has it.
inline std::vector<float> second_norms(const Layer& layer) {
    const std::int64_t mid = layer.shape.mid_channels;
    const std::int64_t stride = static_cast<std::int64_t>(layer.affine.size()) / layer.prefixes;
    std::vector<float> rows;
    for (std::int64_t prefix = 0; prefix < layer.prefixes; ++prefix) {
        const float* row = layer.affine.data() + prefix * stride + (layer.shape.has_expansion ? 2 * mid : 0);
        rows.insert(rows.end(), row, row + 2 * mid);
    }
    return rows;
}

}  // namespace dna_fast::mbconv
