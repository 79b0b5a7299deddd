// feature_mse's CPU kernel: every mixture of dtypes and every instruction set of this CPU.
#include "feature_mse_cases.h"

int main(int argc, char** argv) {
    using namespace dna_fast;
    using namespace dna_fast::feature_mse;
    const Planted error = planted(argc, argv);
    // Around the 32 lanes, around a chunk, several chunks with a rest that fills no lane.
    const std::int64_t sizes[] = {1,          2,      kLanes - 1, kLanes,          kLanes + 1, 2 * kLanes - 1,
                                  kChunk - 1, kChunk, kChunk + 1, kChunk + kLanes, 2 * kChunk, 3 * kChunk + 77};
    const int offsets[] = {0, 1};  // 1: aligned for their type and nothing else
    int checked = 0;
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
        if (!cpu_has(isa)) continue;
        for (const Case& test : cases(sizes, offsets)) {
            if (error == Planted::short_gradient && !test.with_gradient) continue;
            check(test, error, isa_name(isa), [&](const Params& params) {
                double sum = 0;
                for (std::int64_t chunk = 0; chunk < chunks(params.numel); ++chunk)
                    sum += chunk_sum(params, isa, chunk);
                return sum;
            });
            ++checked;
        }
    }
    std::cout << checked << " cases\n";
}
