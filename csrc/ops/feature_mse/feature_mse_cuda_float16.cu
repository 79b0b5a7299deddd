#include "feature_mse_cuda.cuh"

template cudaError_t dna_fast::feature_mse::launch<dna_fast::feature_mse::Dtype::float16>(const Params&,
                                                                                          const CudaOutput&,
                                                                                          cudaStream_t);
