// feature_mse for torch on CUDA tensors where the build has no CUDA: composed of torch's own operators, right on any
// GPU and several passes over memory. `dna-fast info` says which of the two a build has.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "feature_mse_torch.h"

namespace dna_fast::feature_mse {
namespace {

LossAndGradient on_cuda(const at::Tensor& student, const at::Tensor& teacher, bool with_gradient) {
    check(student, teacher);
    const at::ScalarType type = loss_type(student);
    const at::Tensor difference = student.to(type).sub(teacher.to(type));
    const at::Tensor loss = difference.square().mean();
    if (!with_gradient) return {loss, no_gradient(student)};
    return {loss, at::empty_like(student).copy_(difference.mul(gradient_scale(student)))};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CUDA, m) { m.impl("feature_mse", &on_cuda); }

}  // namespace dna_fast::feature_mse
