// mbconv for torch on CUDA tensors: allocation and launches on torch's current stream. Nothing here waits for the GPU,
// so calls can be captured in a CUDA graph. Compiled where the build has CUDA; elsewhere mbconv_no_cuda_torch.cpp.
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "common/cuda_launch.h"
#include "cuda_run.h"
#include "mbconv_torch.h"

namespace dna_fast::mbconv {
namespace {

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

// Planes that are there at once; a call goes through its images in slices of that.
constexpr int64_t kPlaneBytes = 256 << 20;

int64_t packed_bytes(const Shape& shape, Dtype dtype) { return cuda_layout(shape, dtype).bytes; }

CudaDevice device_facts(c10::DeviceIndex index) {
    const auto attribute = [index](cudaDeviceAttr which) {
        int value = 0;
        cuda::check_launch("mbconv", cudaDeviceGetAttribute(&value, which, index),
                           c10::Device(c10::DeviceType::CUDA, index));
        return value;
    };
    return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

// One call. Its memory may be freed at return: torch's allocator gives it to later work on this stream only.
class Launches {
  public:
    Launches(const Problem& problem, const at::Tensor& x, const at::Tensor& packed, bool raw = false)
        : device_(x.device()),
          options_(x.options().dtype(at::kByte)),
          run_(
              {problem.shape, problem.dtype, x.const_data_ptr(), packed.const_data_ptr<uint8_t>(),
               problem.affine.const_data_ptr<float>(), problem.affine.size(1), problem.images,
               problem.images_per_prefix},
              device_facts(device_.index()), kPlaneBytes,
              [this](int64_t bytes) {
                  memory_.push_back(at::empty({bytes}, options_));
                  return memory_.back().mutable_data_ptr();
              },
              c10::cuda::getCurrentCUDAStream(device_.index())) {
        TORCH_CHECK_VALUE(
            reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 16 == 0,
            "mbconv: packed weights must be aligned to 16 bytes, got a view that begins elsewhere; call .clone()");
        TORCH_CHECK_VALUE(run_.fits(raw), "mbconv: expected a layer whose smallest tile fits in shared memory of ",
                          device_, ", got ", problem.shape.in_channels, " -> ", problem.shape.mid_channels,
                          " channels, kernel ", problem.shape.kernel, "; run it on the CPU or with plain torch");
    }
    CudaRun& run() { return run_; }
    void check(cudaError_t error) const { cuda::check_launch("mbconv", error, device_); }

  private:
    const c10::Device device_;
    const at::TensorOptions options_;
    std::vector<at::Tensor> memory_;
    CudaRun run_;
};

at::Tensor pack_cuda(const OptionalTensor& conv_pw, const at::Tensor& conv_dw, const at::Tensor& conv_pwl,
                     at::TensorList se, at::ScalarType type) {
    const Packing from = packing(conv_pw, conv_dw, conv_pwl, se, type);
    const at::Tensor packed =
        at::empty({packed_bytes(from.shape, from.dtype)}, conv_dw.options().dtype(at::kByte).device(at::kCPU));
    pack_for_cuda(from.shape, from.dtype, from.weights, packed.mutable_data_ptr<uint8_t>());
    return packed.to(conv_dw.device());
}

at::Tensor mbconv_cuda(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, int64_t out_channels,
                       int64_t mid_channels, int64_t kernel, int64_t stride, int64_t se_channels, bool same_padding,
                       bool residual) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual};
    const Problem problem = layer_problem(x, packed, affine, layer, &packed_bytes);
    const c10::cuda::CUDAGuard guard(x.device());
    at::Tensor y = new_images(x, out_channels, problem.shape);
    if (problem.images == 0) return y;
    Launches call(problem, x, packed);
    call.check(call.run().write(y.mutable_data_ptr()));
    return y;
}

// An adapter's matrix as `project` reads it.
at::Tensor packed_adapter(const at::Tensor& weight, const at::Tensor& like, Dtype dtype) {
    const int64_t pitch = cuda_matrix_pitch(weight.size(1), dtype);
    return at::constant_pad_nd(weight,
                               {0, pitch - weight.size(1), 0, round_up(weight.size(0), kBlockCols) - weight.size(0)})
        .to(like.scalar_type())
        .contiguous();
}

at::Tensor mbconv_reduce_cuda(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine,
                              int64_t out_channels, int64_t mid_channels, int64_t kernel, int64_t stride,
                              int64_t se_channels, bool same_padding, bool residual, const at::Tensor& target,
                              const OptionalTensor& adapter_weight, const OptionalTensor& adapter_bias) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, residual};
    const Problem problem = layer_problem(x, packed, affine, layer, &packed_bytes);
    const Comparison with = comparison(problem, x, target, adapter_weight, adapter_bias);
    const c10::cuda::CUDAGuard guard(x.device());
    const at::Tensor sums = at::empty({x.size(0), 3}, x.options().dtype(at::kDouble));
    if (problem.images == 0) return sums;
    const bool adapts = with.weight.defined();
    const at::Tensor matrix = adapts ? packed_adapter(with.weight, x, problem.dtype) : at::Tensor();
    const CudaComparison against{target.const_data_ptr(), with.channels,
                                 adapts ? static_cast<const unsigned char*>(matrix.const_data_ptr()) : nullptr,
                                 adapts ? with.bias.const_data_ptr<float>() : nullptr};
    Launches call(problem, x, packed);
    call.check(call.run().reduce(against, sums.mutable_data_ptr<double>()));
    return sums;
}

TwoTensors mbconv_depthwise_cuda(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine,
                                 int64_t out_channels, int64_t mid_channels, int64_t kernel, int64_t stride,
                                 int64_t se_channels, bool same_padding) {
    const Layer layer{out_channels, mid_channels, kernel, stride, se_channels, same_padding, false};
    const Problem problem = depthwise_problem(x, packed, affine, layer, &packed_bytes);
    const c10::cuda::CUDAGuard guard(x.device());
    at::Tensor h = new_images(x, mid_channels, problem.shape);
    const auto doubles = x.options().dtype(at::kDouble);
    if (problem.images == 0) return {h, at::empty({0, 2, mid_channels}, doubles)};
    Launches call(problem, x, packed, true);
    const ExpandPlan plan = call.run().depthwise_plan();
    const at::Tensor moments = at::empty({plan.parts(), problem.images, 2, mid_channels}, doubles);
    call.check(call.run().depthwise(plan, h.mutable_data_ptr(), moments.mutable_data_ptr<double>()));
    return {h, moments.sum(0)};
}

TwoTensors mbconv_project_cuda(const at::Tensor& h, const at::Tensor& packed, const at::Tensor& affine,
                               int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t se_channels,
                               bool has_expansion) {
    const Layer layer{out_channels, h.dim() == 4 ? h.size(1) : 1, kernel, 1, se_channels, false, false};
    const Problem problem = project_problem(h, packed, affine, layer, in_channels, has_expansion, &packed_bytes);
    const c10::cuda::CUDAGuard guard(h.device());
    at::Tensor y = new_images(h, out_channels, problem.shape);
    at::Tensor moments = at::empty({problem.images, 2, out_channels}, h.options().dtype(at::kDouble));
    if (problem.images == 0) return {y, moments};
    Launches call(problem, h, packed);
    call.check(call.run().project(y.mutable_data_ptr(), moments.mutable_data_ptr<double>()));
    return {y, moments};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CUDA, m) {
    m.impl("mbconv_pack", &pack_cuda);
    m.impl("mbconv", &mbconv_cuda);
    m.impl("mbconv_reduce", &mbconv_reduce_cuda);
    m.impl("mbconv_depthwise", &mbconv_depthwise_cuda);
    m.impl("mbconv_project", &mbconv_project_cuda);
}

}  // namespace dna_fast::mbconv
