// Nothing to run: that csrc/common/cuda_*.cuh and the kernels tested here are CUDA, too, is for nvcc to say.
#include "pointwise_product.cuh"
#include "words.cuh"

namespace dna_fast {

using cuda::BFloat16;
using cuda::Float16;

template __global__ void words::multiply<BFloat16>(const std::uint16_t*, const std::uint16_t*, float*);
template __global__ void words::multiply<Float16>(const std::uint16_t*, const std::uint16_t*, float*);
template cudaError_t pointwise_product::launch<BFloat16, false>(const Params<BFloat16>&, cudaStream_t);
template cudaError_t pointwise_product::launch<BFloat16, true>(const Params<BFloat16>&, cudaStream_t);
template cudaError_t pointwise_product::launch<Float16, false>(const Params<Float16>&, cudaStream_t);
template cudaError_t pointwise_product::launch<Float16, true>(const Params<Float16>&, cudaStream_t);
template cudaError_t pointwise_product::launch<float, false>(const Params<float>&, cudaStream_t);

}  // namespace dna_fast
