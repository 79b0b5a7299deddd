// Matrix fragments: what the lanes of a warp hand over to wait_for_warp(), and what becomes of it. The layouts are the
// PTX ISA's, and written out in csrc/common/cuda_warp.cuh.
#pragma once

#include <array>
#include <cstdint>

#include "machine.h"

namespace dna_fast::cuda::host {

struct RowOperand {
    std::array<unsigned char, 16> row;
    std::uint32_t* to;  // [4]
};
void load_matrices(void* const (&operands)[kWarp]);             // RowOperand
void load_matrices_transposed(void* const (&operands)[kWarp]);  // RowOperand

struct ProductOperand {
    float* d;                // [4]
    const std::uint32_t* a;  // [4]
    const std::uint32_t* b;  // [2]
};
// d += a b, each sum exact (but for float64's rounding) and then cut off to float32. GPUs cut off, too, rather than
// round, at least once per instruction: a tolerance must allow for it.
void multiply_bfloat16(void* const (&operands)[kWarp]);  // ProductOperand
void multiply_float16(void* const (&operands)[kWarp]);   // ProductOperand
void multiply_tf32(void* const (&operands)[kWarp]);      // ProductOperand

}  // namespace dna_fast::cuda::host
