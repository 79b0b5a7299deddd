// The layer with AVX-512; CMakeLists.txt has the flags.
#include "layer.h"

namespace dna_fast::mbconv {

const Kernels kAvx512Float32 = kernels_of<float, false>();
const Kernels kAvx512Bfloat16 = kernels_of<BFloat16, false>();

}  // namespace dna_fast::mbconv
