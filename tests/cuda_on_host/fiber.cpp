#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "driver.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace dna_fast::cuda::host {

namespace {

constexpr std::size_t kStackBytes = 256 << 10;  // frames are several times as large with AddressSanitizer

// The fibers on either side of the switch under way.
Fiber* leaving = nullptr;
Fiber* entering = nullptr;

}  // namespace

#if defined(DNA_FAST_OWN_SWITCH)
// Leaves the registers that a function must preserve on the running stack, and its pointer in *from; takes up those
// that were left on the other stack. swapcontext() does the same with a system call.
asm(R"(
.text
.p2align 4
.type dna_fast_switch_stack, @function
dna_fast_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size dna_fast_switch_stack, . - dna_fast_switch_stack
)");
extern "C" [[gnu::visibility("hidden")]] void dna_fast_switch_stack(void** from, void* to);
#endif

Fiber::Fiber(void (*body)()) : body_(body) {
    // Never given back: fibers are used until the program ends. Below lies a page that must not be touched.
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* const memory = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    expect(memory != MAP_FAILED && mprotect(memory, page, PROT_NONE) == 0, "memory for a fiber's stack");
    unsigned char* const bottom = static_cast<unsigned char*>(memory) + page;
    bottom_ = bottom;
    bytes_ = kStackBytes;
#if defined(DNA_FAST_OWN_SWITCH)
    // Six registers, begin(), and where begin() would return to. The stack is then aligned as after a call.
    void* frame[8] = {};
    frame[6] = reinterpret_cast<void*>(begin);
    stack_pointer_ = bottom + kStackBytes - sizeof(frame);
    std::memcpy(stack_pointer_, frame, sizeof(frame));
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, begin, 0);
#endif
}

void Fiber::begin() {
    Fiber& self = *entering;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &leaving->bottom_, &leaving->bytes_);  // the caller's own stack is unknown
#endif
    self.body_();
    std::abort();
}

void Fiber::switch_to(Fiber& next) {
    leaving = this;
    entering = &next;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack_, next.bottom_, next.bytes_);
#endif
#if defined(DNA_FAST_OWN_SWITCH)
    dna_fast_switch_stack(&stack_pointer_, next.stack_pointer_);
#else
    swapcontext(&context_, &next.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace dna_fast::cuda::host
