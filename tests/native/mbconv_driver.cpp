// mbconv's CPU kernels: random small layers in every instruction set of this CPU, both storage types, all endings and
// both halves of calibration, with groups and tiles worked on in several calls. Every buffer ends where its tensor
// ends.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "driver.h"
#include "ops/mbconv/mbconv.h"

namespace dna_fast::mbconv {
namespace {

constexpr int kCases = 25;  // for each instruction set and storage type

struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<unsigned char[], Free>;

// Not rounded up: what follows the last byte is poisoned by the sanitizer.
Bytes aligned_bytes(std::int64_t bytes) {
    void* p = nullptr;
    expect(posix_memalign(&p, 64, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))) == 0, "out of memory");
    std::fill_n(static_cast<unsigned char*>(p), bytes, static_cast<unsigned char>(0xff));  // every float a NaN
    return Bytes(static_cast<unsigned char*>(p));
}

// Numbers as the kernels store them, and what they are.
struct Stored {
    std::vector<double> values;
    std::vector<float> floats;
    std::vector<BFloat16> halves;

    const void* data(Dtype dtype) const {
        return dtype == Dtype::float32 ? static_cast<const void*>(floats.data()) : halves.data();
    }
};

using Random = std::mt19937;

std::vector<float> normals(Random& random, std::int64_t count, double scale) {
    std::normal_distribution<double> normal(0.0, scale);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(normal(random));
    return values;
}

Stored stored(Random& random, std::int64_t count, Dtype dtype) {
    Stored result;
    for (float value : normals(random, count, 1.0)) {
        if (dtype == Dtype::float32) {
            result.floats.push_back(value);
            result.values.push_back(static_cast<double>(value));
        } else {
            BFloat16 rounded;
            narrow(value, rounded);
            result.halves.push_back(rounded);
            result.values.push_back(static_cast<double>(widen(rounded)));
        }
    }
    return result;
}

double read(const unsigned char* bytes, Dtype dtype, std::int64_t index) {
    if (dtype == Dtype::float32) return static_cast<double>(reinterpret_cast<const float*>(bytes)[index]);
    return static_cast<double>(widen(reinterpret_cast<const BFloat16*>(bytes)[index]));
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct Layer {
    Shape shape;
    std::int64_t images, prefixes, target_channels;
    std::vector<float> conv_pw, conv_dw, conv_pwl, se_reduce, se_reduce_bias, se_expand, se_expand_bias;
    std::vector<float> affine, adapter, adapter_bias;
    Stored x, target;
};

Layer random_layer(Random& random, Dtype dtype) {
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

Expected reference(const Layer& layer, std::int64_t image) {
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

class Checker {
  public:
    Checker(const Layer& layer, Isa isa, Dtype dtype)
        : layer_(layer), s_(layer.shape), dtype_(dtype), kernels_(kernels(isa, dtype)), isa_(isa) {
        const Weights weights{layer.conv_pw.data(),       layer.conv_dw.data(),        layer.conv_pwl.data(),
                              layer.se_reduce.data(),     layer.se_reduce_bias.data(), layer.se_expand.data(),
                              layer.se_expand_bias.data()};
        call_.shape = s_;
        call_.layout = packed_layout(s_, dtype);
        packed_ = aligned_bytes(call_.layout.bytes);
        pack(s_, dtype, weights, packed_.get());
        call_.packed = packed_.get();
        call_.x = layer.x.data(dtype);
        call_.affine = layer.affine.data();
        call_.affine_stride = static_cast<std::int64_t>(layer.affine.size()) / layer.prefixes;
        call_.images_per_prefix = layer.images / layer.prefixes;
        for (std::int64_t image = 0; image < layer.images; ++image) expected_.push_back(reference(layer, image));
    }

    void check_all() {
        write();
        reduce(s_.out_channels, false);
        reduce(layer_.target_channels, true);
        calibrate();
    }

  private:
    std::int64_t element() const { return dtype_ == Dtype::float32 ? 4 : 2; }

    // float32: a few roundings of sums of some hundred terms of size 1. bfloat16: eight roundings of 2^-9 on the way.
    void check(double got, double expected, double scale, const char* what) const {
        const double allowed = (dtype_ == Dtype::float32 ? 2e-5 : 8.0 / 512.0 * 4.0) * (scale + std::abs(expected));
        expect(std::abs(got - expected) <= allowed, what, " with ", isa_name(isa_), ", ",
               dtype_ == Dtype::float32 ? "float32" : "bfloat16", ", C ", s_.in_channels, " M ", s_.mid_channels, " K ",
               s_.out_channels, " k ", s_.kernel, " s ", s_.stride, " at ", s_.height, "x", s_.width, ": expected ",
               expected, ", got ", got);
    }

    static double largest(const std::vector<double>& values) {
        double result = 0.0;
        for (double value : values) result = std::max(result, std::abs(value));
        return result;
    }

    // One image through all phases, each in two calls.
    void run(const Call& call, std::int64_t image, bool from_depthwise, double* sums) const {
        const ScratchBytes bytes = kernels_.scratch(call);
        const Bytes shared = aligned_bytes(bytes.shared), own = aligned_bytes(bytes.own);
        const std::int64_t count = groups(s_.mid_channels), half = count / 2, tile_count = tiles(s_);
        for (const auto& [begin, end] : {std::pair{half, count}, std::pair{std::int64_t{0}, half}}) {
            if (from_depthwise) {
                kernels_.activate(call, image, begin, end, shared.get());
            } else {
                kernels_.expand(call, image, begin, end, shared.get(), own.get());
            }
        }
        kernels_.gate(call, shared.get());
        std::vector<double> tile_sums(static_cast<std::size_t>(3 * tile_count));
        const std::int64_t middle = tile_count / 2;
        kernels_.project(call, image, middle, tile_count, shared.get(), own.get(), tile_sums.data());
        kernels_.project(call, image, 0, middle, shared.get(), own.get(), tile_sums.data());
        for (std::size_t i = 0; sums != nullptr && i < tile_sums.size(); ++i) sums[i % 3] += tile_sums[i];
    }

    void write() {
        Call call = call_;
        call.ending = Ending::write;
        const std::int64_t size = s_.out_pixels() * s_.out_channels;
        const Bytes y = aligned_bytes(layer_.images * size * element());
        call.y = y.get();
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            run(call, image, false, nullptr);
            const std::vector<double>& expected = expected_[image].y;
            for (std::int64_t i = 0; i < size; ++i)
                check(read(y.get(), dtype_, image * size + i), expected[i], largest(expected), "output");
        }
    }

    void reduce(std::int64_t channels, bool adapts) {
        Call call = call_;
        call.ending = adapts ? Ending::adapt_and_reduce : Ending::reduce;
        const std::int64_t per_prefix = call.images_per_prefix, pixels = s_.out_pixels();
        // A target that ends with its last element.
        const std::vector<float> floats(
            layer_.target.floats.begin(),
            layer_.target.floats.begin() + (dtype_ == Dtype::float32 ? per_prefix * pixels * channels : 0));
        const std::vector<BFloat16> halves(
            layer_.target.halves.begin(),
            layer_.target.halves.begin() + (dtype_ == Dtype::float32 ? 0 : per_prefix * pixels * channels));
        call.target = dtype_ == Dtype::float32 ? static_cast<const void*>(floats.data()) : halves.data();
        call.target_channels = channels;
        const Bytes adapter = aligned_bytes(packed_matrix_bytes(s_.out_channels, channels, kHalfVector, dtype_));
        if (adapts) {
            pack_matrix(s_.out_channels, channels, kHalfVector, dtype_, layer_.adapter.data(), 1.0f, adapter.get());
            call.adapter = adapter.get();
            call.adapter_bias = layer_.adapter_bias.data();
        }
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            double sums[3] = {}, expected[3] = {};
            call.sums = sums;
            run(call, image, false, sums);
            for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
                const double* y = expected_[image].y.data() + pixel * s_.out_channels;
                for (std::int64_t t = 0; t < channels; ++t) {
                    double value = adapts ? static_cast<double>(layer_.adapter_bias[t]) : y[t];
                    for (std::int64_t k = 0; adapts && k < s_.out_channels; ++k)
                        value += y[k] * static_cast<double>(layer_.adapter[t * s_.out_channels + k]);
                    const double d =
                        value - layer_.target.values[((image % per_prefix) * pixels + pixel) * channels + t];
                    expected[0] += d;
                    expected[1] += std::abs(d);
                    expected[2] += d * d;
                }
            }
            check(sums[0], expected[0], expected[1], "sum of differences");
            check(sums[1], expected[1], expected[1], "sum of magnitudes");
            check(sums[2], expected[2], expected[2], "sum of squares");
        }
    }

    void check_moments(const double* moments, const std::vector<double>& values, std::int64_t channels) const {
        for (std::int64_t channel = 0; channel < channels; ++channel) {
            double sum = 0.0, squares = 0.0, scale = 0.0;
            for (std::size_t i = static_cast<std::size_t>(channel); i < values.size();
                 i += static_cast<std::size_t>(channels)) {
                sum += values[i];
                squares += values[i] * values[i];
            }
            const double pixels = static_cast<double>(s_.out_pixels()), size = largest(values);
            scale = pixels * size;
            check(moments[channel], sum, scale, "moment 1");
            check(moments[channels + channel], squares, scale * size, "moment 2");
        }
    }

    void calibrate() {
        Call call = call_;
        call.ending = Ending::write_raw;
        const std::int64_t mid = s_.mid_channels, pixels = s_.out_pixels(), out = s_.out_channels;
        const Bytes h = aligned_bytes(layer_.images * pixels * mid * element());
        std::vector<double> moments(static_cast<std::size_t>(layer_.images * 2 * mid));
        call.y = h.get();
        call.moments = moments.data();
        const Bytes own = aligned_bytes(kernels_.scratch(call).own);
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            kernels_.depthwise(call, image, 0, groups(mid), own.get());
            const std::vector<double>& expected = expected_[image].depthwise;
            for (std::int64_t i = 0; i < pixels * mid; ++i)
                check(read(h.get(), dtype_, image * pixels * mid + i), expected[i], largest(expected), "depthwise");
            check_moments(moments.data() + image * 2 * mid, expected, mid);
        }
        // Norm 2 alone, as calibration's second half has it.
        std::vector<float> norm2;
        for (std::int64_t prefix = 0; prefix < layer_.prefixes; ++prefix) {
            const float* row = layer_.affine.data() + prefix * call_.affine_stride + (s_.has_expansion ? 2 * mid : 0);
            norm2.insert(norm2.end(), row, row + 2 * mid);
        }
        const Bytes y = aligned_bytes(layer_.images * pixels * out * element());
        std::vector<double> output_moments(static_cast<std::size_t>(layer_.images * 2 * out));
        call.x = h.get();
        call.affine = norm2.data();
        call.affine_stride = 2 * mid;
        call.y = y.get();
        call.moments = output_moments.data();
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            run(call, image, true, nullptr);
            kernels_.output_moments(call, image);
            const std::vector<double>& expected = expected_[image].projected;
            for (std::int64_t i = 0; i < pixels * out; ++i)
                check(read(y.get(), dtype_, image * pixels * out + i), expected[i], largest(expected), "projection");
            check_moments(output_moments.data() + image * 2 * out, expected, out);
        }
    }

    const Layer& layer_;
    const Shape& s_;
    Dtype dtype_;
    const Kernels& kernels_;
    Isa isa_;
    Call call_{};
    Bytes packed_;
    std::vector<Expected> expected_;
};

}  // namespace
}  // namespace dna_fast::mbconv

int main() {
    using namespace dna_fast;
    using namespace dna_fast::mbconv;
    int checked = 0;
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
        if (!cpu_has(isa)) continue;
        for (Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
            Random random(7);
            for (int i = 0; i < kCases; ++i, ++checked) {
                const Layer layer = random_layer(random, dtype);
                Checker(layer, isa, dtype).check_all();
            }
        }
    }
    std::cout << checked << " cases\n";
}
