// mbconv's CUDA kernels on the CPU: random small layers in all storage types, all endings and both halves of
// calibration, cut into blocks in ways that the planner would choose for small, large and other GPUs, and in random
// ones.
#include <cmath>
#include <deque>
#include <string_view>
#include <vector>

#include "buffer.h"
#include "mbconv_cases.h"
#include "ops/mbconv/cuda_gate.cuh"
#include "ops/mbconv/cuda_kernels.cuh"
#include "ops/mbconv/cuda_run.h"

namespace dna_fast::mbconv {

template struct CudaKernels<Dtype::float32>;
template struct CudaKernels<Dtype::bfloat16>;
template struct CudaKernels<Dtype::float16>;
cudaError_t launch_gate(const GateCall& call, cudaStream_t stream) { return launch_gate_kernel(call, stream); }
cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream) { return launch_finish_kernel(call, stream); }

namespace {

namespace host = cuda::host;
using Memory = host::Buffer<unsigned char>;

constexpr int kCases = 8;  // for each storage type, where nobody asks for more

// From the least that any layer below fits in to an H100's.
constexpr std::int64_t kSharedBytes[] = {24 << 10, 48 << 10, 99 << 10, 227 << 10};

class Checker {
  public:
    // missing: elements at the end of the output, on purpose.
    Checker(const Layer& layer, Dtype dtype, Random& random, std::int64_t missing)
        : layer_(layer), s_(layer.shape), dtype_(dtype), missing_(missing) {
        const Weights weights{layer.conv_pw.data(),       layer.conv_dw.data(),        layer.conv_pwl.data(),
                              layer.se_reduce.data(),     layer.se_reduce_bias.data(), layer.se_expand.data(),
                              layer.se_expand_bias.data()};
        Memory& packed = memory(cuda_layout(s_, dtype).bytes);
        pack_for_cuda(s_, dtype, weights, packed.data());
        // A view that begins behind its storage's first element, as a channels-last slice of images may.
        Memory& x = memory(static_cast<std::int64_t>(layer.x.bytes.size()), random() % 3 == 0 ? element() : 0);
        std::copy(layer.x.bytes.begin(), layer.x.bytes.end(), x.begin());
        inputs_ = {s_,
                   dtype,
                   x.data(),
                   packed.data(),
                   layer.affine.data(),
                   static_cast<std::int64_t>(layer.affine.size()) / layer.prefixes,
                   layer.images,
                   layer.images / layer.prefixes};
        device_ = {static_cast<int>(random() % 2 == 0 ? 1 : 132), kSharedBytes[random() % 4], 228 << 10};
        plane_bytes_ = random() % 2 == 0 ? 1 : 1 << 30;  // image by image, or all at once
        for (std::int64_t image = 0; image < layer.images; ++image) expected_.push_back(reference(layer, image));
    }

    void check_all() {
        write();
        reduce(s_.out_channels, false);
        reduce(layer_.target_channels, true);
        calibrate();
    }

  private:
    Memory& memory(std::int64_t bytes, std::int64_t offset = 0) { return memory_.emplace_back(bytes, offset); }
    Memory& copied(const std::vector<unsigned char>& bytes) {
        Memory& result = memory(static_cast<std::int64_t>(bytes.size()));
        std::copy(bytes.begin(), bytes.end(), result.begin());
        return result;
    }
    CudaRun run(const CudaInputs& inputs) {
        return CudaRun(
            inputs, device_, plane_bytes_, [this](std::int64_t bytes) { return memory(bytes).data(); }, nullptr);
    }
    std::int64_t element() const { return element_bytes(dtype_); }

    void check(double got, double expected, double scale, const char* what) const {
        const double allowed = allowed_error(dtype_) * (scale + std::abs(expected));
        expect(std::abs(got - expected) <= allowed, what, " in ", name_of(dtype_), ", C ", s_.in_channels, " M ",
               s_.mid_channels, " K ", s_.out_channels, " k ", s_.kernel, " s ", s_.stride, " at ", s_.height, "x",
               s_.width, ", images ", layer_.images, " of ", layer_.prefixes, " prefixes, ", device_.shared_bytes,
               " bytes of shared memory: expected ", expected, ", got ", got);
    }
    void check_images(unsigned char* got, std::vector<double> Expected::* which, std::int64_t channels,
                      const char* what) const {
        const std::int64_t size = s_.out_pixels() * channels;
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            const std::vector<double>& expected = expected_[image].*which;
            for (std::int64_t i = 0; i < size; ++i)
                check(read(got, dtype_, image * size + i), expected[i], largest(expected), what);
        }
    }

    void write() {
        Memory& y = memory((layer_.images * s_.out_pixels() * s_.out_channels - missing_) * element());
        expect(run(inputs_).write(y.data()) == cudaSuccess, "write: no success");
        check_images(y.data(), &Expected::y, s_.out_channels, "output");
    }

    void reduce(std::int64_t channels, bool adapts) {
        Memory& target =
            copied(beginning(layer_.target, inputs_.images_per_prefix * s_.out_pixels() * channels, dtype_));
        CudaComparison against{target.data(), channels, nullptr, nullptr};
        if (adapts) {
            Memory& adapter = memory(cuda_matrix_bytes(s_.out_channels, channels, dtype_));
            pack_matrix_for_cuda(s_.out_channels, channels, dtype_, layer_.adapter.data(), 1.0f, adapter.data());
            against.adapter = adapter.data();
            against.adapter_bias = layer_.adapter_bias.data();
        }
        host::Buffer<double> sums(layer_.images * 3);
        expect(run(inputs_).reduce(against, sums.data()) == cudaSuccess, "reduce: no success");
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            const ExpectedSums expected = expected_sums(layer_, expected_[image], image, channels, adapts);
            check(sums[3 * image], expected.sums[0], expected.scales[0], "sum of differences");
            check(sums[3 * image + 1], expected.sums[1], expected.scales[1], "sum of magnitudes");
            check(sums[3 * image + 2], expected.sums[2], expected.scales[2], "sum of squares");
        }
    }

    // moments [parts, images, 2, channels]
    void check_moments(host::Buffer<double>& moments, std::int64_t parts, std::vector<double> Expected::* which,
                       std::int64_t channels) const {
        for (std::int64_t image = 0; image < layer_.images; ++image) {
            const std::vector<double>& values = expected_[image].*which;
            for (std::int64_t channel = 0; channel < channels; ++channel) {
                double sum = 0.0, squares = 0.0, got[2] = {};
                for (std::size_t i = static_cast<std::size_t>(channel); i < values.size();
                     i += static_cast<std::size_t>(channels)) {
                    sum += values[i];
                    squares += values[i] * values[i];
                }
                for (std::int64_t part = 0; part < parts; ++part) {
                    for (std::int64_t moment = 0; moment < 2; ++moment)
                        got[moment] += moments[((part * layer_.images + image) * 2 + moment) * channels + channel];
                }
                const double scale = static_cast<double>(s_.out_pixels()) * largest(values);
                check(got[0], sum, scale, "moment 1");
                check(got[1], squares, scale * largest(values), "moment 2");
            }
        }
    }

    void calibrate() {
        const std::int64_t mid = s_.mid_channels, out = s_.out_channels, pixels = s_.out_pixels();
        Memory& h = memory(layer_.images * pixels * mid * element());
        CudaRun first = run(inputs_);
        const ExpandPlan plan = first.depthwise_plan();
        host::Buffer<double> moments(plan.parts() * layer_.images * 2 * mid);
        expect(first.depthwise(plan, h.data(), moments.data()) == cudaSuccess, "depthwise: no success");
        check_images(h.data(), &Expected::depthwise, mid, "depthwise");
        check_moments(moments, plan.parts(), &Expected::depthwise, mid);

        const std::vector<float> norm2 = second_norms(layer_);
        CudaInputs halfway = inputs_;
        halfway.x = h.data();
        halfway.affine = norm2.data();
        halfway.affine_stride = 2 * mid;
        Memory& y = memory(layer_.images * pixels * out * element());
        host::Buffer<double> output_moments(layer_.images * 2 * out);
        expect(run(halfway).project(y.data(), output_moments.data()) == cudaSuccess, "project: no success");
        check_images(y.data(), &Expected::projected, out, "projection");
        check_moments(output_moments, 1, &Expected::projected, out);
    }

    const Layer& layer_;
    const Shape& s_;
    Dtype dtype_;
    std::int64_t missing_;
    CudaInputs inputs_{};
    CudaDevice device_{};
    std::int64_t plane_bytes_;
    std::vector<Expected> expected_;
    std::deque<Memory> memory_;
};

}  // namespace
}  // namespace dna_fast::mbconv

// mbconv_driver [cases [seed]], or with an error on purpose: mbconv_driver no_barrier | short_output
int main(int argc, char** argv) {
    using namespace dna_fast::mbconv;
    namespace host = dna_fast::cuda::host;
    int checked = 0;
    const std::string_view error = argc > 1 && std::atoi(argv[1]) == 0 ? argv[1] : "";
    dna_fast::expect(error.empty() || error == "no_barrier" || error == "short_output",
                     "expected a number of cases, no_barrier or short_output, got ", error);
    host::barriers_hold = error != "no_barrier";
    const int cases = argc > 1 && error.empty() ? std::atoi(argv[1]) : kCases;
    Random random(static_cast<unsigned>(argc > 2 ? std::atoi(argv[2]) : 7));
    for (Dtype dtype : {Dtype::bfloat16, Dtype::float16, Dtype::float32}) {
        for (int i = 0; i < cases; ++i, ++checked) {
            host::set_order(host::all_orders()[static_cast<std::size_t>(i) % host::all_orders().size()]);
            const Layer layer = random_layer(random, dtype);
            Checker(layer, dtype, random, error == "short_output" ? 1 : 0).check_all();
        }
    }
    std::cout << checked << " cases\n";
}
