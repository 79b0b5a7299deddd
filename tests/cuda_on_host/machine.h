// A GPU as far as its kernels can tell right from wrong: a grid's blocks one after another, each thread of a block a
// fiber, warps of 32 lanes. A thread runs until it waits for others, alone; which one goes on then is the Order's
// choice. So what two threads may do at the same time happens in one order or in the other, and a missing barrier gives
// a wrong result in one of them. What no order can show is an error, in words: a wait that never ends, lanes of a warp
// at different places.
//
// It knows nothing of speed, caches, or memory that others see late: what a lane wrote before a shuffle or a product,
// the others see after it, as on a GPU they surely do only after sync_warp.
#pragma once

#include <cstddef>
#include <functional>
#include <iosfwd>
#include <source_location>
#include <span>

struct ThreadIndex {
    unsigned x;
};
struct BlockIndex {
    unsigned x, y, z;
};
extern ThreadIndex threadIdx, blockDim;
extern BlockIndex blockIdx, gridDim;

namespace dna_fast::cuda {

struct Grid {
    unsigned x, y, z;
};

namespace host {

inline constexpr unsigned kWarp = 32;

// ---- for drivers ----

// Of a grid's blocks, and of the threads that could go on. forward, reversed: always the first or the last one, so that
// a warp gets as far ahead of the others as barriers let it. random: warps and lanes in an order that is drawn, and
// drawn again at barriers and, now and then, between them.
enum class Pick { forward, reversed, random };
struct Order {
    Pick pick = Pick::forward;
    unsigned seed = 0;  // of random
};
std::ostream& operator<<(std::ostream& out, const Order& order);

std::span<const Order> all_orders();
void set_order(Order order);  // of the launches from now on

extern bool barriers_hold;  // false: an error made on purpose, __syncthreads does nothing

// ---- for the headers that stand in for csrc/common/ ----

using Site = std::source_location;

// Runs `body` once per thread of the grid, and returns when all of them have returned.
void run_grid(Grid grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body);

void wait_for_block(const Site& site);

// Leaves `operand` and waits for the other lanes of the warp; the last one calls `combine` on all 32 operands, which
// may read and write them.
using Combine = void (*)(void* const (&operands)[kWarp]);
void wait_for_warp(const char* name, Combine combine, void* operand, const Site& site);

// Printed: which thread runs, and in which order.
struct Here {};
std::ostream& operator<<(std::ostream& out, Here);

}  // namespace host
}  // namespace dna_fast::cuda

inline void __syncthreads(const std::source_location& site = std::source_location::current()) {
    dna_fast::cuda::host::wait_for_block(site);
}
