// What the words of csrc/common/cuda_*.cuh mean, in every order.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "buffer.h"
#include "driver.h"
#include "kernels/words.cuh"

namespace {

using namespace dna_fast::words;
using dna_fast::expect;
using dna_fast::cuda::Grid;
namespace host = dna_fast::cuda::host;

template <class T, class W>
void expect_equal(const char* what, std::int64_t at, T found, W wanted) {
    bool equal = found == wanted;
    if constexpr (std::is_floating_point_v<T>) equal = equal || (std::isnan(found) && std::isnan(wanted));
    expect(equal, what, "[", at, "]: expected ", wanted, ", got ", found);
}

void check_blocks() {
    const Grid grid{3, 4, 5};
    host::Buffer<int> numbers(3 * 4 * 5);
    dna_fast::cuda::launch(number_blocks, grid, kThreads, 0, nullptr, numbers.data());
    for (int i = 0; i < numbers.size(); ++i) expect_equal("blocks", i, numbers[i], i);
}

void check_shuffle() {
    host::Buffer<double> values(kThreads), d(32 * kThreads);
    host::Buffer<float> f(32 * kThreads);
    host::Buffer<std::uint32_t> u(32 * kThreads);
    for (int i = 0; i < kThreads; ++i) values[i] = i + 0.5;
    dna_fast::cuda::launch(shuffle, 1u, kThreads, nullptr, values.data(), f.data(), d.data(), u.data());
    for (int mask = 0; mask < 32; ++mask) {
        for (int thread = 0; thread < kThreads; ++thread) {
            const int at = mask * kThreads + thread, other = thread ^ mask;
            expect_equal("shuffle, float32", at, f[at], static_cast<float>(other) + 0.5f);
            expect_equal("shuffle, float64", at, d[at], other + 0.5);
            expect_equal("shuffle, uint32", at, u[at], std::bit_cast<std::uint32_t>(f[at]));
        }
    }
}

void check_shared() {
    host::Buffer<float> values(kThreads), in_block(kThreads), in_warp(kThreads);
    for (int i = 0; i < kThreads; ++i) values[i] = static_cast<float>(i);
    dna_fast::cuda::launch(hand_on, Grid{1, 1, 1}, kThreads, kThreads * sizeof(float), nullptr, values.data(),
                           in_block.data(), in_warp.data());
    for (int i = 0; i < kThreads; ++i) {
        expect_equal("in_block", i, in_block[i], static_cast<float>(kThreads - 1 - i));
        expect_equal("in_warp", i, in_warp[i], static_cast<float>(i ^ 31));
    }
}

void check_matrices() {
    host::Buffer<std::uint16_t> matrices(4 * 8 * 8);
    host::Buffer<std::uint32_t> rows(32 * 4), columns(32 * 4);
    const auto element = [](int m, int row, int column) { return static_cast<unsigned>(m * 64 + row * 8 + column); };
    for (int i = 0; i < 4 * 8 * 8; ++i) matrices[i] = static_cast<std::uint16_t>(i);
    dna_fast::cuda::launch(load_matrices, 1u, 32, nullptr, matrices.data(), rows.data(), columns.data());
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; ++m) {
            const int at = lane * 4 + m;
            expect_equal("rows", at, rows[at], element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16);
            expect_equal("columns", at, columns[at], element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16);
        }
    }
}

// Whole numbers, so that sums are exact, and different ones in the places of a lane.
int element_of_a(int row, int k) { return (row * 7 + k * 2) % 13 - 6; }
int element_of_b(int k, int column) { return (k * 5 + column * 2) % 7 - 3; }

void expect_product(const char* what, host::Buffer<float>& d, int depth) {
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
            int sum = 1;
            for (int k = 0; k < depth; ++k) sum += element_of_a(row, k) * element_of_b(k, column);
            expect_equal(what, row * 8 + column, d[row * 8 + column], static_cast<float>(sum));
        }
    }
}

template <class T>
void check_product(const char* what) {
    host::Buffer<std::uint16_t> a(16 * 16), b(16 * 8);
    host::Buffer<float> d(16 * 8);
    const auto bits = [](int value) {
        T stored;
        dna_fast::narrow(static_cast<float>(value), stored);
        return stored.bits;
    };
    for (int i = 0; i < a.size(); ++i) a[i] = bits(element_of_a(i / 16, i % 16));
    for (int i = 0; i < b.size(); ++i) b[i] = bits(element_of_b(i / 8, i % 8));
    dna_fast::cuda::launch(multiply<T>, 1u, 32, nullptr, a.data(), b.data(), d.data());
    expect_product(what, d, 16);
}

void check_products() {
    check_product<dna_fast::BFloat16>("product, bfloat16");
    check_product<dna_fast::Float16>("product, float16");
    host::Buffer<std::uint32_t> a(16 * 8), b(8 * 8);
    host::Buffer<float> d(16 * 8);
    const auto bits = [](int value) { return std::bit_cast<std::uint32_t>(static_cast<float>(value)) | 0x1abcu; };
    for (int i = 0; i < a.size(); ++i) a[i] = bits(element_of_a(i / 8, i % 8));  // the lowest 13 bits are not read
    for (int i = 0; i < b.size(); ++i) b[i] = bits(element_of_b(i / 8, i % 8));
    dna_fast::cuda::launch(multiply_tf32, 1u, 32, nullptr, a.data(), b.data(), d.data());
    expect_product("product, tf32", d, 8);
}

void check_copies() {
    host::Buffer<float> from(kThreads * 4), first(kThreads * 4), second(kThreads * 4);
    for (int i = 0; i < kThreads * 4; ++i) from[i] = static_cast<float>(i + 1);
    dna_fast::cuda::launch(copy, Grid{1, 1, 1}, kThreads, 2 * kThreads * 16, nullptr, from.data(), first.data(),
                           second.data());
    for (int i = 0; i < kThreads * 4; ++i) {
        const int other = kThreads - 1 - i / 4;
        const float wanted = other % 2 == 0 ? static_cast<float>(other * 4 + i % 4 + 1) : 0.0f;
        expect_equal("first", i, first[i], wanted);
        expect_equal("second", i, second[i], wanted);
    }
}

template <class T>
float rounded(float value) {
    T stored;
    dna_fast::narrow(value, stored);
    return dna_fast::widen(stored);
}

void check_within(const char* what, float argument, float found, double wanted, double error) {
    if (std::abs(wanted) < 0x1p-126) wanted = 0;  // subnormal
    expect(found == wanted || (std::isnan(found) && std::isnan(wanted)) ||
               std::abs(found - wanted) <= error * std::abs(wanted),
           what, "(", argument, "): expected ", wanted, ", got ", found);
}

void check_conversions() {
    constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
    // Ties of bfloat16, float16 and tf32; the largest of each; subnormals; then numbers of all sizes.
    host::Buffer<float> values(201);
    const float special[] = {0.0f,      -0.0f,           1.0f,       kInf,       -kInf,      kNan,
                             0x1.01p0f, 0x1.03p0f,       0x1.002p0f, 0x1.001p0f, 0x1.003p0f, 65504.0f,
                             65520.0f,  0x1.fffffep127f, 0x1p-24f,   0x1p-25f,   0x1p-140f,  -0x1p-140f,
                             -150.0f,   -126.5f,         127.9f,     129.0f};
    std::mt19937 random(1);
    for (float& value : values) {
        value = std::ldexp(static_cast<float>(random() >> 8) - 0x1p23f, -20 - static_cast<int>(random() % 16));
    }
    std::copy(std::begin(special), std::end(special), values.begin());
    const int count = static_cast<int>(values.size()) - 1;
    host::Buffer<float> exp2(count), reciprocal(count), bfloat16(2 * count), float16(2 * count);
    host::Buffer<std::uint32_t> tf32(count);
    dna_fast::cuda::launch(convert, static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, nullptr,
                           values.data(), count, exp2.data(), reciprocal.data(), tf32.data(), bfloat16.data(),
                           float16.data());
    for (int i = 0; i < count; ++i) {
        const float x = values[i];
        const double flushed = std::abs(x) < 0x1p-126f ? std::copysign(0.0, x) : x;
        const float largest = std::numeric_limits<float>::max();
        const double power = std::exp2(flushed);
        check_within("exp2_approximate", x, exp2[i], power > largest ? kInf : power, 0x1p-22);
        check_within("reciprocal_approximate", x, reciprocal[i], 1 / flushed, 0x1p-23);
        for (int half = 0; half < 2; ++half) {
            expect_equal("bfloat16", 2 * i + half, bfloat16[2 * i + half],
                         rounded<dna_fast::BFloat16>(values[i + half]));
            expect_equal("float16", 2 * i + half, float16[2 * i + half], rounded<dna_fast::Float16>(values[i + half]));
        }
        // To 11 bits, ties away from zero: half a unit up in size, then down to the unit.
        int exponent;
        const double fraction = std::frexp(std::abs(static_cast<double>(x)), &exponent);
        const double wanted = std::copysign(std::ldexp(std::floor(std::ldexp(fraction, 11) + 0.5), exponent - 11), x);
        if (std::abs(x) < 0x1p-126f) continue;  // a subnormal has fewer bits
        const bool is_finite = std::abs(wanted) <= largest;
        expect_equal("tf32", i, std::bit_cast<float>(tf32[i]),
                     is_finite || std::isnan(x) ? static_cast<float>(wanted) : std::copysign(kInf, x));
    }
}

}  // namespace

int main() {
    int checked = 0;
    for (const host::Order& order : host::all_orders()) {
        host::set_order(order);
        for (const auto& check : {check_blocks, check_shuffle, check_shared, check_matrices, check_products,
                                  check_copies, check_conversions}) {
            check();
            ++checked;
        }
    }
    std::cout << checked << " cases\n";
}
