// The layer with AVX-512's bfloat16 dot products; CMakeLists.txt has the flags.
#include "layer.h"

namespace dna_fast::mbconv {

const Kernels kAvx512DotBfloat16 = kernels_of<BFloat16, true>();

}  // namespace dna_fast::mbconv
