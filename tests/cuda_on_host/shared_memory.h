// A block's shared memory: the dynamic part, between guards; static __shared__ variables; and copies into both that are
// under way. Each block finds it full of 0xff bytes: NaN in every floating-point type, an index far outside in any
// other.
//
// With AddressSanitizer an access to the guards, or to the target of a copy before that was waited for, ends the
// program. Without it a guard is looked at after the block, and the target of a copy holds 0xff bytes until then.
#pragma once

#include <cstddef>

namespace dna_fast::cuda::host {

void set_dynamic_shared(std::size_t bytes);
unsigned char* dynamic_shared_memory();
void poison_shared();        // before a block
void expect_guards_whole();  // after it

inline constexpr std::size_t kAccessBytes = 16;  // of the widest access

// A GPU stops at a 16-byte access to another address; a CPU would not.
void expect_aligned(const char* name, const void* pointer);
// 16 aligned bytes of shared memory that no copy is about to write.
void expect_in_shared(const char* name, const void* pointer);

// The running thread's copies. The source is read at once; the target is written in finish_copies().
void start_copy(void* shared, const void* global, bool there);
void end_group_of_copies();
void finish_copies(std::size_t groups_left);

}  // namespace dna_fast::cuda::host
