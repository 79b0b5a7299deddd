// What this processor can do at most: one line of JSON, for the bounds that benchmarks are held against.
//
//   clock_ghz     of one core under vector load, from a chain of additions that take one cycle each
//   fp32_gflops   fused multiply-adds in registers, all threads; widest vectors that this file is compiled for
//   bf16_gflops   the same with bfloat16 dot products; 0 where there are none
//
// Registers only: no memory, no dependence closer than the latency of an FMA. Compile with -O2 -march=native -pthread.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Variables of their own, because an array would live in memory. More than latency (4 cycles) x units (2), fewer than
// the 16 registers of AVX2.
#define EACH_CHAIN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
constexpr int kChains = 12;
constexpr std::int64_t kRepeats = 4'000'000;
constexpr int kTrials = 7;  // the best of them: whatever else the machine does can only slow one down

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

#if defined(__AVX512F__)
using Vector = __m512;
constexpr int kLanes = 16;
Vector broadcast(float value) { return _mm512_set1_ps(value); }
Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__FMA__)
using Vector = __m256;
constexpr int kLanes = 8;
Vector broadcast(float value) { return _mm256_set1_ps(value); }
Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
using Vector = float;
constexpr int kLanes = 1;
Vector broadcast(float value) { return value; }
Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
#endif

// The empty assembly keeps a value in its register and unknown to the compiler, which could otherwise solve the loop.
template <typename T>
void keep(T& value) {
#if defined(__x86_64__)
    asm volatile("" : "+v"(value));
#else
    asm volatile("" : "+w"(value));
#endif
}

void run_fp32() {
#define START(i) Vector sum##i = broadcast(0.0F);
    EACH_CHAIN(START)
#undef START
    Vector a = broadcast(0.5F);
    Vector b = broadcast(0.25F);
    keep(a);
    keep(b);
    for (std::int64_t i = 0; i < kRepeats; ++i) {
#define STEP(i)                 \
    sum##i = fma(a, b, sum##i); \
    keep(sum##i);
        EACH_CHAIN(STEP)
#undef STEP
    }
}

#if defined(__AVX512BF16__)
constexpr int kBf16Flops = 64;  // 16 lanes x 2 products x (multiply, add)
void run_bf16() {
#define START(i) __m512 sum##i = _mm512_setzero_ps();
    EACH_CHAIN(START)
#undef START
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5F), _mm512_set1_ps(0.5F));
    __m512bh b = a;
    keep(a);
    keep(b);
    for (std::int64_t i = 0; i < kRepeats; ++i) {
#define STEP(i)                              \
    sum##i = _mm512_dpbf16_ps(sum##i, a, b); \
    keep(sum##i);
        EACH_CHAIN(STEP)
#undef STEP
    }
}
#else
constexpr int kBf16Flops = 0;
void run_bf16() {}
#endif

double seconds_of(void (*run)(), int threads) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> team;
    for (int t = 1; t < threads; ++t) team.emplace_back(run);
    run();
    for (std::thread& member : team) member.join();
    return seconds_since(start);
}

double clock_ghz() {
    constexpr std::int64_t additions = 80'000'000;
    const auto start = std::chrono::steady_clock::now();
    std::int64_t value = 0;
    for (std::int64_t i = 0; i < additions / 8; ++i) {
#pragma GCC unroll 8
        for (int step = 0; step < 8; ++step) {
            value += step + 1;
            asm volatile("" : "+r"(value));
        }
    }
    return static_cast<double>(additions) / seconds_since(start) * 1e-9;
}

}  // namespace

int main(int count, char** arguments) {
    const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
    if (threads < 1) {
        std::fprintf(stderr, "peak: expected a number of threads >= 1, got %s\n", arguments[1]);
        return 1;
    }
    const double work = static_cast<double>(kRepeats) * kChains * threads * 1e-9;
    double ghz = 0.0;
    double fp32 = 0.0;
    double bf16 = 0.0;
    for (int trial = 0; trial < kTrials; ++trial) {
        fp32 = std::max(fp32, work * kLanes * 2 / seconds_of(run_fp32, threads));
        ghz = std::max(ghz, clock_ghz());  // right behind vector load, which can lower the clock
        if (kBf16Flops > 0) bf16 = std::max(bf16, work * kBf16Flops / seconds_of(run_bf16, threads));
    }
    std::printf("{\"clock_ghz\": %.4f, \"fp32_gflops\": %.2f, \"bf16_gflops\": %.2f, \"lanes\": %d}\n", ghz, fp32, bf16,
                kLanes);
    return 0;
}
