// Runs a kernel of kernels/faults.cuh in every order and checks what it writes. Each must end the program.
#include <string_view>

#include "buffer.h"
#include "driver.h"
#include "kernels/faults.cuh"

namespace {

using namespace dna_fast::faults;
using dna_fast::expect;
using dna_fast::cuda::Grid;
namespace host = dna_fast::cuda::host;

struct Fault {
    std::string_view name;
    void (*kernel)(Params);
};
#define FAULT(kernel) {#kernel, kernel}
constexpr Fault kFaults[] = {
    FAULT(no_barrier),
    FAULT(no_warp_barrier),
    FAULT(no_warp_barrier_before_rows),
    FAULT(left_by_another_block),
    FAULT(in_order_of_blocks),
    FAULT(shared_store_beyond),
    FAULT(shared_store_below),
    FAULT(shared_variable_beyond),
    FAULT(global_store_beyond),
    FAULT(barrier_after_return),
    FAULT(two_barriers),
    FAULT(half_a_warp),
    FAULT(two_places_in_a_warp),
    FAULT(misaligned_load),
    FAULT(misaligned_copy),
    FAULT(misaligned_row),
    FAULT(copy_beyond),
    FAULT(row_beyond),
    FAULT(no_wait),
    FAULT(wait_for_too_few),
    FAULT(no_commit),
    FAULT(no_barrier_after_wait),
};

void run(const Fault& fault) {
    constexpr int kBlocks = 3;
    host::Buffer<float> in(kBlocks * kThreads), out(kBlocks * kThreads);
    for (int i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
    for (const host::Order& order : host::all_orders()) {
        host::set_order(order);
        out.fill_dead();
        dna_fast::cuda::launch(fault.kernel, Grid{kBlocks, 1, 1}, kThreads, kSharedBytes, nullptr,
                               Params{in.data(), out.data()});
        for (int i = 0; i < out.size(); ++i) {
            expect(out[i] == in[i] * 2 + 1, fault.name, ", order ", order, ": out[", i, "]: expected ", in[i] * 2 + 1,
                   ", got ", out[i]);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    expect(argc == 2, "expected the name of a fault, got ", argc - 1, " arguments");
    for (const Fault& fault : kFaults) {
        if (fault.name != argv[1]) continue;
        run(fault);
        std::cout << "1 cases\n";
        return 0;
    }
    expect(false, "expected the name of a kernel of faults.cuh, got ", argv[1]);
}
