// Checks of mbconv's tensors, each by name.
#include "mbconv_torch.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

namespace dna_fast::mbconv {
namespace {

Dtype dtype_of(at::ScalarType type, const char* name, bool on_cpu) {
    TORCH_CHECK_TYPE(type == at::kFloat || type == at::kBFloat16 || (type == at::kHalf && !on_cpu), "mbconv: ", name,
                     " must be float32 or bfloat16", on_cpu ? "" : " or float16", ", got ", type,
                     "; convert it, e.g. with .float()");
    return type == at::kFloat ? Dtype::float32 : type == at::kHalf ? Dtype::float16 : Dtype::bfloat16;
}

void check_device(const at::Tensor& tensor, const char* name, const at::Tensor& x) {
    TORCH_CHECK_VALUE(tensor.device() == x.device(), "mbconv: ", name, " must be on ", x.device(), " as x is, got ",
                      tensor.device(), "; move it with .to(x.device)");
}

void check_float(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, const at::Tensor& x) {
    check_device(tensor, name, x);
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, "mbconv: ", name, " must be float32, got ",
                     tensor.scalar_type(), "; convert it with .float()");
    TORCH_CHECK_VALUE(tensor.sizes() == shape, "mbconv: ", name, " must have shape ", shape, ", got ", tensor.sizes());
}

void check_images(const at::Tensor& tensor, const char* name, const at::Tensor& x) {
    check_device(tensor, name, x);
    TORCH_CHECK_VALUE(tensor.dim() == 4, "mbconv: ", name, " must be [N, C, H, W], got shape ", tensor.sizes());
    TORCH_CHECK_VALUE(tensor.size(1) > 0 && tensor.size(2) > 0 && tensor.size(3) > 0, "mbconv: ", name,
                      " must have channels and pixels, got shape ", tensor.sizes());
    TORCH_CHECK_VALUE(tensor.is_contiguous(at::MemoryFormat::ChannelsLast), "mbconv: ", name,
                      " must be channels_last [N, C, H, W], got strides ", tensor.strides(),
                      "; call .contiguous(memory_format=torch.channels_last)");
}

// The shape without channels of x, which calibration's second half does not know.
Shape shape_of(const Layer& layer) {
    TORCH_CHECK_VALUE(layer.kernel == 3 || layer.kernel == 5 || layer.kernel == 7,
                      "mbconv: kernel must be 3, 5 or 7, got ", layer.kernel);
    TORCH_CHECK_VALUE(layer.stride == 1 || layer.stride == 2, "mbconv: stride must be 1 or 2, got ", layer.stride);
    TORCH_CHECK_VALUE(layer.mid_channels > 0 && layer.out_channels > 0 && layer.se_channels >= 0,
                      "mbconv: expected positive channels, got mid_channels ", layer.mid_channels, ", out_channels ",
                      layer.out_channels, ", se_channels ", layer.se_channels);
    Shape shape{};
    shape.mid_channels = layer.mid_channels;
    shape.out_channels = layer.out_channels;
    shape.kernel = layer.kernel;
    shape.stride = layer.stride;
    shape.se_channels = layer.se_channels;
    shape.has_residual = layer.residual;
    return shape;
}

void set_input(Shape& shape, const at::Tensor& x, bool has_expansion, bool same_padding) {
    shape.in_channels = x.size(1);
    shape.height = x.size(2);
    shape.width = x.size(3);
    shape.has_expansion = has_expansion;
    shape.out_rows = (shape.height + shape.stride - 1) / shape.stride;
    shape.out_cols = (shape.width + shape.stride - 1) / shape.stride;
    const auto pad = [&](int64_t size, int64_t out_size) {
        if (!same_padding) return shape.kernel / 2;
        return std::max<int64_t>((out_size - 1) * shape.stride + shape.kernel - size, 0) / 2;
    };
    shape.pad_top = pad(shape.height, shape.out_rows);
    shape.pad_left = pad(shape.width, shape.out_cols);
    TORCH_CHECK_VALUE(has_expansion || shape.in_channels == shape.mid_channels,
                      "mbconv: without expansion x must have ", shape.mid_channels, " channels, got ",
                      shape.in_channels);
    TORCH_CHECK_VALUE(!shape.has_residual || (shape.in_channels == shape.out_channels && shape.stride == 1),
                      "mbconv: a residual needs as many channels out as in and stride 1, got ", shape.in_channels,
                      " -> ", shape.out_channels, ", stride ", shape.stride);
}

// Checks what all operators take, once the shape is known.
Problem problem_of(const Shape& shape, const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine,
                   PackedBytes bytes) {
    const Dtype dtype = dtype_of(x.scalar_type(), "x", x.is_cpu());
    check_device(packed, "packed weights", x);
    const int64_t expected = bytes(shape, dtype);
    TORCH_CHECK_VALUE(
        packed.scalar_type() == at::kByte && packed.dim() == 1 && packed.is_contiguous() && packed.numel() == expected,
        "mbconv: expected weights packed for this layer and dtype (", expected, " bytes), got shape ", packed.sizes(),
        " of ", packed.scalar_type(), "; pack them for ", x.scalar_type(), " with MBConvWeights.pack");
    return {shape, dtype, affine.contiguous(), x.size(0), x.size(0) / affine.size(0)};
}

void check_prefixes(const at::Tensor& affine, const at::Tensor& x) {
    check_device(affine, "affine", x);
    TORCH_CHECK_TYPE(affine.scalar_type() == at::kFloat, "mbconv: affine must be float32, got ", affine.scalar_type(),
                     "; convert it with .float()");
    TORCH_CHECK_VALUE(affine.dim() == 2 && affine.size(0) > 0,
                      "mbconv: affine must be [P, scales and shifts], got shape ", affine.sizes());
    TORCH_CHECK_VALUE(x.size(0) % affine.size(0) == 0, "mbconv: x must hold N images for each of ", affine.size(0),
                      " prefixes, got ", x.size(0), " images");
}

}  // namespace

Problem layer_problem(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                      PackedBytes bytes) {
    check_images(x, "x", x);
    check_prefixes(affine, x);
    Shape shape = shape_of(layer);
    const int64_t without = 2 * layer.mid_channels + 2 * layer.out_channels, with = without + 2 * layer.mid_channels;
    TORCH_CHECK_VALUE(affine.size(1) == with || affine.size(1) == without, "mbconv: affine must have ", with,
                      " columns (", without, " without expansion), got ", affine.size(1));
    set_input(shape, x, affine.size(1) == with, layer.same_padding);
    return problem_of(shape, x, packed, affine, bytes);
}

Problem depthwise_problem(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                          PackedBytes bytes) {
    check_images(x, "x", x);
    check_prefixes(affine, x);
    Shape shape = shape_of(layer);
    const int64_t columns = 2 * layer.mid_channels;
    TORCH_CHECK_VALUE(affine.size(1) == columns || affine.size(1) == 0, "mbconv_depthwise: affine must have ", columns,
                      " columns (none without expansion), got ", affine.size(1));
    set_input(shape, x, affine.size(1) > 0, layer.same_padding);
    return problem_of(shape, x, packed, affine, bytes);
}

Problem project_problem(const at::Tensor& h, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                        int64_t in_channels, bool has_expansion, PackedBytes bytes) {
    check_images(h, "h", h);
    check_prefixes(affine, h);
    Shape shape = shape_of(layer);
    TORCH_CHECK_VALUE(affine.size(1) == 2 * layer.mid_channels, "mbconv_project: affine must have ",
                      2 * layer.mid_channels, " columns, got ", affine.size(1));
    set_input(shape, h, false, false);
    shape.has_expansion = has_expansion;  // of the packed weights; nothing is expanded here
    shape.in_channels = in_channels;
    return problem_of(shape, h, packed, affine, bytes);
}

Comparison comparison(const Problem& problem, const at::Tensor& x, const at::Tensor& target,
                      const OptionalTensor& adapter_weight, const OptionalTensor& adapter_bias) {
    check_images(target, "target", x);
    TORCH_CHECK_TYPE(target.scalar_type() == x.scalar_type(), "mbconv: target must have x's dtype ", x.scalar_type(),
                     ", got ", target.scalar_type());
    TORCH_CHECK_VALUE(adapter_weight.has_value() == adapter_bias.has_value(),
                      "mbconv: an adapter needs both weight and bias, got one");
    const int64_t out_channels = problem.shape.out_channels;
    const int64_t channels = adapter_weight.has_value() ? adapter_weight->size(0) : out_channels;
    const std::array<int64_t, 4> expected{problem.images_per_prefix, channels, problem.shape.out_rows,
                                          problem.shape.out_cols};
    TORCH_CHECK_VALUE(target.sizes() == at::IntArrayRef(expected), "mbconv: target must have shape ",
                      at::IntArrayRef(expected), " (images a prefix, channels, rows, columns), got ", target.sizes());
    if (!adapter_weight.has_value()) return {channels, {}, {}};
    check_float(*adapter_weight, "adapter_weight", {channels, out_channels}, x);
    check_float(*adapter_bias, "adapter_bias", {channels}, x);
    return {channels, adapter_weight->contiguous(), adapter_bias->contiguous()};
}

Packing packing(const OptionalTensor& conv_pw, const at::Tensor& conv_dw, const at::Tensor& conv_pwl, at::TensorList se,
                at::ScalarType type) {
    TORCH_CHECK_VALUE(conv_dw.dim() == 4 && conv_dw.size(1) == 1 && conv_dw.size(2) == conv_dw.size(3),
                      "mbconv: conv_dw must be [M, 1, k, k], got shape ", conv_dw.sizes());
    TORCH_CHECK_VALUE(conv_pwl.dim() == 4, "mbconv: conv_pwl must be [K, M, 1, 1], got shape ", conv_pwl.sizes());
    TORCH_CHECK_VALUE(se.empty() || se.size() == 4,
                      "mbconv: se must be empty or weight and bias of conv_reduce and "
                      "conv_expand, got ",
                      se.size(), " tensors");
    const int64_t mid = conv_dw.size(0), squeezed = se.empty() ? 0 : se[0].size(0);
    Shape shape = shape_of({conv_pwl.size(0), mid, conv_dw.size(2), 1, squeezed, false, false});
    shape.has_expansion = conv_pw.has_value();
    shape.in_channels = shape.has_expansion ? conv_pw->size(1) : mid;
    check_float(conv_dw, "conv_dw", {mid, 1, shape.kernel, shape.kernel}, conv_dw);
    check_float(conv_pwl, "conv_pwl", {shape.out_channels, mid, 1, 1}, conv_dw);
    if (conv_pw.has_value()) check_float(*conv_pw, "conv_pw", {mid, shape.in_channels, 1, 1}, conv_dw);
    if (!se.empty()) {
        check_float(se[0], "se.conv_reduce.weight", {squeezed, mid, 1, 1}, conv_dw);
        check_float(se[1], "se.conv_reduce.bias", {squeezed}, conv_dw);
        check_float(se[2], "se.conv_expand.weight", {mid, squeezed, 1, 1}, conv_dw);
        check_float(se[3], "se.conv_expand.bias", {mid}, conv_dw);
    }
    Packing result{shape, dtype_of(type, "dtype", conv_dw.is_cpu()), {}, {}};
    const auto data = [&result](const at::Tensor& tensor) {
        result.kept.push_back(tensor.cpu().contiguous());
        return result.kept.back().const_data_ptr<float>();
    };
    Weights& weights = result.weights;
    if (conv_pw.has_value()) weights.conv_pw = data(*conv_pw);
    weights.conv_dw = data(conv_dw);
    weights.conv_pwl = data(conv_pwl);
    if (!se.empty()) {
        weights.se_reduce = data(se[0]);
        weights.se_reduce_bias = data(se[1]);
        weights.se_expand = data(se[2]);
        weights.se_expand_bias = data(se[3]);
    }
    return result;
}

at::Tensor new_images(const at::Tensor& like, int64_t channels, const Shape& shape) {
    return at::empty({like.size(0), channels, shape.out_rows, shape.out_cols}, like.options(),
                     at::MemoryFormat::ChannelsLast);
}

}  // namespace dna_fast::mbconv
