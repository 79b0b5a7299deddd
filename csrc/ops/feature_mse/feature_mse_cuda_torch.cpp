// feature_mse for torch on CUDA tensors: the kernel on the tensors' device and torch's current stream. Compiled where
// the build has CUDA; elsewhere feature_mse_composed_torch.cpp takes its place.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "common/cuda_launch.h"
#include "feature_mse_cuda.h"
#include "feature_mse_torch.h"

namespace dna_fast::feature_mse {
namespace {

cudaError_t launch_for_student(const Params& params, const CudaOutput& output, cudaStream_t stream) {
    switch (params.student_dtype) {
        case Dtype::bfloat16:
            return launch<Dtype::bfloat16>(params, output, stream);
        case Dtype::float16:
            return launch<Dtype::float16>(params, output, stream);
        case Dtype::float64:
            return launch<Dtype::float64>(params, output, stream);
        case Dtype::float32:
            break;
    }
    return launch<Dtype::float32>(params, output, stream);
}

LossAndGradient on_cuda(const at::Tensor& student, const at::Tensor& teacher, bool with_gradient) {
    check(student, teacher);
    const c10::cuda::CUDAGuard guard(student.device());
    const Operands operands = prepare(student, teacher, with_gradient);
    const at::Tensor sums = at::empty({chunks(operands.params.numel)}, student.options().dtype(at::kDouble));
    const at::Tensor loss = at::empty({}, student.options().dtype(loss_type(student)));

    // Copies made and `sums` may be freed at return: torch's allocator gives memory to later work on this stream only.
    const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream(student.device().index());
    const CudaOutput output{sums.mutable_data_ptr<double>(), loss.mutable_data_ptr()};
    cuda::check_launch("feature_mse", launch_for_student(operands.params, output, stream), student.device());
    return {loss, operands.gradient};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CUDA, m) { m.impl("feature_mse", &on_cuda); }

}  // namespace dna_fast::feature_mse
