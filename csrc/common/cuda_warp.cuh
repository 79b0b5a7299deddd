// What the 32 lanes of a warp do together: barrier, shuffles, matrix fragments. Every function here must be reached by
// all lanes of the warp at the same place of the program. Compute capability 8.0 or newer.
//
// Fragments are laid out as the PTX ISA says of mma and ldmatrix; with g = lane / 4 and t = lane % 4 a lane holds
//     of d [16][8], float32:  d[0], d[1]: row g, columns 2t, 2t + 1; d[2], d[3]: row g + 8
//     of a [16][16], 16 bits: a[0]: row g, columns 2t, 2t + 1; a[1]: row g + 8; a[2], a[3]: 8 columns further
//     of b [16][8], 16 bits:  b[0]: rows 2t, 2t + 1, column g; b[1]: 8 rows further
//     of a [16][8], tf32:     a[0]: row g, column t; a[1]: row g + 8; a[2], a[3]: 4 columns further
//     of b [8][8], tf32:      b[0]: row t, column g; b[1]: 4 rows further
#pragma once

#include "common/cuda_utils.cuh"

namespace dna_fast::cuda {

// Barrier of the warp: what a lane wrote before it, the others may read after it.
__device__ inline void sync_warp() { __syncwarp(); }

// The value of lane `own lane ^ lane_mask`.
__device__ inline float shuffle_xor(float value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}
__device__ inline double shuffle_xor(double value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}
__device__ inline std::uint32_t shuffle_xor(std::uint32_t value, int lane_mask) {
    return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// Four matrices of 8 rows of 16 bytes. Lane l names row l % 8 of matrix l / 8, in shared memory, aligned to 16 bytes;
// it gets, of each matrix, word t of row g: an a, or two b, if the rows are those of a, or the columns of b.
__device__ inline void load_matrix_x4(std::uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed matrices of 16-bit elements: a lane gets elements 2t, 2t + 1 of column g.
__device__ inline void load_matrix_x4_transposed(std::uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b
__device__ inline void multiply_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                         BFloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                         Float16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same in tf32: float32 of which the lowest 13 bits are not read. to_tf32 rounds to such a number, to nearest, ties
// away from zero; without it they are cut off.
__device__ inline void multiply_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline std::uint32_t to_tf32(float value) {
    std::uint32_t word;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
    return word;
}

}  // namespace dna_fast::cuda
