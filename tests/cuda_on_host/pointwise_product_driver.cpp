// The product of kernels/pointwise_product.cuh against a loop in double, in every order; or with one of its faults.
#include <cmath>
#include <string_view>
#include <vector>

#include "buffer.h"
#include "driver.h"
#include "kernels/pointwise_product.cuh"

namespace {

using namespace dna_fast::pointwise_product;
using dna_fast::expect;
using dna_fast::cuda::BFloat16;
using dna_fast::cuda::Float16;
namespace host = dna_fast::cuda::host;

struct Shape {
    int rows, columns, depth;
};
// One block, partly outside in all dimensions; several, with a last one that has a single row and group.
constexpr Shape kShapes[] = {{17, 16, 24}, {64, 32, 64}, {129, 72, 136}};

template <class T>
constexpr double kRounding = std::is_same_v<T, float> ? 0x1p-11 : 0;  // to tf32; what is stored in 16 bits is exact

template <class T, bool kTransposed, Fault kFault>
int check(const Shape& shape, const char* name) {
    std::mt19937 random(static_cast<unsigned>(shape.rows));
    const auto numel = [](int a, int b) { return std::int64_t{a} * b; };
    host::Buffer<T> x(numel(shape.rows, shape.depth)), w(numel(shape.columns, shape.depth));
    host::Buffer<float> y(numel(shape.rows, shape.columns));
    x.draw(random);
    w.draw(random);
    std::vector<double> wanted, size;  // sum of x w, and of its absolute value
    for (int r = 0; r < shape.rows; ++r) {
        for (int c = 0; c < shape.columns; ++c) {
            double sum = 0, absolute = 0;
            for (int k = 0; k < shape.depth; ++k) {
                const std::int64_t at = kTransposed ? numel(k, shape.columns) + c : numel(c, shape.depth) + k;
                const double product = static_cast<double>(dna_fast::widen(x[numel(r, shape.depth) + k])) *
                                       static_cast<double>(dna_fast::widen(w[at]));
                sum += product;
                absolute += std::abs(product);
            }
            wanted.push_back(sum);
            size.push_back(absolute);
        }
    }
    // At most one cut to float32's 24 bits per product, and a rounding of either factor.
    const double tolerance = shape.depth * 0x1p-23 + 2 * kRounding<T> + kRounding<T> * kRounding<T>;
    for (const host::Order& order : host::all_orders()) {
        host::set_order(order);
        y.fill_dead();
        const cudaError_t error = launch<T, kTransposed, kFault>(
            {x.data(), w.data(), y.data(), shape.rows, shape.columns, shape.depth}, nullptr);
        expect(error == cudaSuccess, "launch: error ", static_cast<int>(error));
        for (std::int64_t i = 0; i < y.size(); ++i) {
            const auto at = static_cast<std::size_t>(i);
            expect(std::abs(y[i] - wanted[at]) <= tolerance * size[at], name, ", ", shape.rows, " x ", shape.columns,
                   " x ", shape.depth, ", order ", order, ": y[", i / shape.columns, ", ", i % shape.columns,
                   "]: expected ", wanted[at], ", got ", y[i]);
        }
    }
    return static_cast<int>(host::all_orders().size());
}

template <Fault kFault = Fault::none>
int check_all() {
    int checked = 0;
    for (const Shape& shape : kShapes) {
        checked += check<BFloat16, false, kFault>(shape, "bfloat16");
        if constexpr (kFault == Fault::none) {  // a fault is the same in all of them
            checked += check<Float16, false, kFault>(shape, "float16");
            checked += check<float, false, kFault>(shape, "tf32");
            checked += check<BFloat16, true, kFault>(shape, "bfloat16, w transposed");
            checked += check<Float16, true, kFault>(shape, "float16, w transposed");
        }
    }
    return checked;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view fault = argc == 1 ? "" : argv[1];
    int checked;
    if (fault.empty()) {
        checked = check_all();
    } else if (fault == "no_barrier_before_read") {
        checked = check_all<Fault::no_barrier_before_read>();
    } else if (fault == "no_barrier_before_copy") {
        checked = check_all<Fault::no_barrier_before_copy>();
    } else if (fault == "no_wait") {
        checked = check_all<Fault::no_wait>();
    } else if (fault == "wrong_fragment") {
        checked = check_all<Fault::wrong_fragment>();
    } else {
        expect(fault == "no_row_check", "expected a fault of pointwise_product.cuh or nothing, got ", fault);
        checked = check_all<Fault::no_row_check>();
    }
    std::cout << checked << " cases\n";
}
