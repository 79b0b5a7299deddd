#include "cuda_kernels.cuh"

template struct dna_fast::mbconv::CudaKernels<dna_fast::mbconv::Dtype::float16>;
