#include "fragments.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "common/low_precision.h"

namespace dna_fast::cuda::host {

namespace {

template <class T>
T& operand(void* const (&operands)[kWarp], unsigned lane) {
    return *static_cast<T*>(operands[lane]);
}

struct Matrix {
    std::uint16_t at[8][8];  // [row][column]
};

template <class Word>  // the word of a lane: (matrix, lane / 4, lane % 4) -> 32 bits
void load(void* const (&operands)[kWarp], const Word& word) {
    Matrix matrices[4];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        std::memcpy(matrices[lane / 8].at[lane % 8], operand<RowOperand>(operands, lane).row.data(), 16);
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        for (unsigned m = 0; m < 4; ++m) {
            operand<RowOperand>(operands, lane).to[m] = word(matrices[m], lane / 4, lane % 4);
        }
    }
}

std::uint32_t both(std::uint16_t low, std::uint16_t high) { return std::uint32_t{high} << 16 | low; }

float cut_off(double sum) {
    const float rounded = static_cast<float>(sum);
    return std::abs(static_cast<double>(rounded)) > std::abs(sum) ? std::nextafter(rounded, 0.0f) : rounded;
}

// d += a b of kDepth columns of a.
template <int kDepth>
void multiply(const float (&a)[16][kDepth], const float (&b)[kDepth][8], void* const (&operands)[kWarp]) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            float& d = operand<ProductOperand>(operands, lane).d[i];
            double sum = 0;
            for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
            d = cut_off(static_cast<double>(d) + sum);
        }
    }
}

template <class T>
void multiply_pairs(void* const (&operands)[kWarp]) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const ProductOperand& own = operand<ProductOperand>(operands, lane);
        const unsigned group = lane / 4, place = 2 * (lane % 4);
        for (unsigned half = 0; half < 2; ++half) {
            for (unsigned r = 0; r < 4; ++r) {
                a[group + 8 * (r % 2)][place + half + 8 * (r / 2)] =
                    widen(T{static_cast<std::uint16_t>(own.a[r] >> (16 * half))});
            }
            for (unsigned r = 0; r < 2; ++r) {
                b[place + half + 8 * r][group] = widen(T{static_cast<std::uint16_t>(own.b[r] >> (16 * half))});
            }
        }
    }
    multiply(a, b, operands);
}

}  // namespace

void load_matrices(void* const (&operands)[kWarp]) {
    load(operands, [](const Matrix& matrix, unsigned group, unsigned place) {
        return both(matrix.at[group][2 * place], matrix.at[group][2 * place + 1]);
    });
}

void load_matrices_transposed(void* const (&operands)[kWarp]) {
    load(operands, [](const Matrix& matrix, unsigned group, unsigned place) {
        return both(matrix.at[2 * place][group], matrix.at[2 * place + 1][group]);
    });
}

void multiply_bfloat16(void* const (&operands)[kWarp]) { multiply_pairs<BFloat16>(operands); }
void multiply_float16(void* const (&operands)[kWarp]) { multiply_pairs<Float16>(operands); }

void multiply_tf32(void* const (&operands)[kWarp]) {
    constexpr std::uint32_t kRead = ~std::uint32_t{0x1fff};
    float a[16][8], b[8][8];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const ProductOperand& own = operand<ProductOperand>(operands, lane);
        const unsigned group = lane / 4, place = lane % 4;
        for (unsigned r = 0; r < 4; ++r) {
            a[group + 8 * (r % 2)][place + 4 * (r / 2)] = std::bit_cast<float>(own.a[r] & kRead);
        }
        for (unsigned r = 0; r < 2; ++r) b[place + 4 * r][group] = std::bit_cast<float>(own.b[r] & kRead);
    }
    multiply(a, b, operands);
}

}  // namespace dna_fast::cuda::host
