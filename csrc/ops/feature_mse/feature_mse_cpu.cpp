// feature_mse on one slice, by one thread.
//
// Computes: sum (s - t)^2 and, if wanted, (s - t) * gradient_scale, both from the same registers. Bound by memory: 8
// bytes read and 4 written per float32 element, against five operations. So the loop is plain C++ over kLanes
// independent accumulators; the compiler vectorises it for each instruction set, and no set may contract a product into
// a sum, which keeps the bits equal among them. Assumes: both sides dense in the same order, checked by the caller.
// Synchronises nothing.
#include <algorithm>
#include <cassert>

#include "common/low_precision.h"
#include "feature_mse.h"

namespace dna_fast::feature_mse {
namespace {

template <class S, class T, bool kGradient>
DNA_FAST_INLINE double slice_sum(const S* __restrict student, const T* __restrict teacher, S* __restrict gradient,
                                 std::int64_t numel, double gradient_scale) {
    using Acc = decltype(widen(S{}));
    const Acc scale = static_cast<Acc>(gradient_scale);
    Acc sums[kLanes] = {};
    const auto accumulate = [&](std::int64_t i, std::int64_t lane) __attribute__((always_inline)) {
        const Acc difference = widen(student[i + lane]) - widen(teacher[i + lane]);
        sums[lane] += difference * difference;
        if constexpr (kGradient) narrow(difference * scale, gradient[i + lane]);
    };
    std::int64_t i = 0;
    for (; i + kLanes <= numel; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) accumulate(i, lane);
    }
    for (std::int64_t lane = 0; i + lane < numel; ++lane) accumulate(i, lane);
    for (std::int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (std::int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    }
    return sums[0];
}

// The same text for each instruction set.
template <class S, class T, bool kGradient>
double slice_scalar(const S* student, const T* teacher, S* gradient, std::int64_t numel, double scale) {
    return slice_sum<S, T, kGradient>(student, teacher, gradient, numel, scale);
}
template <class S, class T, bool kGradient>
DNA_FAST_TARGET_AVX2 double slice_avx2(const S* student, const T* teacher, S* gradient, std::int64_t numel,
                                       double scale) {
    return slice_sum<S, T, kGradient>(student, teacher, gradient, numel, scale);
}
template <class S, class T, bool kGradient>
DNA_FAST_TARGET_AVX512 double slice_avx512(const S* student, const T* teacher, S* gradient, std::int64_t numel,
                                           double scale) {
    return slice_sum<S, T, kGradient>(student, teacher, gradient, numel, scale);
}

template <class S, class T, bool kGradient>
double on_isa(const Params& params, Isa isa, std::int64_t begin, std::int64_t numel) {
    const S* student = static_cast<const S*>(params.student) + begin;
    const T* teacher = static_cast<const T*>(params.teacher) + begin;
    S* gradient = nullptr;
    if constexpr (kGradient) gradient = static_cast<S*>(params.gradient) + begin;
    switch (isa) {
        case Isa::avx512_bf16:  // its products of bfloat16 pairs are of no use here
        case Isa::avx512:
            return slice_avx512<S, T, kGradient>(student, teacher, gradient, numel, params.gradient_scale);
        case Isa::avx2:
            return slice_avx2<S, T, kGradient>(student, teacher, gradient, numel, params.gradient_scale);
        case Isa::scalar:
            break;
    }
    return slice_scalar<S, T, kGradient>(student, teacher, gradient, numel, params.gradient_scale);
}

template <class S, class T>
double with_types(const Params& params, Isa isa, std::int64_t begin, std::int64_t numel) {
    return params.gradient == nullptr ? on_isa<S, T, false>(params, isa, begin, numel)
                                      : on_isa<S, T, true>(params, isa, begin, numel);
}

template <class S>
double with_student(const Params& params, Isa isa, std::int64_t begin, std::int64_t numel) {
    switch (params.teacher_dtype) {
        case Dtype::bfloat16:
            return with_types<S, BFloat16>(params, isa, begin, numel);
        case Dtype::float16:
            return with_types<S, Float16>(params, isa, begin, numel);
        case Dtype::float32:
        case Dtype::float64:  // refused at the border
            break;
    }
    assert(params.teacher_dtype == Dtype::float32);
    return with_types<S, float>(params, isa, begin, numel);
}

}  // namespace

double chunk_sum(const Params& params, Isa isa, std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk, numel = std::min(kChunk, params.numel - begin);
    assert(chunk >= 0 && numel > 0);
    switch (params.student_dtype) {
        case Dtype::bfloat16:
            return with_student<BFloat16>(params, isa, begin, numel);
        case Dtype::float16:
            return with_student<Float16>(params, isa, begin, numel);
        case Dtype::float64:
            assert(params.teacher_dtype == Dtype::float64);
            return with_types<double, double>(params, isa, begin, numel);
        case Dtype::float32:
            break;
    }
    return with_student<float>(params, isa, begin, numel);
}

}  // namespace dna_fast::feature_mse
