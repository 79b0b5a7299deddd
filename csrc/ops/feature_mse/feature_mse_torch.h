// What every torch implementation of feature_mse shares: checks, layout, the gradient's scale.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "feature_mse.h"

namespace dna_fast::feature_mse {

using LossAndGradient = std::tuple<at::Tensor, at::Tensor>;

// Raises ValueError or TypeError, in words.
void check(const at::Tensor& student, const at::Tensor& teacher);

// What the gradient is stored with. float16 stores the bare difference: divided by the number of elements it would be
// lost below 6e-8. ops/feature_mse.py multiplies by the rest.
double gradient_scale(const at::Tensor& student);

at::ScalarType loss_type(const at::Tensor& student);
at::Tensor no_gradient(const at::Tensor& student);

// Both operands as flat memory in one order, an empty gradient to fill, and the kernels' view of them.
struct Operands {
    at::Tensor student, teacher, gradient;  // gradient [0] if nobody wants it
    Params params;
};
Operands prepare(const at::Tensor& student, const at::Tensor& teacher, bool with_gradient);

}  // namespace dna_fast::feature_mse
