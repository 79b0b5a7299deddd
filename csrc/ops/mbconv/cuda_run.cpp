#include "cuda_run.h"

#include <algorithm>
#include <utility>

namespace dna_fast::mbconv {
namespace {

// CUDA's largest grid in its second dimension, which counts images in some kernels.
constexpr std::int64_t kMostImages = 65535;

struct Kernels {
    cudaError_t (*expand)(const ExpandCall&, cudaStream_t);
    cudaError_t (*activate)(const ActivateCall&, cudaStream_t);
    cudaError_t (*project)(const ProjectCall&, cudaStream_t);
    cudaError_t (*moments)(const MomentsCall&, cudaStream_t);
};
template <Dtype kDtype>
constexpr Kernels kKernels{&CudaKernels<kDtype>::expand, &CudaKernels<kDtype>::activate, &CudaKernels<kDtype>::project,
                           &CudaKernels<kDtype>::moments};

const Kernels& kernels_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::bfloat16:
            return kKernels<Dtype::bfloat16>;
        case Dtype::float16:
            return kKernels<Dtype::float16>;
        case Dtype::float32:
            break;
    }
    return kKernels<Dtype::float32>;
}

unsigned char* behind(void* pointer, std::int64_t bytes) { return static_cast<unsigned char*>(pointer) + bytes; }

}  // namespace

CudaRun::CudaRun(const CudaInputs& inputs, const CudaDevice& device, std::int64_t plane_bytes, Allocate allocate,
                 cudaStream_t stream)
    : inputs_(inputs),
      shape_(inputs_.shape),
      device_(device),
      layout_(cuda_layout(inputs.shape, inputs.dtype)),
      size_(storage_bytes(inputs.dtype)),
      allocate_(std::move(allocate)),
      stream_(stream) {
    const std::int64_t per_image = shape_.mid_channels * plane_size(shape_) * size_;
    slice_ = std::clamp<std::int64_t>(plane_bytes / per_image, 1, std::min(kMostImages, inputs.images));
}

ExpandPlan CudaRun::plan(std::int64_t images, bool raw) const {
    return plan_expand(shape_, inputs_.dtype, images, raw, device_);
}

template <class Step>
cudaError_t CudaRun::for_slices(const Step& step) {
    planes_ = allocate_(slice_ * shape_.mid_channels * plane_size(shape_) * size_);
    if (shape_.se_channels > 0) gates_ = static_cast<float*>(allocate_(slice_ * shape_.mid_channels * 4));
    for (std::int64_t first = 0; first < inputs_.images; first += slice_) {
        const cudaError_t error = step(Slice{first, std::min(slice_, inputs_.images - first)});
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

const unsigned char* CudaRun::x_of(const Slice& slice, std::int64_t elements) const {
    return static_cast<const unsigned char*>(inputs_.x) + slice.first * elements * size_;
}

ExpandCall CudaRun::expand_call(const Slice& slice, const ExpandPlan& plan) const {
    ExpandCall call{};
    call.shape = shape_;
    call.plan = plan;
    call.x = x_of(slice, shape_.in_pixels() * shape_.in_channels);
    call.conv_pw = inputs_.packed + layout_.conv_pw;
    call.taps = inputs_.packed + layout_.taps[shape_.stride - 1];
    call.affine = inputs_.affine;
    call.affine_stride = inputs_.affine_stride;
    call.first_image = slice.first;
    call.images = slice.images;
    call.images_per_prefix = inputs_.images_per_prefix;
    call.in_pitch = layout_.in_pitch;
    return call;
}

// x -> planes and gates.
cudaError_t CudaRun::make_planes(const Slice& slice) {
    const ExpandPlan chosen = plan(slice.images, false);
    ExpandCall call = expand_call(slice, chosen);
    call.h = planes_;
    if (shape_.se_channels > 0) {
        const std::int64_t room = slice.images * chosen.parts() * shape_.mid_channels;
        if (room > sums_room_) {  // a smaller slice may have another plan
            sums_ = static_cast<float*>(allocate_(room * 4));
            sums_room_ = room;
        }
        call.sums = sums_;
    }
    const cudaError_t error = kernels_of(inputs_.dtype).expand(call, stream_);
    return error != cudaSuccess ? error : make_gates(slice, chosen.parts());
}

// The same from conv_dw's stored result.
cudaError_t CudaRun::activate_planes(const Slice& slice) {
    ActivateCall call{};
    call.shape = shape_;
    call.h = x_of(slice, shape_.out_pixels() * shape_.mid_channels);
    call.affine = inputs_.affine;
    call.affine_stride = inputs_.affine_stride;
    call.first_image = slice.first;
    call.images = slice.images;
    call.images_per_prefix = inputs_.images_per_prefix;
    call.planes = planes_;
    if (shape_.se_channels > 0) {
        if (sums_ == nullptr) sums_ = static_cast<float*>(allocate_(slice_ * shape_.mid_channels * 4));
        call.sums = sums_;
    }
    const cudaError_t error = kernels_of(inputs_.dtype).activate(call, stream_);
    return error != cudaSuccess ? error : make_gates(slice, 1);
}

cudaError_t CudaRun::make_gates(const Slice& slice, std::int64_t parts) {
    if (shape_.se_channels == 0) return cudaSuccess;
    GateCall call{};
    call.sums = sums_;
    call.reduce = floats(layout_.se_reduce);
    call.reduce_bias = floats(layout_.se_reduce_bias);
    call.expand = floats(layout_.se_expand);
    call.expand_bias = floats(layout_.se_expand_bias);
    call.gates = gates_;
    call.images = slice.images;
    call.parts = parts;
    call.mid_channels = shape_.mid_channels;
    call.se_channels = shape_.se_channels;
    call.pixels = shape_.out_pixels();
    return launch_gate(call, stream_);
}

ProjectCall CudaRun::raw_call(const Slice& slice) const {
    ProjectCall call{};
    call.shape = shape_;
    call.planes = planes_;
    call.depth = shape_.mid_channels;
    call.matrix = inputs_.packed + layout_.conv_pwl;
    call.columns = shape_.out_channels;
    call.matrix_pitch = layout_.mid_pitch;
    call.gates = gates_;
    call.first_image = slice.first;
    call.images = slice.images;
    call.images_per_prefix = inputs_.images_per_prefix;
    call.y_pitch = shape_.out_channels;
    return call;
}

// With batch norm 3 and the residual.
ProjectCall CudaRun::finished_call(const Slice& slice) const {
    ProjectCall call = raw_call(slice);
    call.scale = inputs_.affine + (shape_.has_expansion ? 4 : 2) * shape_.mid_channels;
    call.shift = call.scale + shape_.out_channels;
    call.affine_stride = inputs_.affine_stride;
    if (shape_.has_residual) call.residual = x_of(slice, shape_.in_pixels() * shape_.in_channels);
    return call;
}

ProjectCall CudaRun::adapter_call(const Slice& slice, const CudaComparison& comparison, const void* rows) const {
    ProjectCall call{};
    call.shape = shape_;
    call.rows = rows;
    call.depth = shape_.out_channels;
    call.depth_pitch = round_up(shape_.out_channels, kBlockCols);
    call.matrix = comparison.adapter;
    call.matrix_pitch = cuda_matrix_pitch(shape_.out_channels, inputs_.dtype);
    call.columns = comparison.channels;
    call.shift = comparison.adapter_bias;
    call.first_image = slice.first;
    call.images = slice.images;
    call.images_per_prefix = inputs_.images_per_prefix;
    return call;
}

cudaError_t CudaRun::write(void* y) {
    return for_slices([&](const Slice& slice) {
        if (const cudaError_t error = make_planes(slice); error != cudaSuccess) return error;
        ProjectCall call = finished_call(slice);
        call.ending = CudaEnding::write;
        call.y = behind(y, slice.first * shape_.out_pixels() * shape_.out_channels * size_);
        return kernels_of(inputs_.dtype).project(call, stream_);
    });
}

cudaError_t CudaRun::reduce(const CudaComparison& comparison, double* sums) {
    const std::int64_t plane = plane_size(shape_), pitch = round_up(shape_.out_channels, kBlockCols);
    const std::int64_t count = plane / kBlockCols * project_parts(comparison.channels);
    float* const partial_sums = static_cast<float*>(allocate_(slice_ * count * 3 * 4));
    void* const rows = comparison.adapter == nullptr ? nullptr : allocate_(slice_ * plane * pitch * size_);
    return for_slices([&](const Slice& slice) {
        if (const cudaError_t error = make_planes(slice); error != cudaSuccess) return error;
        ProjectCall call = finished_call(slice);
        if (comparison.adapter != nullptr) {
            call.ending = CudaEnding::write_padded;
            call.y = rows;
            call.y_pitch = pitch;
            const cudaError_t error = kernels_of(inputs_.dtype).project(call, stream_);
            if (error != cudaSuccess) return error;
            call = adapter_call(slice, comparison, rows);
        }
        call.ending = CudaEnding::reduce;
        call.target = comparison.target;
        call.partial_sums = partial_sums;
        const cudaError_t error = kernels_of(inputs_.dtype).project(call, stream_);
        if (error != cudaSuccess) return error;
        return launch_finish({partial_sums, slice.images, count, sums + slice.first * 3}, stream_);
    });
}

cudaError_t CudaRun::depthwise(const ExpandPlan& chosen, void* h, double* moments) {
    ExpandCall call = expand_call(Slice{0, inputs_.images}, chosen);
    call.raw = true;
    call.h = h;
    call.moments = moments;
    return kernels_of(inputs_.dtype).expand(call, stream_);
}

cudaError_t CudaRun::project(void* y, double* moments) {
    return for_slices([&](const Slice& slice) {
        if (const cudaError_t error = activate_planes(slice); error != cudaSuccess) return error;
        ProjectCall call = raw_call(slice);
        call.ending = CudaEnding::write_raw;
        call.y = behind(y, slice.first * shape_.out_pixels() * shape_.out_channels * size_);
        const cudaError_t error = kernels_of(inputs_.dtype).project(call, stream_);
        if (error != cudaSuccess) return error;
        const std::int64_t channels = shape_.out_channels;
        return kernels_of(inputs_.dtype)
            .moments({call.y, slice.images, shape_.out_pixels(), channels, moments + slice.first * 2 * channels},
                     stream_);
    });
}

}  // namespace dna_fast::mbconv
