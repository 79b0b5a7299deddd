// What mbconv's torch implementations share: every check of every tensor, and the problem that results.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "mbconv.h"

namespace dna_fast::mbconv {

using OptionalTensor = std::optional<at::Tensor>;

// The numbers of the operators' schemas.
struct Layer {
    int64_t out_channels, mid_channels, kernel, stride, se_channels;
    bool same_padding, residual;
};

struct Problem {
    Shape shape;
    Dtype dtype;
    at::Tensor affine;  // [P, columns], contiguous
    int64_t images, images_per_prefix;
};

// How many bytes the device's kernels expect of packed weights.
using PackedBytes = int64_t (*)(const Shape& shape, Dtype dtype);

// mbconv and mbconv_reduce; mbconv_depthwise; mbconv_project. They raise ValueError or TypeError, in words.
Problem layer_problem(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                      PackedBytes bytes);
Problem depthwise_problem(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                          PackedBytes bytes);
Problem project_problem(const at::Tensor& h, const at::Tensor& packed, const at::Tensor& affine, const Layer& layer,
                        int64_t in_channels, bool has_expansion, PackedBytes bytes);

// What an output is compared with: directly, or behind an adapter.
struct Comparison {
    int64_t channels;
    at::Tensor weight, bias;  // [T, K], [T], contiguous; undefined without an adapter
};
Comparison comparison(const Problem& problem, const at::Tensor& x, const at::Tensor& target,
                      const OptionalTensor& adapter_weight, const OptionalTensor& adapter_bias);

// Weights to pack, on the CPU.
struct Packing {
    Shape shape;
    Dtype dtype;
    std::vector<at::Tensor> kept;  // what `weights` points into
    Weights weights;
};
Packing packing(const OptionalTensor& conv_pw, const at::Tensor& conv_dw, const at::Tensor& conv_pwl, at::TensorList se,
                at::ScalarType type);

at::Tensor new_images(const at::Tensor& like, int64_t channels, const Shape& shape);

}  // namespace dna_fast::mbconv
