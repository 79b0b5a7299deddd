// Floats as integers that compare alike, so that losses and costs are columns of one int64 matrix, and the exact
// inverse of a rounded addition.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace dna_fast {

// Strictly monotone map of finite doubles and infinities to int64; -0.0 and 0.0 get one key, as they compare equal.
inline int64_t to_key(double value) {
    const auto bits = std::bit_cast<int64_t>(value + 0.0);
    return bits ^ ((bits >> 63) & std::numeric_limits<int64_t>::max());
}

inline double from_key(int64_t key) {
    return std::bit_cast<double>(key ^ ((key >> 63) & std::numeric_limits<int64_t>::max()));
}

// The next smaller double.
inline double below(double value) { return from_key(to_key(value) - 1); }

// The largest prefix p with fl(p + loss) <= limit. fl(p + loss) never falls when p grows, so the set of such p is a
// half-line and galloping, then bisecting, over the keys finds its end exactly; usually limit - loss is a step away.
inline double largest_prefix(double limit, double loss) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const int64_t lowest = to_key(-infinity), highest = to_key(infinity);
    const auto fits = [&](int64_t key) { return from_key(key) + loss <= limit; };
    int64_t inside = to_key(limit - loss);
    int64_t outside = inside;
    if (fits(inside)) {
        for (int64_t step = 1;; step *= 2) {
            outside = inside < highest - step ? inside + step : highest;
            if (!fits(outside)) break;
            inside = outside;
        }
    } else {
        for (int64_t step = 1;; step *= 2) {
            inside = outside > lowest + step ? outside - step : lowest;
            if (fits(inside)) break;
            outside = inside;
        }
    }
    while (outside - inside > 1) {
        const int64_t middle = inside + (outside - inside) / 2;
        (fits(middle) ? inside : outside) = middle;
    }
    return from_key(inside);
}

}  // namespace dna_fast
