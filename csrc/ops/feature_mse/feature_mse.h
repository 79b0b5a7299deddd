// Mean squared error between features, and its gradient, from one read of both.
#pragma once

#include <cstdint>

#include "common/cpu_target.h"

namespace dna_fast::feature_mse {

enum class Dtype { float32, bfloat16, float16, float64 };

struct Params {
    const void* student;  // [numel], student_dtype
    const void* teacher;  // [numel], teacher_dtype, in the student's order
    void* gradient;       // [numel], student_dtype: (student - teacher) * gradient_scale; null if nobody wants it
    std::int64_t numel;
    double gradient_scale;
    Dtype student_dtype, teacher_dtype;  // float64 on both sides or on neither
};

// Accumulated in float32 (float64 for float64), and only combined in double: the summands of one of kLanes accumulators
// are kChunk / kLanes = 256, which with the tree over the accumulators bounds the relative error by (256 + 5 + 2)
// 2^-24. The bits of the result depend on these two numbers only: not on instruction set or threads.
inline constexpr std::int64_t kChunk = 8192;
inline constexpr std::int64_t kLanes = 32;

inline std::int64_t chunks(std::int64_t numel) { return (numel + kChunk - 1) / kChunk; }

// Sum of squared differences over chunk number `chunk`, whose part of the gradient is written.
double chunk_sum(const Params& params, Isa isa, std::int64_t chunk);

}  // namespace dna_fast::feature_mse
