// feature_mse on a GPU, as its host sees it: no device code, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "feature_mse.h"

namespace dna_fast::feature_mse {

struct CudaOutput {
    double* sums;  // [chunks(numel)], scratch
    void* loss;    // one float, or one double where the student is float64: the mean
};

// Puts both stages on the stream. Pointers, also those of `params`, are of the current device and need no alignment
// beyond their type's; params.student_dtype must be kStudent. One instantiation per feature_mse_cuda_<dtype>.cu.
template <Dtype kStudent>
cudaError_t launch(const Params& params, const CudaOutput& output, cudaStream_t stream);

}  // namespace dna_fast::feature_mse
