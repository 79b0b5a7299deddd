// Which table of kernels serves an instruction set.
#include "mbconv.h"

namespace dna_fast::mbconv {

const Kernels& kernels(Isa isa, Dtype dtype) {
    const bool is_float = dtype == Dtype::float32;
#if defined(__x86_64__)
    if (isa == Isa::avx512_bf16) return is_float ? kAvx512Float32 : kAvx512DotBfloat16;
    if (isa == Isa::avx512) return is_float ? kAvx512Float32 : kAvx512Bfloat16;
    if (isa == Isa::avx2) return is_float ? kAvx2Float32 : kAvx2Bfloat16;
#endif
    (void)isa;
    return is_float ? kScalarFloat32 : kScalarBfloat16;
}

}  // namespace dna_fast::mbconv
