#include "machine.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "driver.h"
#include "fiber.h"
#include "shared_memory.h"

ThreadIndex threadIdx, blockDim;
BlockIndex blockIdx, gridDim;

namespace dna_fast::cuda::host {

bool barriers_hold = true;

namespace {

constexpr unsigned kMostThreads = 1024;

struct Thread {
    explicit Thread(void (*body)()) : fiber(body) {}

    Fiber fiber;
    bool returned = false;
    const char* waits_in = nullptr;  // if it waits, and where that is
    Site site;
};

struct Warp {
    unsigned arrived = 0;
    void* operands[kWarp];
    const char* name;  // what those who arrived wait in, and where
    Combine combine;
    Site site;
    std::uint32_t rank = 0;  // in a random order
};

// The one block that runs.
struct Block {
    std::vector<std::unique_ptr<Thread>> threads;  // those beyond blockDim.x rest
    Warp warps[kMostThreads / kWarp];
    unsigned returned = 0, at_barrier = 0;
    Site barrier;                      // where those at the barrier wait
    std::vector<std::uint64_t> ready;  // a heap of those who could go on: rank and number, the smallest first
    const std::function<void()>* body = nullptr;
    Fiber caller;
};

Block block;
Order order;
std::mt19937 random_numbers;

std::uint64_t rank(unsigned thread) {
    if (order.pick == Pick::forward) return thread;
    if (order.pick == Pick::reversed) return kMostThreads - thread;
    return std::uint64_t{block.warps[thread / kWarp].rank} << 16 | (random_numbers() & 0xffffu);
}

void make_ready(unsigned thread) {
    block.threads[thread]->waits_in = nullptr;
    block.ready.push_back(rank(thread) << 16 | thread);
    std::push_heap(block.ready.begin(), block.ready.end(), std::greater<>());
}

void make_all_ready() {
    block.at_barrier = 0;
    for (Warp& warp : block.warps) warp.rank = random_numbers() & 0xffffu;
    for (unsigned thread = 0; thread < blockDim.x; ++thread) make_ready(thread);
}

// Lets somebody else run: whose turn it is, or the block's caller if all wait or have returned. Comes back when it is
// the turn of `from`.
void pass_on(Fiber& from) {
    Fiber* next = &block.caller;
    if (!block.ready.empty()) {
        std::pop_heap(block.ready.begin(), block.ready.end(), std::greater<>());
        threadIdx.x = static_cast<unsigned>(block.ready.back() & 0xffffu);
        block.ready.pop_back();
        next = &block.threads[threadIdx.x]->fiber;
    }
    if (next != &from) from.switch_to(*next);
}

// Every thread's fiber: one block after another.
void run_thread() {
    for (;;) {
        (*block.body)();
        Thread& self = *block.threads[threadIdx.x];
        self.returned = true;
        ++block.returned;
        pass_on(self.fiber);
    }
}

struct Place {
    const char* name;
    const Site& site;
};
std::ostream& operator<<(std::ostream& out, const Place& place) {
    return out << place.name << " (" << place.site.file_name() << ":" << place.site.line() << ")";
}

bool same(const Site& a, const Site& b) {
    return a.line() == b.line() && a.column() == b.column() && std::string_view(a.file_name()) == b.file_name();
}

struct HereInBlock {};
std::ostream& operator<<(std::ostream& out, HereInBlock) {
    return out << "block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << ") of " << blockDim.x
               << " threads, order " << order;
}

// Nobody can go on: then all must have returned.
void expect_all_returned() {
    if (block.returned == blockDim.x) return;
    std::map<std::string, std::vector<unsigned>> groups;
    for (unsigned thread = 0; thread < blockDim.x; ++thread) {
        const Thread& waiting = *block.threads[thread];
        std::ostringstream what;
        if (waiting.returned) {
            what << "returned";
        } else {
            what << "wait in " << Place{waiting.waits_in, waiting.site};
        }
        groups[what.str()].push_back(thread);
    }
    std::ostringstream found;
    for (const auto& [what, threads] : groups) {
        found << "; " << threads.size() << " " << what << ", the first of them thread " << threads.front();
    }
    expect(false, HereInBlock{}, ": threads wait for others that never come", found.str());
}

void run_block(const std::function<void()>& body) {
    while (block.threads.size() < blockDim.x) block.threads.push_back(std::make_unique<Thread>(run_thread));
    for (unsigned thread = 0; thread < blockDim.x; ++thread) block.threads[thread]->returned = false;
    block.body = &body;
    block.returned = 0;
    make_all_ready();
    pass_on(block.caller);
    expect_all_returned();
}

std::vector<std::uint64_t> order_of_blocks(std::uint64_t blocks) {
    std::vector<std::uint64_t> found(blocks);
    std::iota(found.begin(), found.end(), std::uint64_t{0});
    if (order.pick == Pick::reversed) std::reverse(found.begin(), found.end());
    if (order.pick == Pick::random) std::shuffle(found.begin(), found.end(), random_numbers);
    return found;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Order& which) {
    constexpr const char* kNames[] = {"forward", "reversed", "random"};
    out << kNames[static_cast<int>(which.pick)];
    return which.pick == Pick::random ? out << " " << which.seed : out;
}

std::ostream& operator<<(std::ostream& out, Here) { return out << "thread " << threadIdx.x << " of " << HereInBlock{}; }

std::span<const Order> all_orders() {
    static constexpr Order kOrders[] = {{Pick::forward}, {Pick::reversed}, {Pick::random, 1}, {Pick::random, 2}};
    return kOrders;
}

void set_order(Order next) { order = next; }

void run_grid(Grid grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
    expect(threads > 0 && threads <= kMostThreads, "a block of ", threads, " threads, allowed are 1 to ", kMostThreads);
    constexpr unsigned kMostYZ = 65535;
    expect(grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y <= kMostYZ && grid.z <= kMostYZ, "a grid of ", grid.x,
           " x ", grid.y, " x ", grid.z, " blocks, allowed are 1 to ", kMostYZ, " in y and z");
    gridDim = {grid.x, grid.y, grid.z};
    blockDim = {threads};
    random_numbers.seed(order.seed);
    set_dynamic_shared(shared_bytes);
    for (const std::uint64_t b : order_of_blocks(std::uint64_t{grid.x} * grid.y * grid.z)) {
        blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                    static_cast<unsigned>(b / grid.x / grid.y)};
        poison_shared();
        run_block(body);
        expect_guards_whole();
    }
}

void wait_for_block(const Site& site) {
    if (!barriers_hold) return;
    Thread& self = *block.threads[threadIdx.x];
    if (block.at_barrier == 0) block.barrier = site;
    expect(same(site, block.barrier), Here{}, ": divergent barrier: it waits in ", Place{"__syncthreads", site},
           ", others in ", Place{"__syncthreads", block.barrier});
    self.waits_in = "__syncthreads";
    self.site = site;
    if (++block.at_barrier == blockDim.x) make_all_ready();
    pass_on(self.fiber);
}

void wait_for_warp(const char* name, Combine combine, void* operand, const Site& site) {
    Thread& self = *block.threads[threadIdx.x];
    Warp& warp = block.warps[threadIdx.x / kWarp];
    if (warp.arrived == 0) {
        warp.name = name;
        warp.combine = combine;
        warp.site = site;
    }
    expect(combine == warp.combine && same(site, warp.site), Here{}, ": divergent warp: it waits in ",
           Place{name, site}, ", other lanes of its warp in ", Place{warp.name, warp.site});
    warp.operands[threadIdx.x % kWarp] = operand;
    self.waits_in = name;
    self.site = site;
    if (++warp.arrived == kWarp) {
        combine(warp.operands);
        warp.arrived = 0;
        if (random_numbers() % 4 == 0) warp.rank = random_numbers() & 0xffffu;
        const unsigned first = threadIdx.x / kWarp * kWarp;
        for (unsigned lane = 0; lane < kWarp; ++lane) make_ready(first + lane);
    }
    pass_on(self.fiber);
}

}  // namespace dna_fast::cuda::host
