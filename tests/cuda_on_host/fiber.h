// A thread of execution that runs until it hands over to another one: a stack of its own, and no operating system. To
// switch costs some nanoseconds, so that thousands of GPU threads can wait for each other thousands of times.
#pragma once

#include <cstddef>

#if defined(__x86_64__) && !defined(DNA_FAST_UCONTEXT)
#define DNA_FAST_OWN_SWITCH
#else
#include <ucontext.h>
#endif

namespace dna_fast::cuda::host {

class Fiber {
  public:
    Fiber() = default;               // what runs already: the caller's own stack
    explicit Fiber(void (*body)());  // starts at its first turn; body must not return
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Suspends this fiber, which must be the running one, until another one switches to it.
    void switch_to(Fiber& next);

  private:
    [[noreturn]] static void begin();

    void (*body_)() = nullptr;
    const void* bottom_ = nullptr;  // of the stack
    std::size_t bytes_ = 0;
    void* fake_stack_ = nullptr;  // AddressSanitizer's, while suspended
#if defined(DNA_FAST_OWN_SWITCH)
    void* stack_pointer_ = nullptr;  // while suspended
#else
    ucontext_t context_;
#endif
};

}  // namespace dna_fast::cuda::host
