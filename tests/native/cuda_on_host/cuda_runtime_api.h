// The two types of CUDA's runtime that host code of a kernel names.
#pragma once

enum cudaError_t { cudaSuccess };
using cudaStream_t = void*;
