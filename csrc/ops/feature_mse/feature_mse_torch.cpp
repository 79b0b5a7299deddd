// feature_mse for torch: checks, allocation; on the CPU, threads.
#include "feature_mse_torch.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include "common/layout.h"

namespace dna_fast::feature_mse {
namespace {

constexpr int64_t kChunksPerThread = 4;  // 32 Ki elements: torch's own grain for elementwise work

bool supported(at::ScalarType type) {
    return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble;
}

Dtype dtype_of(const at::Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case at::kBFloat16:
            return Dtype::bfloat16;
        case at::kHalf:
            return Dtype::float16;
        case at::kDouble:
            return Dtype::float64;
        default:
            return Dtype::float32;
    }
}

}  // namespace

void check(const at::Tensor& student, const at::Tensor& teacher) {
    TORCH_CHECK_VALUE(student.device() == teacher.device(),
                      "feature_mse: student and teacher must be on one device, got ", student.device(), " and ",
                      teacher.device(), "; call teacher.to(student.device)");
    for (const at::Tensor& tensor : {student, teacher}) {
        TORCH_CHECK_TYPE(supported(tensor.scalar_type()),
                         "feature_mse: expected float32, bfloat16, float16 or float64, got ", tensor.scalar_type(),
                         " (", tensor.is_same(student) ? "student" : "teacher", "); convert it, e.g. with .float()");
    }
    TORCH_CHECK_TYPE((student.scalar_type() == at::kDouble) == (teacher.scalar_type() == at::kDouble),
                     "feature_mse: float64 mixes with no other dtype, got student ", student.scalar_type(),
                     " and teacher ", teacher.scalar_type(), "; convert one of them with .double() or .float()");
    TORCH_CHECK_VALUE(student.sizes() == teacher.sizes(), "feature_mse: student and teacher must have one shape, got ",
                      student.sizes(), " and ", teacher.sizes(), "; nothing is broadcast, expand or adapt one of them");
    TORCH_CHECK_VALUE(student.numel() > 0, "feature_mse: expected at least one element, got shape ", student.sizes(),
                      "; the mean of nothing is not defined, leave empty batches out");
}

double gradient_scale(const at::Tensor& student) {
    return student.scalar_type() == at::kHalf ? 1.0 : 2.0 / static_cast<double>(student.numel());
}

at::ScalarType loss_type(const at::Tensor& student) {
    return student.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor no_gradient(const at::Tensor& student) { return at::empty({0}, student.options()); }

Operands prepare(const at::Tensor& student, const at::Tensor& teacher, bool with_gradient) {
    // The student's layout wins. Copies only where flat memory does not line up: of the teacher where it lies
    // otherwise, of the student where it has gaps.
    const at::Tensor s = same_dense_layout(student, student) ? student : at::empty_like(student).copy_(student);
    const at::Tensor t = same_dense_layout(s, teacher) ? teacher : at::empty_like(s, teacher.options()).copy_(teacher);
    const at::Tensor gradient = with_gradient ? at::empty_like(s) : no_gradient(s);
    const Params params{s.const_data_ptr(), t.const_data_ptr(), with_gradient ? gradient.mutable_data_ptr() : nullptr,
                        s.numel(),          gradient_scale(s),  dtype_of(s),
                        dtype_of(t)};
    return {s, t, gradient, params};
}

namespace {

LossAndGradient on_cpu(const at::Tensor& student, const at::Tensor& teacher, bool with_gradient) {
    check(student, teacher);
    const Operands operands = prepare(student, teacher, with_gradient);
    const Params& params = operands.params;

    const Isa isa = chosen_isa();
    const int64_t count = chunks(params.numel);
    const at::Tensor sums = at::empty({count}, student.options().dtype(at::kDouble));
    double* const sum_of = sums.mutable_data_ptr<double>();
    at::parallel_for(0, count, kChunksPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) sum_of[chunk] = chunk_sum(params, isa, chunk);
    });
    double sum = 0.0;
    for (int64_t chunk = 0; chunk < count; ++chunk) sum += sum_of[chunk];  // in order, whoever computed them

    const double mean = sum / static_cast<double>(params.numel);
    return {at::scalar_tensor(mean, student.options().dtype(loss_type(student))), operands.gradient};
}

}  // namespace

TORCH_LIBRARY_IMPL(dna_fast, CPU, m) { m.impl("feature_mse", &on_cpu); }

}  // namespace dna_fast::feature_mse
