// mbconv's CPU kernels: random small layers in every instruction set of this CPU, both storage types, all endings and
// both halves of calibration, with groups and tiles worked on in several calls. Every buffer ends where its tensor
// ends.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "mbconv_cases.h"

namespace dna_fast::mbconv {
namespace {

constexpr int kCases = 25;  // for each instruction set and storage type

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
        call_.x = layer.x.data();
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
    std::int64_t element() const { return element_bytes(dtype_); }

    void check(double got, double expected, double scale, const char* what) const {
        const double allowed = allowed_error(dtype_) * (scale + std::abs(expected));
        expect(std::abs(got - expected) <= allowed, what, " with ", isa_name(isa_), ", ", name_of(dtype_), ", C ",
               s_.in_channels, " M ", s_.mid_channels, " K ", s_.out_channels, " k ", s_.kernel, " s ", s_.stride,
               " at ", s_.height, "x", s_.width, ": expected ", expected, ", got ", got);
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
        const std::vector<unsigned char> target = beginning(layer_.target, per_prefix * pixels * channels, dtype_);
        call.target = target.data();
        call.target_channels = channels;
        const Bytes adapter = aligned_bytes(packed_matrix_bytes(s_.out_channels, channels, kHalfVector, dtype_));
        if (adapts) {
            pack_matrix(s_.out_channels, channels, kHalfVector, dtype_, layer_.adapter.data(), 1.0f, adapter.get());
            call.adapter = adapter.get();
            call.adapter_bias = layer_.adapter_bias.data();
        }
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            double sums[3] = {};
            const ExpectedSums expected = expected_sums(layer_, expected_[image], image, channels, adapts);
            call.sums = sums;
            run(call, image, false, sums);
            check(sums[0], expected.sums[0], expected.scales[0], "sum of differences");
            check(sums[1], expected.sums[1], expected.scales[1], "sum of magnitudes");
            check(sums[2], expected.sums[2], expected.scales[2], "sum of squares");
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
        const std::vector<float> norm2 = second_norms(layer_);
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
