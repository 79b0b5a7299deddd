// The layer with AVX2 and FMA; CMakeLists.txt has the flags.
#include "layer.h"

namespace dna_fast::mbconv {

const Kernels kAvx2Float32 = kernels_of<float, false>();
const Kernels kAvx2Bfloat16 = kernels_of<BFloat16, false>();

}  // namespace dna_fast::mbconv
