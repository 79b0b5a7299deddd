// mbconv for torch: checks, allocation, threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "mbconv.h"

namespace dna_fast::mbconv {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

Dtype dtype_of(at::ScalarType type, const char* name) {
    TORCH_CHECK_TYPE(type == at::kFloat || type == at::kBFloat16, "mbconv: ", name,
                     " must be float32 or bfloat16, got ", type, "; convert it, e.g. with .float()");
    return type == at::kFloat ? Dtype::float32 : Dtype::bfloat16;
}

void check_cpu(const at::Tensor& tensor, const char* name) {
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), "mbconv: ", name, " must be on the CPU as x is, got ", tensor.device(),
                      "; move it with .cpu()");
}

void check_float(const at::Tensor& tensor, const char* name, at::IntArrayRef shape) {
    check_cpu(tensor, name);
    TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, "mbconv: ", name, " must be float32, got ",
                     tensor.scalar_type(), "; convert it with .float()");
    TORCH_CHECK_VALUE(tensor.sizes() == shape, "mbconv: ", name, " must have shape ", shape, ", got ", tensor.sizes());
}

void check_images(const at::Tensor& tensor, const char* name) {
    check_cpu(tensor, name);
    TORCH_CHECK_VALUE(tensor.dim() == 4, "mbconv: ", name, " must be [N, C, H, W], got shape ", tensor.sizes());
    TORCH_CHECK_VALUE(tensor.size(1) > 0 && tensor.size(2) > 0 && tensor.size(3) > 0, "mbconv: ", name,
                      " must have channels and pixels, got shape ", tensor.sizes());
    TORCH_CHECK_VALUE(tensor.is_contiguous(at::MemoryFormat::ChannelsLast), "mbconv: ", name,
                      " must be channels_last [N, C, H, W], got strides ", tensor.strides(),
                      "; call .contiguous(memory_format=torch.channels_last)");
}

int64_t prefixes_of(const at::Tensor& affine, int64_t images) {
    check_cpu(affine, "affine");
    TORCH_CHECK_TYPE(affine.scalar_type() == at::kFloat, "mbconv: affine must be float32, got ", affine.scalar_type(),
                     "; convert it with .float()");
    TORCH_CHECK_VALUE(affine.dim() == 2 && affine.size(0) > 0,
                      "mbconv: affine must be [P, scales and shifts], got shape ", affine.sizes());
    TORCH_CHECK_VALUE(images % affine.size(0) == 0, "mbconv: x must hold N images for each of ", affine.size(0),
                      " prefixes, got ", images, " images");
    return affine.size(0);
}

// The shape without channels of x, which calibration's second half does not know.
Shape shape_of(int64_t mid, int64_t out, int64_t kernel, int64_t stride, int64_t squeezed, bool residual) {
    TORCH_CHECK_VALUE(kernel == 3 || kernel == 5 || kernel == 7, "mbconv: kernel must be 3, 5 or 7, got ", kernel);
    TORCH_CHECK_VALUE(stride == 1 || stride == 2, "mbconv: stride must be 1 or 2, got ", stride);
    TORCH_CHECK_VALUE(mid > 0 && out > 0 && squeezed >= 0, "mbconv: expected positive channels, got mid_channels ", mid,
                      ", out_channels ", out, ", se_channels ", squeezed);
    Shape shape{};
    shape.mid_channels = mid;
    shape.out_channels = out;
    shape.kernel = kernel;
    shape.stride = stride;
    shape.se_channels = squeezed;
    shape.has_residual = residual;
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

Call call_of(const Shape& shape, const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine) {
    const Dtype dtype = dtype_of(x.scalar_type(), "x");
    Call call{};
    call.shape = shape;
    call.layout = packed_layout(shape, dtype);
    check_cpu(packed, "packed weights");
    TORCH_CHECK_VALUE(packed.scalar_type() == at::kByte && packed.dim() == 1 && packed.is_contiguous() &&
                          packed.numel() == call.layout.bytes,
                      "mbconv: expected weights packed for this layer and dtype (", call.layout.bytes,
                      " bytes), got shape ", packed.sizes(), " of ", packed.scalar_type(), "; pack them for ",
                      x.scalar_type(), " with MBConvWeights.pack");
    call.packed = packed.const_data_ptr<uint8_t>();
    call.x = x.const_data_ptr();
    call.affine = affine.const_data_ptr<float>();
    call.affine_stride = affine.size(1);
    call.images_per_prefix = x.size(0) / affine.size(0);
    return call;
}

at::Tensor new_images(const at::Tensor& like, int64_t images, int64_t channels, const Shape& shape) {
    return at::empty({images, channels, shape.out_rows, shape.out_cols}, like.options(),
                     at::MemoryFormat::ChannelsLast);
}

// ---- threads
// -----------------------------------------------------------------------------------------------------------

constexpr int64_t kImagesPerThread = 8;  // from here on an image less for one thread does not matter

at::Tensor scratch_of(const at::Tensor& like, int64_t bytes) {
    return at::empty({bytes + 64}, like.options().dtype(at::kByte));
}

unsigned char* aligned(const at::Tensor& scratch) {
    return reinterpret_cast<unsigned char*>(round_up(reinterpret_cast<int64_t>(scratch.mutable_data_ptr()), 64));
}

void add_tiles(const Call& call, int64_t image, const std::vector<double>& tile_sums) {
    if (call.sums == nullptr) return;
    for (int64_t i = 0; i < 3; ++i) {
        double total = 0.0;
        for (size_t tile = 0; tile < tile_sums.size() / 3; ++tile)
            total += tile_sums[3 * tile + static_cast<size_t>(i)];
        call.sums[3 * image + i] = total;
    }
}

// Runs all phases. Whole images to a thread each where there are many; the images that are left over, or all of a small
// batch, one after the other with all threads on each. The bits are the same either way.
void run(const Call& call, const Kernels& kernels, const at::Tensor& like, int64_t images, bool from_depthwise) {
    const int64_t threads = at::get_num_threads(), groups_of_mid = groups(call.shape.mid_channels);
    const int64_t alone = images / threads >= kImagesPerThread ? images : images / threads * threads;
    const ScratchBytes bytes = kernels.scratch(call);
    const int64_t shared_bytes = round_up(bytes.shared, 64), own_bytes = round_up(bytes.own, 64);
    const at::Tensor scratch = scratch_of(like, threads * (shared_bytes + own_bytes));
    unsigned char* const shared_base = aligned(scratch);
    unsigned char* const own_base = shared_base + threads * shared_bytes;
    const int64_t tile_count = tiles(call.shape);
    const auto first_phase = [&](int64_t image, int64_t begin, int64_t end, unsigned char* shared, unsigned char* own) {
        from_depthwise ? kernels.activate(call, image, begin, end, shared)
                       : kernels.expand(call, image, begin, end, shared, own);
    };
    const auto finish = [&](int64_t image, const std::vector<double>& tile_sums) {
        add_tiles(call, image, tile_sums);
        if (call.moments != nullptr) kernels.output_moments(call, image);
    };
    const auto own_of = [&](int64_t thread) { return own_base + thread * own_bytes; };
    at::parallel_for(0, alone, 1, [&](int64_t begin, int64_t end) {
        const int64_t thread = at::get_thread_num();
        unsigned char* const shared = shared_base + thread * shared_bytes;
        std::vector<double> tile_sums(static_cast<size_t>(3 * tile_count));
        for (int64_t image = begin; image < end; ++image) {
            first_phase(image, 0, groups_of_mid, shared, own_of(thread));
            kernels.gate(call, shared);
            kernels.project(call, image, 0, tile_count, shared, own_of(thread), tile_sums.data());
            finish(image, tile_sums);
        }
    });
    std::vector<double> tile_sums(static_cast<size_t>(3 * tile_count));
    for (int64_t image = alone; image < images; ++image) {
        at::parallel_for(0, groups_of_mid, 1, [&](int64_t begin, int64_t end) {
            first_phase(image, begin, end, shared_base, own_of(at::get_thread_num()));
        });
        kernels.gate(call, shared_base);
        at::parallel_for(0, tile_count, 1, [&](int64_t begin, int64_t end) {
            kernels.project(call, image, begin, end, shared_base, own_of(at::get_thread_num()), tile_sums.data());
        });
        finish(image, tile_sums);
    }
}

// ---- operators
// ---------------------------------------------------------------------------------------------------------

at::Tensor pack_cpu(const OptionalTensor& conv_pw, const at::Tensor& conv_dw, const at::Tensor& conv_pwl,
                    at::TensorList se, at::ScalarType type) {
    const Dtype dtype = dtype_of(type, "dtype");
    TORCH_CHECK_VALUE(conv_dw.dim() == 4 && conv_dw.size(1) == 1 && conv_dw.size(2) == conv_dw.size(3),
                      "mbconv: conv_dw must be [M, 1, k, k], got shape ", conv_dw.sizes());
    TORCH_CHECK_VALUE(conv_pwl.dim() == 4, "mbconv: conv_pwl must be [K, M, 1, 1], got shape ", conv_pwl.sizes());
    TORCH_CHECK_VALUE(se.empty() || se.size() == 4,
                      "mbconv: se must be empty or weight and bias of conv_reduce and "
                      "conv_expand, got ",
                      se.size(), " tensors");
    const int64_t mid = conv_dw.size(0), squeezed = se.empty() ? 0 : se[0].size(0);
    Shape shape = shape_of(mid, conv_pwl.size(0), conv_dw.size(2), 1, squeezed, false);
    shape.has_expansion = conv_pw.has_value();
    shape.in_channels = shape.has_expansion ? conv_pw->size(1) : mid;
    check_float(conv_dw, "conv_dw", {mid, 1, shape.kernel, shape.kernel});
    check_float(conv_pwl, "conv_pwl", {shape.out_channels, mid, 1, 1});
    if (conv_pw.has_value()) check_float(*conv_pw, "conv_pw", {mid, shape.in_channels, 1, 1});
    if (!se.empty()) {
        check_float(se[0], "se.conv_reduce.weight", {squeezed, mid, 1, 1});
        check_float(se[1], "se.conv_reduce.bias", {squeezed});
        check_float(se[2], "se.conv_expand.weight", {mid, squeezed, 1, 1});
        check_float(se[3], "se.conv_expand.bias", {mid});
    }
    std::vector<at::Tensor> kept;
    const auto data = [&kept](const at::Tensor& tensor) {
        kept.push_back(tensor.contiguous());
        return kept.back().const_data_ptr<float>();
    };
    kept.reserve(7);
    Weights weights{};
    if (conv_pw.has_value()) weights.conv_pw = data(*conv_pw);
    weights.conv_dw = data(conv_dw);
    weights.conv_pwl = data(conv_pwl);
    if (!se.empty()) {
        weights.se_reduce = data(se[0]);
        weights.se_reduce_bias = data(se[1]);
        weights.se_expand = data(se[2]);
        weights.se_expand_bias = data(se[3]);
    }
    at::Tensor packed = at::empty({packed_layout(shape, dtype).bytes}, conv_dw.options().dtype(at::kByte));
    pack(shape, dtype, weights, packed.mutable_data_ptr<uint8_t>());
    return packed;
}

struct Layer {
    int64_t out_channels, mid_channels, kernel, stride, se_channels;
    bool same_padding, residual;
};

Call layer_call(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer) {
    check_images(x, "x");
    prefixes_of(affine, x.size(0));
    Shape shape =
        shape_of(layer.mid_channels, layer.out_channels, layer.kernel, layer.stride, layer.se_channels, layer.residual);
    const int64_t without = 2 * layer.mid_channels + 2 * layer.out_channels, with = without + 2 * layer.mid_channels;
    TORCH_CHECK_VALUE(affine.size(1) == with || affine.size(1) == without, "mbconv: affine must have ", with,
                      " columns (", without, " without expansion), got ", affine.size(1));
    set_input(shape, x, affine.size(1) == with, layer.same_padding);
    return call_of(shape, x, packed, affine);
}

at::Tensor mbconv_cpu(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine_in, int64_t out_channels,
                      int64_t mid_channels, int64_t kernel, int64_t stride, int64_t se_channels, bool same_padding,
                      bool residual) {
    const at::Tensor affine = affine_in.contiguous();
    Call call = layer_call(x, packed, affine,
                           {out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual});
    at::Tensor y = new_images(x, x.size(0), out_channels, call.shape);
    call.ending = Ending::write;
    call.y = y.mutable_data_ptr();
    run(call, kernels(chosen_isa(), dtype_of(x.scalar_type(), "x")), x, x.size(0), false);
    return y;
}

at::Tensor mbconv_reduce_cpu(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine_in,
                             int64_t out_channels, int64_t mid_channels, int64_t kernel, int64_t stride,
                             int64_t se_channels, bool same_padding, bool residual, const at::Tensor& target,
                             const OptionalTensor& adapter_weight, const OptionalTensor& adapter_bias) {
    const at::Tensor affine = affine_in.contiguous();
    Call call = layer_call(x, packed, affine,
                           {out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual});
    const Dtype dtype = dtype_of(x.scalar_type(), "x");
    check_images(target, "target");
    TORCH_CHECK_TYPE(target.scalar_type() == x.scalar_type(), "mbconv: target must have x's dtype ", x.scalar_type(),
                     ", got ", target.scalar_type());
    TORCH_CHECK_VALUE(adapter_weight.has_value() == adapter_bias.has_value(),
                      "mbconv: an adapter needs both weight and bias, got one");
    const int64_t channels = adapter_weight.has_value() ? adapter_weight->size(0) : out_channels;
    const std::array<int64_t, 4> expected{call.images_per_prefix, channels, call.shape.out_rows, call.shape.out_cols};
    TORCH_CHECK_VALUE(target.sizes() == at::IntArrayRef(expected), "mbconv: target must have shape ",
                      at::IntArrayRef(expected), " (images a prefix, channels, rows, columns), got ", target.sizes());
    call.ending = Ending::reduce;
    call.target = target.const_data_ptr();
    call.target_channels = channels;
    at::Tensor packed_adapter, bias;
    if (adapter_weight.has_value()) {
        check_float(*adapter_weight, "adapter_weight", {channels, out_channels});
        check_float(*adapter_bias, "adapter_bias", {channels});
        packed_adapter = scratch_of(x, packed_matrix_bytes(out_channels, channels, kHalfVector, dtype));
        pack_matrix(out_channels, channels, kHalfVector, dtype, adapter_weight->contiguous().const_data_ptr<float>(),
                    1.0f, aligned(packed_adapter));
        bias = adapter_bias->contiguous();
        call.ending = Ending::adapt_and_reduce;
        call.adapter = aligned(packed_adapter);
        call.adapter_bias = bias.const_data_ptr<float>();
    }
    at::Tensor sums = at::empty({x.size(0), 3}, x.options().dtype(at::kDouble));
    call.sums = sums.mutable_data_ptr<double>();
    run(call, kernels(chosen_isa(), dtype), x, x.size(0), false);
    return sums;
}

std::tuple<at::Tensor, at::Tensor> mbconv_depthwise_cpu(const at::Tensor& x, const at::Tensor& packed,
                                                        const at::Tensor& affine_in, int64_t out_channels,
                                                        int64_t mid_channels, int64_t kernel, int64_t stride,
                                                        int64_t se_channels, bool same_padding) {
    const at::Tensor affine = affine_in.contiguous();
    check_images(x, "x");
    prefixes_of(affine, x.size(0));
    Shape shape = shape_of(mid_channels, out_channels, kernel, stride, se_channels, false);
    TORCH_CHECK_VALUE(affine.size(1) == 2 * mid_channels || affine.size(1) == 0, "mbconv_depthwise: affine must have ",
                      2 * mid_channels, " columns (none without expansion), got ", affine.size(1));
    set_input(shape, x, affine.size(1) > 0, same_padding);
    Call call = call_of(shape, x, packed, affine);
    at::Tensor h = new_images(x, x.size(0), mid_channels, shape);
    at::Tensor moments = at::empty({x.size(0), 2, mid_channels}, x.options().dtype(at::kDouble));
    call.ending = Ending::write_raw;
    call.y = h.mutable_data_ptr();
    call.moments = moments.mutable_data_ptr<double>();
    const Kernels& kernels_used = kernels(chosen_isa(), dtype_of(x.scalar_type(), "x"));
    const int64_t own_bytes = round_up(kernels_used.scratch(call).own, 64), count = groups(mid_channels);
    const at::Tensor scratch = scratch_of(x, at::get_num_threads() * own_bytes);
    // Groups of an image are independent of each other here: one loop over all of them serves any batch size.
    at::parallel_for(0, x.size(0) * count, 1, [&](int64_t begin, int64_t end) {
        unsigned char* const own = aligned(scratch) + at::get_thread_num() * own_bytes;
        while (begin < end) {
            const int64_t image = begin / count, first = begin % count;
            const int64_t last = std::min(count, first + end - begin);
            kernels_used.depthwise(call, image, first, last, own);
            begin += last - first;
        }
    });
    return {h, moments};
}

std::tuple<at::Tensor, at::Tensor> mbconv_project_cpu(const at::Tensor& h, const at::Tensor& packed,
                                                      const at::Tensor& affine_in, int64_t in_channels,
                                                      int64_t out_channels, int64_t kernel, int64_t se_channels,
                                                      bool has_expansion) {
    const at::Tensor affine = affine_in.contiguous();
    check_images(h, "h");
    prefixes_of(affine, h.size(0));
    const int64_t mid = h.size(1);
    Shape shape = shape_of(mid, out_channels, kernel, 1, se_channels, false);
    TORCH_CHECK_VALUE(affine.size(1) == 2 * mid, "mbconv_project: affine must have ", 2 * mid, " columns, got ",
                      affine.size(1));
    set_input(shape, h, false, false);
    shape.has_expansion = has_expansion;  // of the packed weights; nothing is expanded here
    shape.in_channels = in_channels;
    Call call = call_of(shape, h, packed, affine);
    at::Tensor y = new_images(h, h.size(0), out_channels, shape);
    at::Tensor moments = at::empty({h.size(0), 2, out_channels}, h.options().dtype(at::kDouble));
    call.ending = Ending::write_raw;
    call.y = y.mutable_data_ptr();
    call.moments = moments.mutable_data_ptr<double>();
    run(call, kernels(chosen_isa(), dtype_of(h.scalar_type(), "h")), h, h.size(0), true);
    return {y, moments};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CPU, m) {
    m.impl("mbconv_pack", &pack_cpu);
    m.impl("mbconv", &mbconv_cpu);
    m.impl("mbconv_reduce", &mbconv_reduce_cpu);
    m.impl("mbconv_depthwise", &mbconv_depthwise_cpu);
    m.impl("mbconv_project", &mbconv_project_cpu);
}

}  // namespace dna_fast::mbconv
