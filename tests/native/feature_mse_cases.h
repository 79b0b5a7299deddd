// Every case of feature_mse for an implementation behind one call, against a loop in double. Each buffer is exactly as
// large as it must be, so that AddressSanitizer sees one element too many.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "common/low_precision.h"
#include "driver.h"
#include "ops/feature_mse/feature_mse.h"

namespace dna_fast::feature_mse {

// An error made on purpose: does the sanitizer look into the implementation? By a buffer, not by a bug compiled in, so
// that it is the checked code itself that errs.
enum class Planted { nothing, short_gradient, short_student, misaligned };

inline Planted planted(int argc, char** argv) {
    if (argc == 1) return Planted::nothing;
    const std::string_view word = argv[1];
    if (word == "short_gradient") return Planted::short_gradient;
    if (word == "short_student") return Planted::short_student;
    expect(word == "misaligned", "expected short_gradient, short_student, misaligned or nothing, got ", word);
    return Planted::misaligned;
}

struct Case {
    Dtype student, teacher;
    bool with_gradient;
    std::int64_t numel;
    int offset = 0;  // of all buffers against their allocation, in elements
};

inline std::ostream& operator<<(std::ostream& out, const Case& test) {
    constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "float64"};
    return out << kNames[static_cast<int>(test.student)] << " - " << kNames[static_cast<int>(test.teacher)] << ", "
               << test.numel << " elements at offset " << test.offset << (test.with_gradient ? ", gradient" : "");
}

inline std::vector<Case> cases(std::span<const std::int64_t> sizes, std::span<const int> offsets) {
    std::vector<Case> all;
    constexpr Dtype kLow[] = {Dtype::float32, Dtype::bfloat16, Dtype::float16};
    for (bool gradient : {false, true}) {
        for (std::int64_t numel : sizes) {
            for (int offset : offsets) {
                for (Dtype student : kLow) {
                    for (Dtype teacher : kLow) all.push_back({student, teacher, gradient, numel, offset});
                }
                all.push_back({Dtype::float64, Dtype::float64, gradient, numel, offset});
            }
        }
    }
    return all;
}

inline std::size_t bytes_of(Dtype dtype) {
    constexpr std::size_t kBytes[] = {4, 2, 2, 8};
    return kBytes[static_cast<int>(dtype)];
}

// Memory for exactly `numel` elements from `offset` on; what lies before belongs to it, too.
class Buffer {
  public:
    Buffer(Dtype dtype, std::int64_t numel, int offset)
        : dtype_(dtype),
          numel_(numel),
          begin_(offset * bytes_of(dtype)),
          bytes_(new std::byte[begin_ + static_cast<std::size_t>(numel) * bytes_of(dtype)]) {
        std::memset(bytes_.get(), 0xff, begin_ + static_cast<std::size_t>(numel) * bytes_of(dtype));  // NaN in all four
    }

    void* data(std::size_t skew = 0) { return bytes_.get() + begin_ - skew; }
    std::int64_t numel() const { return numel_; }

    double get(std::int64_t i) const {
        switch (dtype_) {
            case Dtype::float32:
                return read<float>(i);
            case Dtype::bfloat16:
                return widen(read<BFloat16>(i));
            case Dtype::float16:
                return widen(read<Float16>(i));
            case Dtype::float64:
                break;
        }
        return read<double>(i);
    }

    // Rounded to the dtype.
    void set(std::int64_t i, double value) {
        switch (dtype_) {
            case Dtype::float32:
                return write<float>(i, static_cast<float>(value));
            case Dtype::bfloat16:
                return write<BFloat16>(i, static_cast<float>(value));
            case Dtype::float16:
                return write<Float16>(i, static_cast<float>(value));
            case Dtype::float64:
                return write<double>(i, value);
        }
    }

  private:
    template <class T>
    T read(std::int64_t i) const {
        T value;
        std::memcpy(&value, bytes_.get() + begin_ + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
        return value;
    }
    template <class T, class V>
    void write(std::int64_t i, V value) {
        T result;
        narrow(value, result);
        std::memcpy(bytes_.get() + begin_ + static_cast<std::size_t>(i) * sizeof(T), &result, sizeof(T));
    }

    Dtype dtype_;
    std::int64_t numel_;
    std::size_t begin_;
    std::unique_ptr<std::byte[]> bytes_;
};

// Runs `sum_of(params)`, the sum of squared differences, on one case; `name` is the implementation's.
template <class Sum>
void check(const Case& test, Planted planted, const char* name, const Sum& sum_of) {
    const bool is_double = test.student == Dtype::float64;
    Buffer student(test.student, test.numel - (planted == Planted::short_student), test.offset);
    Buffer teacher(test.teacher, test.numel, test.offset);
    Buffer gradient(test.student, test.with_gradient ? test.numel - (planted == Planted::short_gradient) : 0,
                    test.offset);
    std::mt19937 random(static_cast<unsigned>(test.numel));
    const auto draw = [&] { return (static_cast<double>(random()) - 0x1p31) * 0x1p-30; };  // in [-2, 2)
    for (std::int64_t i = 0; i < student.numel(); ++i) student.set(i, draw());
    for (std::int64_t i = 0; i < teacher.numel(); ++i) teacher.set(i, draw());

    const double scale = test.student == Dtype::float16 ? 1.0 : 2.0 / static_cast<double>(test.numel);
    const double sum =
        sum_of(Params{student.data(planted == Planted::misaligned), teacher.data(),
                      test.with_gradient ? gradient.data() : nullptr, test.numel, scale, test.student, test.teacher});
    expect(planted == Planted::nothing, name, ", ", test, ": expected a sanitizer to end this, planted an error");

    const double unit = is_double ? 0x1p-53 : 0x1p-24;
    // Half an ulp of storage: 8, 11, 24 and 53 significant bits. float16 loses more below its smallest normal.
    constexpr double kHalfUlp[] = {0x1p-24, 0x1p-8, 0x1p-11, 0x1p-53};
    const double tiny = test.student == Dtype::float16 ? 0x1p-25 : 0.0;
    double exact = 0;
    for (std::int64_t i = 0; i < test.numel; ++i) {
        const double difference = student.get(i) - teacher.get(i);
        exact += difference * difference;
        if (!test.with_gradient) continue;
        const double wanted = difference * scale, error = std::abs(gradient.get(i) - wanted);
        // Roundings: of the difference, the scale and their product, and to storage.
        expect(error <= (4 * unit + kHalfUlp[static_cast<int>(test.student)]) * std::abs(wanted) + tiny, name, ", ",
               test, ": gradient ", i, ": expected ", wanted, ", got ", gradient.get(i));
    }
    // Two roundings of the difference (squared), one of the square, at most kChunk / kLanes + 5 additions within a
    // chunk, one of the mean; in float64 as many as there are elements, on either side.
    const double depth = is_double ? 2.0 * static_cast<double>(test.numel) : static_cast<double>(kChunk / kLanes + 5);
    expect(std::abs(sum - exact) <= (depth + 4) * unit * exact, name, ", ", test, ": expected the sum ", exact,
           ", got ", sum);
}

}  // namespace dna_fast::feature_mse
