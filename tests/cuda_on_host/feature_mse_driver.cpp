// feature_mse's CUDA kernel, in every order.
#include <string_view>

#include "feature_mse_cases.h"
#include "ops/feature_mse/feature_mse_cuda.cuh"

namespace {

using namespace dna_fast::feature_mse;
namespace host = dna_fast::cuda::host;

// The mean that the kernel writes, times the number of elements. The scratch is exactly one double per chunk.
template <Dtype kStudent>
double sum_of(const Params& params) {
    using Loss = std::conditional_t<kStudent == Dtype::float64, double, float>;
    const std::unique_ptr<double[]> sums(new double[static_cast<std::size_t>(chunks(params.numel))]);
    const std::unique_ptr<Loss> loss(new Loss(std::numeric_limits<Loss>::quiet_NaN()));
    launch<kStudent>(params, CudaOutput{sums.get(), loss.get()}, nullptr);
    return static_cast<double>(*loss) * static_cast<double>(params.numel);
}

double sum_of_any(const Params& params) {
    switch (params.student_dtype) {
        case Dtype::float32:
            return sum_of<Dtype::float32>(params);
        case Dtype::bfloat16:
            return sum_of<Dtype::bfloat16>(params);
        case Dtype::float16:
            return sum_of<Dtype::float16>(params);
        case Dtype::float64:
            break;
    }
    return sum_of<Dtype::float64>(params);
}

// Stage 2 alone, as stage 1 would take long for more chunks than a block has threads.
void check_mean(std::int64_t count) {
    const std::unique_ptr<double[]> sums(new double[static_cast<std::size_t>(count)]);
    for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i)] = static_cast<double>(i + 1);
    double mean_of_sums = 0;
    dna_fast::cuda::launch(mean<double>, 1u, kTotalThreads, nullptr, sums.get(), count, count, &mean_of_sums);
    const double wanted = static_cast<double>(count + 1) / 2;  // all sums are whole numbers, hence exact
    dna_fast::expect(mean_of_sums == wanted, count, " chunks: expected the mean ", wanted, ", got ", mean_of_sums);
}

}  // namespace

int main(int argc, char** argv) {
    host::barriers_hold = argc == 1 || std::string_view(argv[1]) != "no_barrier";
    const Planted error = host::barriers_hold ? planted(argc, argv) : Planted::nothing;
    // One thread's, all but one element of a chunk, a full one, several chunks with a rest that ends within a group.
    const std::int64_t sizes[] = {1, kChunk - 1, kChunk, 2 * kChunk + 77};
    const int offsets[] = {0, 1};  // 1: no 16-byte access is possible
    int checked = 0;
    for (const host::Order& order : host::all_orders()) {
        host::set_order(order);
        for (std::int64_t count : {1, kTotalThreads, kTotalThreads + 1, 3 * kTotalThreads + 1}) check_mean(count);
        for (const Case& test : cases(sizes, offsets)) {
            if (error == Planted::short_gradient && !test.with_gradient) continue;
            check(test, error, "CUDA on the host", sum_of_any);
            ++checked;
        }
    }
    std::cout << checked << " cases\n";
}
