// The layer with whatever every CPU of the platform has; CMakeLists.txt has the flags.
#include "layer.h"

namespace dna_fast::mbconv {

const Kernels kScalarFloat32 = kernels_of<float, false>();
const Kernels kScalarBfloat16 = kernels_of<BFloat16, false>();

}  // namespace dna_fast::mbconv
