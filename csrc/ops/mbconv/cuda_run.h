// Whole calls of mbconv on a GPU, made of its kernels slice by slice: no device code, no torch. Nothing waits for the
// GPU.
#pragma once

#include <functional>

#include "mbconv_cuda.h"

namespace dna_fast::mbconv {

struct CudaInputs {
    Shape shape;
    Dtype dtype;
    const void* x;                // [images, H, W, C]; for project() conv_dw's result [images, Q, R, M]
    const unsigned char* packed;  // of CudaLayout
    const float* affine;          // [prefixes, affine_stride], as Call has it
    std::int64_t affine_stride, images, images_per_prefix;  // images > 0
};

struct CudaComparison {
    const void* target;  // [images_per_prefix, Q, R, channels]
    std::int64_t channels;
    const unsigned char* adapter;  // by pack_matrix_for_cuda, or null
    const float* adapter_bias;     // [channels]
};

class CudaRun {
  public:
    // Device memory that lives until all of the call's kernels have run.
    using Allocate = std::function<void*(std::int64_t bytes)>;

    // plane_bytes: of the depthwise results that are there at once; a slice is as many images, but at least one.
    CudaRun(const CudaInputs& inputs, const CudaDevice& device, std::int64_t plane_bytes, Allocate allocate,
            cudaStream_t stream);

    // `raw`: for depthwise(). Where it is false, no tile of the layer fits and none of the others may be called.
    bool fits(bool raw) const {
        return plan(slice_, raw).channels > 0 &&
               gate_shared_bytes(shape_.mid_channels, shape_.se_channels) <= device_.shared_bytes;
    }

    cudaError_t write(void* y);                                          // [images, Q, R, K]
    cudaError_t reduce(const CudaComparison& comparison, double* sums);  // [images, 3]
    ExpandPlan depthwise_plan() const { return plan(inputs_.images, true); }
    cudaError_t depthwise(const ExpandPlan& plan, void* h,
                          double* moments);         // [images, Q, R, M], [parts, images, 2, M]
    cudaError_t project(void* y, double* moments);  // [images, Q, R, K], [images, 2, K]

  private:
    // Images of one round.
    struct Slice {
        std::int64_t first, images;
    };
    ExpandPlan plan(std::int64_t images, bool raw) const;
    template <class Step>
    cudaError_t for_slices(const Step& step);
    ExpandCall expand_call(const Slice& slice, const ExpandPlan& plan) const;
    cudaError_t make_planes(const Slice& slice);
    cudaError_t activate_planes(const Slice& slice);
    cudaError_t make_gates(const Slice& slice, std::int64_t parts);
    ProjectCall raw_call(const Slice& slice) const;
    ProjectCall finished_call(const Slice& slice) const;
    ProjectCall adapter_call(const Slice& slice, const CudaComparison& comparison, const void* rows) const;
    const unsigned char* x_of(const Slice& slice, std::int64_t elements) const;
    const float* floats(std::int64_t offset) const { return reinterpret_cast<const float*>(inputs_.packed + offset); }

    const CudaInputs inputs_;
    const Shape& shape_;
    const CudaDevice device_;
    const CudaLayout layout_;
    const std::int64_t size_;  // bytes of an element
    const Allocate allocate_;
    const cudaStream_t stream_;
    std::int64_t slice_;
    void* planes_ = nullptr;
    float *sums_ = nullptr, *gates_ = nullptr;
    std::int64_t sums_room_ = 0;
};

}  // namespace dna_fast::mbconv
