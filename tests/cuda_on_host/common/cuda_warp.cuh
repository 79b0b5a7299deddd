// Takes the place of csrc/common/cuda_warp.cuh where a kernel is compiled for the CPU: the same names.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/cuda_utils.cuh"
#include "driver.h"
#include "fragments.h"

namespace dna_fast::cuda {

inline void sync_warp(const host::Site& site = host::Site::current()) {
    host::wait_for_warp("sync_warp", [](void* const(&)[host::kWarp]) {}, nullptr, site);
}

template <class T>
struct ShuffleOperand {
    T value, result;
    unsigned from;
};
template <class T>
void exchange(void* const (&operands)[host::kWarp]) {
    using Operand = ShuffleOperand<T>;
    for (void* const operand : operands) {
        Operand& own = *static_cast<Operand*>(operand);
        own.result = static_cast<const Operand*>(operands[own.from])->value;
    }
}
template <class T>
T shuffle_xor(T value, int lane_mask, const host::Site& site = host::Site::current()) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, std::uint32_t>);
    expect(lane_mask >= 0 && lane_mask < static_cast<int>(host::kWarp), host::Here{}, ": shuffle_xor by ", lane_mask);
    ShuffleOperand<T> operand{value, {}, (threadIdx.x % host::kWarp) ^ static_cast<unsigned>(lane_mask)};
    host::wait_for_warp("shuffle_xor", exchange<T>, &operand, site);
    return operand.result;
}

// The row is read when its lane comes, be the others there or not: like a shuffle, this is no barrier for memory.
inline void load_matrix_rows(std::uint32_t (&to)[4], const void* row, const char* name, host::Combine combine,
                             const host::Site& site) {
    host::expect_in_shared(name, row);
    host::RowOperand operand{{}, to};
    std::memcpy(operand.row.data(), row, operand.row.size());
    host::wait_for_warp(name, combine, &operand, site);
}
inline void load_matrix_x4(std::uint32_t (&to)[4], const void* row, const host::Site& site = host::Site::current()) {
    load_matrix_rows(to, row, "load_matrix_x4", host::load_matrices, site);
}
inline void load_matrix_x4_transposed(std::uint32_t (&to)[4], const void* row,
                                      const host::Site& site = host::Site::current()) {
    load_matrix_rows(to, row, "load_matrix_x4_transposed", host::load_matrices_transposed, site);
}

inline void multiply_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], BFloat16,
                              const host::Site& site = host::Site::current()) {
    host::ProductOperand operand{d, a, b};
    host::wait_for_warp("multiply_m16n8k16", host::multiply_bfloat16, &operand, site);
}
inline void multiply_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Float16,
                              const host::Site& site = host::Site::current()) {
    host::ProductOperand operand{d, a, b};
    host::wait_for_warp("multiply_m16n8k16", host::multiply_float16, &operand, site);
}
inline void multiply_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                  const host::Site& site = host::Site::current()) {
    host::ProductOperand operand{d, a, b};
    host::wait_for_warp("multiply_m16n8k8_tf32", host::multiply_tf32, &operand, site);
}

inline std::uint32_t to_tf32(float value) {
    if (std::isnan(value)) return 0x7fffffffu;
    return (std::bit_cast<std::uint32_t>(value) + 0x1000u) & ~std::uint32_t{0x1fff};  // a carry rounds up to infinity
}

}  // namespace dna_fast::cuda
