// Takes the place of CUDA's header of this name: the two types that host code of a kernel names.
#pragma once

enum cudaError_t { cudaSuccess };
using cudaStream_t = void*;
