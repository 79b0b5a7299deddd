// The kernels with AVX-512; CMakeLists.txt has the flags.
#include "correlate.h"
#include "weight_gradient.h"

namespace dna_fast::depthwise {

const Kernels kAvx512Float32{&forward<float>, &input_gradient<float>, &weight_gradient<float>};
const Kernels kAvx512Bfloat16{&forward<BFloat16>, &input_gradient<BFloat16>, &weight_gradient<BFloat16>};

}  // namespace dna_fast::depthwise
