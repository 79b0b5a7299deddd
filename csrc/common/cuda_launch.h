// What every torch implementation of a CUDA kernel says when a launch fails.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

namespace dna_fast::cuda {

inline void check_launch(const char* op, cudaError_t error, c10::Device device) {
    TORCH_CHECK(error != cudaErrorNoKernelImageForDevice && error != cudaErrorUnsupportedPtxVersion, op,
                ": expected a GPU or driver that this build has code for (", DNA_FAST_CUDA_BUILT_FOR, "), got \"",
                cudaGetErrorString(error), "\" on ", device,
                "; build again with DNA_FAST_CUDA_ARCHS set to its compute capability, e.g. 89");
    TORCH_CHECK(error == cudaSuccess, op, ": expected the kernel to start on ", device, ", got \"",
                cudaGetErrorString(error), "\"; an earlier kernel may have failed, see CUDA_LAUNCH_BLOCKING=1");
}

}  // namespace dna_fast::cuda
