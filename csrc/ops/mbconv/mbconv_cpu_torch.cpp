// mbconv for torch on CPU tensors: allocation, threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "mbconv_torch.h"

namespace dna_fast::mbconv {
namespace {

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

int64_t packed_bytes(const Shape& shape, Dtype dtype) { return packed_layout(shape, dtype).bytes; }

Call call_of(const Problem& problem, const at::Tensor& x, const at::Tensor& packed) {
    Call call{};
    call.shape = problem.shape;
    call.layout = packed_layout(problem.shape, problem.dtype);
    call.packed = packed.const_data_ptr<uint8_t>();
    call.x = x.const_data_ptr();
    call.affine = problem.affine.const_data_ptr<float>();
    call.affine_stride = problem.affine.size(1);
    call.images_per_prefix = problem.images_per_prefix;
    return call;
}

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

at::Tensor pack_cpu(const OptionalTensor& conv_pw, const at::Tensor& conv_dw, const at::Tensor& conv_pwl,
                    at::TensorList se, at::ScalarType type) {
    const Packing from = packing(conv_pw, conv_dw, conv_pwl, se, type);
    at::Tensor packed = at::empty({packed_bytes(from.shape, from.dtype)}, conv_dw.options().dtype(at::kByte));
    pack(from.shape, from.dtype, from.weights, packed.mutable_data_ptr<uint8_t>());
    return packed;
}

at::Tensor mbconv_cpu(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, int64_t out_channels,
                      int64_t mid_channels, int64_t kernel, int64_t stride, int64_t se_channels, bool same_padding,
                      bool residual) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual};
    const Problem problem = layer_problem(x, packed, affine, layer, &packed_bytes);
    Call call = call_of(problem, x, packed);
    at::Tensor y = new_images(x, out_channels, call.shape);
    call.ending = Ending::write;
    call.y = y.mutable_data_ptr();
    run(call, kernels(chosen_isa(), problem.dtype), x, x.size(0), false);
    return y;
}

at::Tensor mbconv_reduce_cpu(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine,
                             int64_t out_channels, int64_t mid_channels, int64_t kernel, int64_t stride,
                             int64_t se_channels, bool same_padding, bool residual, const at::Tensor& target,
                             const OptionalTensor& adapter_weight, const OptionalTensor& adapter_bias) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual};
    const Problem problem = layer_problem(x, packed, affine, layer, &packed_bytes);
    const Comparison with = comparison(problem, x, target, adapter_weight, adapter_bias);
    Call call = call_of(problem, x, packed);
    call.ending = Ending::reduce;
    call.target = target.const_data_ptr();
    call.target_channels = with.channels;
    at::Tensor packed_adapter;
    if (with.weight.defined()) {
        packed_adapter = scratch_of(x, packed_matrix_bytes(out_channels, with.channels, kHalfVector, problem.dtype));
        pack_matrix(out_channels, with.channels, kHalfVector, problem.dtype, with.weight.const_data_ptr<float>(), 1.0f,
                    aligned(packed_adapter));
        call.ending = Ending::adapt_and_reduce;
        call.adapter = aligned(packed_adapter);
        call.adapter_bias = with.bias.const_data_ptr<float>();
    }
    at::Tensor sums = at::empty({x.size(0), 3}, x.options().dtype(at::kDouble));
    call.sums = sums.mutable_data_ptr<double>();
    run(call, kernels(chosen_isa(), problem.dtype), x, x.size(0), false);
    return sums;
}

TwoTensors mbconv_depthwise_cpu(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine,
                                int64_t out_channels, int64_t mid_channels, int64_t kernel, int64_t stride,
                                int64_t se_channels, bool same_padding) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, false};
    const Problem problem = depthwise_problem(x, packed, affine, layer, &packed_bytes);
    Call call = call_of(problem, x, packed);
    at::Tensor h = new_images(x, mid_channels, problem.shape);
    at::Tensor moments = at::empty({x.size(0), 2, mid_channels}, x.options().dtype(at::kDouble));
    call.ending = Ending::write_raw;
    call.y = h.mutable_data_ptr();
    call.moments = moments.mutable_data_ptr<double>();
    const Kernels& kernels_used = kernels(chosen_isa(), problem.dtype);
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

TwoTensors mbconv_project_cpu(const at::Tensor& h, const at::Tensor& packed, const at::Tensor& affine,
                              int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t se_channels,
                              bool has_expansion) {
    const Layer layer{out_channels, h.dim() == 4 ? h.size(1) : 1, kernel, 1, se_channels, false, false};
    const Problem problem = project_problem(h, packed, affine, layer, in_channels, has_expansion, &packed_bytes);
    Call call = call_of(problem, h, packed);
    at::Tensor y = new_images(h, out_channels, problem.shape);
    at::Tensor moments = at::empty({h.size(0), 2, out_channels}, h.options().dtype(at::kDouble));
    call.ending = Ending::write_raw;
    call.y = y.mutable_data_ptr();
    call.moments = moments.mutable_data_ptr<double>();
    run(call, kernels(chosen_isa(), problem.dtype), h, h.size(0), true);
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
