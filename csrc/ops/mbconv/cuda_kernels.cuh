// mbconv on a GPU: the entry points of one storage type.
#pragma once

#include "cuda_expand.cuh"
#include "cuda_project.cuh"
#include "cuda_small.cuh"

namespace dna_fast::mbconv {

template <Dtype kDtype>
cudaError_t CudaKernels<kDtype>::expand(const ExpandCall& call, cudaStream_t stream) {
    using T = typename Storage<kDtype>::Type;
    switch (call.shape.kernel) {
        case 3:
            return launch_expand<T, 3>(call, stream);
        case 5:
            return launch_expand<T, 5>(call, stream);
        default:
            assert(call.shape.kernel == 7);
            return launch_expand<T, 7>(call, stream);
    }
}
template <Dtype kDtype>
cudaError_t CudaKernels<kDtype>::activate(const ActivateCall& call, cudaStream_t stream) {
    return launch_activate<typename Storage<kDtype>::Type>(call, stream);
}
template <Dtype kDtype>
cudaError_t CudaKernels<kDtype>::project(const ProjectCall& call, cudaStream_t stream) {
    return launch_project<typename Storage<kDtype>::Type>(call, stream);
}
template <Dtype kDtype>
cudaError_t CudaKernels<kDtype>::moments(const MomentsCall& call, cudaStream_t stream) {
    return launch_moments<typename Storage<kDtype>::Type>(call, stream);
}

}  // namespace dna_fast::mbconv
