// The depthwise convolution's CPU kernels: every kernel, stride, dtype and instruction set of this CPU against loops in
// double. Each buffer is exactly as large as it must be, so that AddressSanitizer sees one element too many.
#include <cmath>
#include <random>
#include <string_view>
#include <vector>

#include "common/low_precision.h"
#include "driver.h"
#include "ops/depthwise/depthwise.h"

namespace dna_fast::depthwise {

static std::ostream& operator<<(std::ostream& out, const Shape& s) {
    return out << s.images << "x" << s.channels << "x" << s.height << "x" << s.width << " k" << s.kernel << " s"
               << s.stride << " pads " << s.pad_top << ", " << s.pad_left;
}

namespace {

template <class S>
std::vector<S> drawn(std::int64_t count, std::mt19937& random) {
    std::vector<S> values(static_cast<std::size_t>(count));
    for (S& value : values) narrow((static_cast<float>(random() >> 8) - 0x1p23f) * 0x1p-22f, value);  // in [-2, 2)
    values.shrink_to_fit();
    return values;
}

// Calls visit(y's index, x's index, weight's index) for every product.
template <class Visit>
void each_product(const Shape& s, const Visit& visit) {
    const std::int64_t k = s.kernel;
    for (std::int64_t n = 0; n < s.images; ++n) {
        for (std::int64_t at = 0; at < s.out_rows * s.out_cols * k * k; ++at) {
            const std::int64_t tap = at % (k * k), q = at / (k * k) / s.out_cols, r = at / (k * k) % s.out_cols;
            const std::int64_t h = q * s.stride + tap / k - s.pad_top, w = r * s.stride + tap % k - s.pad_left;
            if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
            const std::int64_t y = ((n * s.out_rows + q) * s.out_cols + r) * s.channels;
            const std::int64_t x = ((n * s.height + h) * s.width + w) * s.channels;
            for (std::int64_t c = 0; c < s.channels; ++c) visit(y + c, x + c, c * k * k + tap);
        }
    }
}

struct Sums {
    std::vector<double> value, magnitude;
    explicit Sums(std::int64_t count) : value(static_cast<std::size_t>(count)), magnitude(value) {}
    void add(std::int64_t i, double product) {
        value[static_cast<std::size_t>(i)] += product;
        magnitude[static_cast<std::size_t>(i)] += std::abs(product);
    }
};

// At most `depth` additions in float32, and a rounding to storage.
template <class S>
void expect_close(const S* got, const Sums& exact, double depth, const char* what, const char* isa, const Shape& s) {
    const double half_ulp = sizeof(S) == 4 ? 0x1p-24 : 0x1p-8;
    for (std::size_t i = 0; i < exact.value.size(); ++i) {
        const double error = std::abs(widen(got[i]) - exact.value[i]);
        const double bound = (depth + 1) * 0x1p-24 * exact.magnitude[i] + half_ulp * std::abs(exact.value[i]);
        expect(error <= bound, isa, ", ", s, ", ", what, " ", i, ": expected ", exact.value[i], ", got ",
               widen(got[i]));
    }
}

template <class S>
void check(const Shape& s, Isa isa, bool short_result) {
    const Kernels& of = kernels(isa, sizeof(S) == 4 ? Dtype::float32 : Dtype::bfloat16);
    std::mt19937 random(static_cast<unsigned>(s.width * s.kernel));
    const std::int64_t x_count = s.images * s.height * s.width * s.channels;
    const std::int64_t y_count = s.images * s.out_rows * s.out_cols * s.channels, taps = s.channels * s.taps();
    const std::vector<S> x = drawn<S>(x_count, random), dy = drawn<S>(y_count, random);
    const std::vector<float> weights = drawn<float>(taps, random);
    std::vector<S> y(static_cast<std::size_t>(y_count - short_result)), dx(x.size());
    std::vector<float> dw(weights.size()), forward(static_cast<std::size_t>(s.vectors() * packed_floats(s)));
    std::vector<float> backward(forward.size());
    std::vector<float> sums(forward.size() * static_cast<std::size_t>(parts(s).count()));
    std::vector<float> scratch(static_cast<std::size_t>(scratch_floats(s)));
    for (std::int64_t vector = 0; vector < s.vectors(); ++vector) {
        pack_forward(s, weights.data(), vector, forward.data() + vector * packed_floats(s));
        pack_backward(s, weights.data(), vector, backward.data() + vector * packed_floats(s));
        for (std::int64_t image = 0; image < s.images; ++image) {
            of.forward({s, x.data(), nullptr, y.data(), forward.data(), nullptr}, image, vector, scratch.data());
            of.input_gradient({s, nullptr, dy.data(), dx.data(), backward.data(), nullptr}, image, vector,
                              scratch.data());
        }
        for (std::int64_t part = 0; part < parts(s).count(); ++part)
            of.weight_gradient({s, x.data(), dy.data(), nullptr, nullptr, sums.data()}, part, vector, scratch.data());
        add_parts(s, sums.data(), vector, dw.data());
    }
    expect(!short_result, isa_name(isa), ", ", s, ": expected a sanitizer to end this, planted an error");
    Sums of_y(y_count), of_x(x_count), of_weights(taps);
    each_product(s, [&](std::int64_t i, std::int64_t j, std::int64_t t) {
        const double g = widen(dy[static_cast<std::size_t>(i)]), p = widen(x[static_cast<std::size_t>(j)]);
        of_y.add(i, p * weights[static_cast<std::size_t>(t)]);
        of_x.add(j, g * weights[static_cast<std::size_t>(t)]);
        of_weights.add(t, g * p);
    });
    const double depth = static_cast<double>(s.taps()),
                 pixels = static_cast<double>(s.images * s.out_rows * s.out_cols);
    expect_close(y.data(), of_y, depth, "y", isa_name(isa), s);
    expect_close(dx.data(), of_x, depth, "dx", isa_name(isa), s);
    expect_close(dw.data(), of_weights, pixels, "dw", isa_name(isa), s);
}

Shape shape(std::int64_t images, std::int64_t channels, std::int64_t size, std::int64_t kernel, std::int64_t stride,
            std::int64_t before, std::int64_t behind) {
    const std::int64_t rows = (size + before + behind - kernel) / stride + 1;
    const std::int64_t cols = (size + 3 + before + behind - kernel) / stride + 1;
    return {images, channels, size, size + 3, rows, cols, kernel, stride, before, before};
}

}  // namespace
}  // namespace dna_fast::depthwise

int main(int argc, char** argv) {
    using namespace dna_fast;
    using namespace dna_fast::depthwise;
    const bool short_result = argc > 1;
    expect(argc == 1 || std::string_view(argv[1]) == "short_result", "expected short_result or nothing, got ", argv[1]);
    int checked = 0;
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (!cpu_has(isa)) continue;
        for (std::int64_t kernel : {3, 5, 7}) {
            for (std::int64_t stride : {1, 2}) {
                // Channels around the vectors; one pixel; no padding, SAME's sides, more than the kernel.
                for (const Shape& s :
                     {shape(1, 16, 7, kernel, stride, 0, 0), shape(9, 5, 8, kernel, stride, kernel / 2 - 1, kernel / 2),
                      shape(2, 35, 14, kernel, stride, kernel / 2, kernel / 2),
                      shape(1, 1, 1, kernel, stride, kernel + 1, kernel + 2)}) {
                    check<float>(s, isa, short_result);
                    check<BFloat16>(s, isa, short_result);
                    checked += 2;
                }
            }
        }
    }
    std::cout << checked << " cases\n";
}
