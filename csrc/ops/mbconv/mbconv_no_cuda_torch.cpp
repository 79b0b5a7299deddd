// mbconv on CUDA tensors in a build without CUDA: says so. Nobody gets plain torch in its place without asking;
// dna_fast/rate_operators.py and teacher_fused.py ask before they choose.
#include <torch/library.h>

#include "mbconv_torch.h"

namespace dna_fast::mbconv {
namespace {

void refuse(const c10::OperatorHandle& op, torch::jit::Stack*) {
    TORCH_CHECK(
        false, op.schema().name(),
        ": expected tensors on the CPU, as this build has no CUDA kernels "
        "(dna-fast info says why), got a CUDA tensor; move it with .cpu(), or build where nvcc and a CUDA torch are");
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CUDA, m) {
    for (const char* name : {"mbconv_pack", "mbconv", "mbconv_reduce", "mbconv_depthwise", "mbconv_project"})
        m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse>());
}

}  // namespace dna_fast::mbconv
