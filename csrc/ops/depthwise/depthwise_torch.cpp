// The depthwise convolution for torch: checks, allocation, threads; torch's own operators for what the kernels do not
// do.
#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "depthwise.h"

namespace dna_fast::depthwise {
namespace {

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
constexpr auto kLast = at::MemoryFormat::ChannelsLast;

// Raises ValueError or TypeError, in words; returns the problem.
Shape check(const at::Tensor& x, const at::Tensor& weight, int64_t stride, at::IntArrayRef padding) {
    TORCH_CHECK_VALUE(x.dim() == 4, "depthwise_conv2d: x must be [N, C, H, W], got ", x.sizes(),
                      "; add the missing dimensions, e.g. x[None] for one image");
    TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(0) == x.size(1) && weight.size(1) == 1 &&
                          weight.size(2) == weight.size(3) && weight.size(2) % 2 == 1,
                      "depthwise_conv2d: weight must be [C, 1, k, k] with C = ", x.size(1), " and k odd, got ",
                      weight.sizes(), "; use torch.nn.functional.conv2d for other convolutions");
    TORCH_CHECK_VALUE(x.device() == weight.device(), "depthwise_conv2d: x and weight must be on one device, got ",
                      x.device(), " and ", weight.device(), "; call weight.to(x.device)");
    TORCH_CHECK_TYPE(at::isFloatingType(x.scalar_type()), "depthwise_conv2d: expected a floating dtype, got x ",
                     x.scalar_type(), "; convert it, e.g. with .float()");
    TORCH_CHECK_TYPE(weight.scalar_type() == x.scalar_type() || weight.scalar_type() == at::kFloat,
                     "depthwise_conv2d: weight must have the dtype of x or float32, got x ", x.scalar_type(),
                     " and weight ", weight.scalar_type(), "; call weight.to(x.dtype)");
    TORCH_CHECK_VALUE(stride >= 1, "depthwise_conv2d: stride must be positive, got ", stride, "; 1 reads every pixel");
    TORCH_CHECK_VALUE(padding.size() == 4 && *std::min_element(padding.begin(), padding.end()) >= 0,
                      "depthwise_conv2d: padding must be 4 sizes from 0 on (top, bottom, left, right), got ", padding,
                      "; cut x instead of padding it by less than nothing");
    const int64_t kernel = weight.size(2);
    const int64_t height = x.size(2) + padding[0] + padding[1], width = x.size(3) + padding[2] + padding[3];
    TORCH_CHECK_VALUE(height >= kernel && width >= kernel, "depthwise_conv2d: a kernel of ", kernel, "x", kernel,
                      " must fit the padded image, got ", height, "x", width, "; pad more or use a smaller kernel");
    return {x.size(0), x.size(1), x.size(2),  x.size(3), (height - kernel) / stride + 1, (width - kernel) / stride + 1,
            kernel,    stride,    padding[0], padding[2]};
}

void check_gradient(const at::Tensor& gradient, const at::Tensor& x, const Shape& s) {
    const std::array<int64_t, 4> expected{s.images, s.channels, s.out_rows, s.out_cols};
    TORCH_CHECK_VALUE(gradient.sizes() == at::IntArrayRef(expected) && gradient.device() == x.device(),
                      "depthwise_conv2d: the gradient must be ", at::IntArrayRef(expected), " on ", x.device(),
                      ", got ", gradient.sizes(), " on ", gradient.device(), "; pass that of the forward result");
    TORCH_CHECK_TYPE(gradient.scalar_type() == x.scalar_type(),
                     "depthwise_conv2d: the gradient must have the dtype of x, ", x.scalar_type(), ", got ",
                     gradient.scalar_type(), "; convert it");
}

// Results lie as x does: channels first only where x lies so and in no other way.
at::MemoryFormat format_of(const at::Tensor& x) {
    const bool only_contiguous = x.is_contiguous() && !x.is_contiguous(kLast);
    return only_contiguous ? at::MemoryFormat::Contiguous : kLast;
}

// Whether the kernels take it. What they do not is computed by torch's own operators, with the same meaning.
bool has_kernels(const at::Tensor& x, const Shape& s) {
    const bool dtype = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
    return x.device().is_cpu() && dtype && format_of(x) == kLast && s.kernel >= kLeastKernel &&
           s.kernel <= kMostKernel && s.stride <= kMostStride;
}

Dtype dtype_of(const at::Tensor& x) { return x.scalar_type() == at::kFloat ? Dtype::float32 : Dtype::bfloat16; }

// ---- torch's own operators --------------------------------------------------------------------------------------

// What at::convolution pads itself, and what it does not: more on one side than on the other.
struct Padded {
    std::array<int64_t, 2> within{0, 0};  // rows, columns of zeros that the operator adds on both sides
    std::array<int64_t, 2> before{0, 0};  // those in front of the image in x
    at::Tensor x;

    Padded(const at::Tensor& given, at::IntArrayRef p) : x(given) {
        if (p[0] == p[1] && p[2] == p[3]) {
            within = {p[0], p[2]};
        } else {
            before = {p[0], p[2]};
            x = at::constant_pad_nd(given, {p[2], p[3], p[0], p[1]}, 0);
        }
    }
};

at::Tensor composed(const at::Tensor& x, const at::Tensor& weight, int64_t stride, at::IntArrayRef padding) {
    const Shape s = check(x, weight, stride, padding);
    const at::ScalarType type = c10::promoteTypes(x.scalar_type(), weight.scalar_type());
    const Padded from(x.to(type), padding);
    return at::convolution(from.x, weight.to(type), {}, {stride, stride}, from.within, {1, 1}, false, {0, 0},
                           s.channels)
        .to(x.scalar_type())
        .contiguous(format_of(x));
}

TwoTensors composed_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, int64_t stride,
                             at::IntArrayRef padding, bool of_x, bool of_weight) {
    const Shape s = check(x, weight, stride, padding);
    check_gradient(gradient, x, s);
    const at::ScalarType type = c10::promoteTypes(x.scalar_type(), weight.scalar_type());
    const Padded from(x.to(type), padding);
    auto [dx, dw, _] =
        at::convolution_backward(gradient.to(type), from.x, weight.to(type), std::nullopt, {stride, stride},
                                 from.within, {1, 1}, false, {0, 0}, s.channels, {of_x, of_weight, false});
    if (of_x) {
        dx = dx.narrow(2, from.before[0], s.height).narrow(3, from.before[1], s.width);
        dx = dx.to(x.scalar_type()).contiguous(format_of(x));
    }
    if (of_weight) dw = dw.to(weight.scalar_type()).contiguous();
    return {of_x ? dx : at::empty({0}, x.options()), of_weight ? dw : at::empty({0}, weight.options())};
}

// ---- the kernels ------------------------------------------------------------------------------------------------

// 64-byte aligned memory for floats.
struct Floats {
    at::Tensor kept;
    float* data;

    explicit Floats(int64_t count) : kept(at::empty({count + kVector}, at::TensorOptions(at::kFloat))) {
        const auto address = reinterpret_cast<uintptr_t>(kept.mutable_data_ptr<float>());
        data = reinterpret_cast<float*>((address + 63) / 64 * 64);
    }
};

constexpr int64_t kNumbersPerThread = 32768;  // torch's own grain for elementwise work

// work(unit, vector, scratch) for all; neighbouring vectors of a unit follow each other, as they share lines and pages.
template <class Work>
void in_parallel(const Shape& s, int64_t units, const Work& work) {
    const int64_t vectors = s.vectors(), own = scratch_floats(s);
    const Floats scratch(own * at::get_num_threads());
    const int64_t numbers = std::max(s.images * s.out_rows * s.out_cols / units, int64_t{1}) * kVector;
    const int64_t grain = std::max(kNumbersPerThread / numbers, int64_t{1});
    at::parallel_for(0, units * vectors, grain, [&](int64_t begin, int64_t end) {
        float* const mine = scratch.data + own * at::get_thread_num();
        for (int64_t i = begin; i < end; ++i) work(i / vectors, i % vectors, mine);
    });
}

using Pack = void (*)(const Shape& shape, const float* weights, int64_t vector, float* packed);

Floats packed_weights(const Shape& s, const at::Tensor& weight, Pack pack) {
    const at::Tensor floats = weight.to(at::kFloat).contiguous();
    Floats packed(s.vectors() * packed_floats(s));
    for (int64_t vector = 0; vector < s.vectors(); ++vector)
        pack(s, floats.const_data_ptr<float>(), vector, packed.data + vector * packed_floats(s));
    return packed;
}

at::Tensor on_cpu(const at::Tensor& x, const at::Tensor& weight, int64_t stride, at::IntArrayRef padding) {
    const Shape s = check(x, weight, stride, padding);
    if (!has_kernels(x, s)) return composed(x, weight, stride, padding);
    const at::Tensor source = x.contiguous(kLast);
    at::Tensor y = at::empty({s.images, s.channels, s.out_rows, s.out_cols}, x.options().memory_format(kLast));
    if (y.numel() == 0) return y;
    const Floats packed = packed_weights(s, weight, &pack_forward);
    const Call call{s, source.const_data_ptr(), nullptr, y.mutable_data_ptr(), packed.data, nullptr};
    const Kernels& of = kernels(chosen_isa(), dtype_of(x));
    in_parallel(s, s.images,
                [&](int64_t image, int64_t vector, float* scratch) { of.forward(call, image, vector, scratch); });
    return y;
}

at::Tensor input_gradient(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, const Shape& s) {
    at::Tensor dx = at::empty(x.sizes(), x.options().memory_format(kLast));
    if (dx.numel() == 0) return dx;
    const Floats packed = packed_weights(s, weight, &pack_backward);
    const Call call{s, nullptr, gradient.const_data_ptr(), dx.mutable_data_ptr(), packed.data, nullptr};
    const Kernels& of = kernels(chosen_isa(), dtype_of(x));
    in_parallel(s, s.images, [&](int64_t image, int64_t vector, float* scratch) {
        of.input_gradient(call, image, vector, scratch);
    });
    return dx;
}

at::Tensor weight_gradient(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, const Shape& s) {
    if (x.numel() == 0) return at::zeros_like(weight, at::MemoryFormat::Contiguous);
    const at::Tensor source = x.contiguous(kLast);
    const Floats sums(parts(s).count() * s.vectors() * packed_floats(s));
    const Call call{s, source.const_data_ptr(), gradient.const_data_ptr(), nullptr, nullptr, sums.data};
    const Kernels& of = kernels(chosen_isa(), dtype_of(x));
    in_parallel(s, parts(s).count(),
                [&](int64_t part, int64_t vector, float* scratch) { of.weight_gradient(call, part, vector, scratch); });
    const at::Tensor dw = at::empty(weight.sizes(), weight.options().dtype(at::kFloat));
    float* const result = dw.mutable_data_ptr<float>();
    at::parallel_for(0, s.vectors(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t vector = begin; vector < end; ++vector) add_parts(s, sums.data, vector, result);
    });
    return dw.to(weight.scalar_type());
}

TwoTensors backward_on_cpu(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, int64_t stride,
                           at::IntArrayRef padding, bool of_x, bool of_weight) {
    const Shape s = check(x, weight, stride, padding);
    if (!has_kernels(x, s)) return composed_backward(gradient, x, weight, stride, padding, of_x, of_weight);
    check_gradient(gradient, x, s);
    const at::Tensor g = gradient.contiguous(kLast);
    return {of_x ? input_gradient(g, x, weight, s) : at::empty({0}, x.options()),
            of_weight ? weight_gradient(g, x, weight, s) : at::empty({0}, weight.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CPU, m) {
    m.impl("depthwise_conv2d", &on_cpu);
    m.impl("depthwise_conv2d_backward", &backward_on_cpu);
}
TORCH_LIBRARY_IMPL(dna_fast, CUDA, m) {
    m.impl("depthwise_conv2d", &composed);
    m.impl("depthwise_conv2d_backward", &composed_backward);
}

}  // namespace dna_fast::depthwise
