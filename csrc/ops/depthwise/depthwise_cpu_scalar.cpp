// The kernels with whatever every CPU of the platform has; CMakeLists.txt has the flags.
#include "correlate.h"
#include "weight_gradient.h"

namespace dna_fast::depthwise {

const Kernels kScalarFloat32{&forward<float>, &input_gradient<float>, &weight_gradient<float>};
const Kernels kScalarBfloat16{&forward<BFloat16>, &input_gradient<BFloat16>, &weight_gradient<BFloat16>};

}  // namespace dna_fast::depthwise
