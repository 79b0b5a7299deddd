// The kernels with AVX2 and FMA; CMakeLists.txt has the flags.
#include "correlate.h"
#include "weight_gradient.h"

namespace dna_fast::depthwise {

const Kernels kAvx2Float32{&forward<float>, &input_gradient<float>, &weight_gradient<float>};
const Kernels kAvx2Bfloat16{&forward<BFloat16>, &input_gradient<BFloat16>, &weight_gradient<BFloat16>};

}  // namespace dna_fast::depthwise
