// Which instruction set a CPU kernel runs with: chosen at run time, because a wheel must run everywhere.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dna_fast {

enum class Isa {
    scalar,
    avx2,
    avx512,
    avx512_bf16
};  // scalar: whatever the compiler assumes of every CPU of the platform

inline const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512_bf16:
            return "avx512_bf16";
        case Isa::scalar:
            break;
    }
    return "scalar";
}

inline bool cpu_has(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == Isa::avx512_bf16) return cpu_has(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
    if (isa == Isa::avx512) {
        return cpu_has(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return isa == Isa::scalar;
}

// The best that the CPU has, or the one that DNA_FAST_FORCE_ISA names. Throws std::runtime_error, in words, where
// that is none or none of this CPU. The environment is read at every call, so that one process can compare them.
inline Isa chosen_isa() {
    constexpr Isa best_first[] = {Isa::avx512_bf16, Isa::avx512, Isa::avx2, Isa::scalar};
    const char* forced = std::getenv("DNA_FAST_FORCE_ISA");
    if (forced == nullptr || *forced == '\0') {
        for (Isa isa : best_first) {
            if (cpu_has(isa)) return isa;
        }
        return Isa::scalar;
    }
    std::string available;
    for (Isa isa : best_first) {
        if (!cpu_has(isa)) continue;
        if (std::string(forced) == isa_name(isa)) return isa;
        available += (available.empty() ? "" : ", ") + std::string(isa_name(isa));
    }
    throw std::runtime_error("DNA_FAST_FORCE_ISA: expected one of " + available + " on this CPU, got \"" + forced +
                             "\"; unset it to take the first");
}

}  // namespace dna_fast

// One function, compiled for one instruction set. What it calls must be DNA_FAST_INLINE to be compiled with it.
#define DNA_FAST_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define DNA_FAST_TARGET_AVX2 [[gnu::target("avx2")]]
#if defined(__clang__)
#define DNA_FAST_TARGET_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]]
#else  // without the width, GCC keeps to 256 bits
#define DNA_FAST_TARGET_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]]
#endif
#else
#define DNA_FAST_TARGET_AVX2
#define DNA_FAST_TARGET_AVX512
#endif
