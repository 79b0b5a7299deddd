#include "shared_memory.h"

#include <link.h>
#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "driver.h"
#include "machine.h"

namespace dna_fast::cuda::host {

namespace {

constexpr std::size_t kMostBytes = 227 << 10;  // of one block, on compute capability 9.0
constexpr std::size_t kGuardBytes = 4 << 10;
constexpr unsigned char kPoison = 0xff, kGuard = 0xa5;

alignas(1024) unsigned char memory[kGuardBytes + kMostBytes + kGuardBytes];
std::size_t dynamic_bytes = 0;

std::span<unsigned char> dynamic_part() { return {memory + kGuardBytes, dynamic_bytes}; }
std::span<unsigned char> lower_guard() { return {memory, kGuardBytes}; }
std::span<unsigned char> upper_guard() { return {memory + kGuardBytes + dynamic_bytes, kGuardBytes}; }

// The program's thread-local variables, which are its __shared__ ones and no others: the dynamic linker knows where.
std::span<unsigned char> find_static_part() {
    std::span<unsigned char> found;
    dl_iterate_phdr(
        [](dl_phdr_info* program, std::size_t, void* to) {
            for (int h = 0; h < program->dlpi_phnum; ++h) {
                if (program->dlpi_phdr[h].p_type != PT_TLS || program->dlpi_tls_data == nullptr) continue;
                *static_cast<std::span<unsigned char>*>(to) = {static_cast<unsigned char*>(program->dlpi_tls_data),
                                                               program->dlpi_phdr[h].p_memsz};
            }
            return 1;  // the first is the program itself, the others are its libraries
        },
        &found);
    return found;
}

std::span<unsigned char> static_part() {
    static const std::span<unsigned char> found = find_static_part();
    return found;
}

void fill(std::span<unsigned char> part, unsigned char value) {
    if (!part.empty()) std::memset(part.data(), value, part.size());
}

bool holds(std::span<const unsigned char> part, const void* pointer) {
    const auto* const byte = static_cast<const unsigned char*>(pointer);
    const std::less_equal<> before;
    return part.size() >= kAccessBytes && before(part.data(), byte) &&
           before(byte, part.data() + (part.size() - kAccessBytes));
}

struct Copy {
    void* to;
    std::array<unsigned char, kAccessBytes> bytes;
};

// Of one thread: all copies under way, the oldest first, and how many of them each group that was ended holds.
struct Copies {
    std::vector<Copy> under_way;
    std::vector<std::size_t> groups;
    std::size_t in_groups = 0;
};
std::vector<Copies> copies;

}  // namespace

void set_dynamic_shared(std::size_t bytes) {
    expect(bytes <= kMostBytes, bytes, " bytes of shared memory in a block, allowed are ", kMostBytes);
    dynamic_bytes = bytes;
    copies.resize(std::max<std::size_t>(copies.size(), blockDim.x));
}

unsigned char* dynamic_shared_memory() { return dynamic_part().data(); }

void poison_shared() {
    ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(memory));
    ASAN_UNPOISON_MEMORY_REGION(static_part().data(), static_part().size());
    fill(dynamic_part(), kPoison);
    fill(static_part(), kPoison);
    fill(lower_guard(), kGuard);
    fill(upper_guard(), kGuard);
    ASAN_POISON_MEMORY_REGION(memory, kGuardBytes);
    ASAN_POISON_MEMORY_REGION(upper_guard().data(), memory + sizeof(memory) - upper_guard().data());
    for (Copies& of_thread : copies) of_thread = {};
}

void expect_guards_whole() {
    ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(memory));
    const auto is_guard = [](unsigned char byte) { return byte == kGuard; };
    expect(std::ranges::all_of(lower_guard(), is_guard), Here{}, ": a store below the dynamic shared memory");
    expect(std::ranges::all_of(upper_guard(), is_guard), Here{}, ": a store beyond the ", dynamic_bytes,
           " bytes of dynamic shared memory");
}

void expect_aligned(const char* name, const void* pointer) {
    expect(reinterpret_cast<std::uintptr_t>(pointer) % kAccessBytes == 0, Here{}, ": ", name, ": a 16-byte access to ",
           pointer, ", which is no multiple of 16");
}

void expect_in_shared(const char* name, const void* pointer) {
    expect_aligned(name, pointer);
    expect(holds(dynamic_part(), pointer) || holds(static_part(), pointer), Here{}, ": ", name, ": ", pointer,
           " is not in the block's shared memory; it is ",
           static_cast<const unsigned char*>(pointer) - dynamic_part().data(), " bytes behind the begin of ",
           dynamic_bytes, " dynamic ones");
#if defined(__SANITIZE_ADDRESS__)
    expect(__asan_region_is_poisoned(const_cast<void*>(pointer), kAccessBytes) == nullptr, Here{}, ": ", name,
           ": a copy_async_16 to ", pointer, " is under way, and nobody has waited for it");
#endif
}

void start_copy(void* shared, const void* global, bool there) {
    expect_in_shared("copy_async_16", shared);
    expect_aligned("copy_async_16", global);
    Copy copy{shared, {}};
    if (there) std::memcpy(copy.bytes.data(), global, kAccessBytes);
    std::memset(shared, kPoison, kAccessBytes);
    ASAN_POISON_MEMORY_REGION(shared, kAccessBytes);
    copies[threadIdx.x].under_way.push_back(copy);
}

void end_group_of_copies() {
    Copies& mine = copies[threadIdx.x];
    mine.groups.push_back(mine.under_way.size() - mine.in_groups);
    mine.in_groups = mine.under_way.size();
}

void finish_copies(std::size_t groups_left) {
    Copies& mine = copies[threadIdx.x];
    if (mine.groups.size() <= groups_left) return;
    const auto kept = mine.groups.end() - static_cast<std::ptrdiff_t>(groups_left);
    std::size_t finished = 0;
    for (auto group = mine.groups.begin(); group != kept; ++group) finished += *group;
    for (std::size_t c = 0; c < finished; ++c) {
        ASAN_UNPOISON_MEMORY_REGION(mine.under_way[c].to, kAccessBytes);
        std::memcpy(mine.under_way[c].to, mine.under_way[c].bytes.data(), kAccessBytes);
    }
    mine.under_way.erase(mine.under_way.begin(), mine.under_way.begin() + static_cast<std::ptrdiff_t>(finished));
    mine.groups.erase(mine.groups.begin(), kept);
    mine.in_groups -= finished;
}

}  // namespace dna_fast::cuda::host
