// mbconv on a GPU: squeeze-excite's gates, and the last additions of the endings that reduce. float32 and float64 only,
// whatever the storage.
#include "cuda_gate.cuh"

namespace dna_fast::mbconv {

cudaError_t launch_gate(const GateCall& call, cudaStream_t stream) { return launch_gate_kernel(call, stream); }
cudaError_t launch_finish(const FinishCall& call, cudaStream_t stream) { return launch_finish_kernel(call, stream); }

}  // namespace dna_fast::mbconv
