// How tensors lie in memory, asked at the border of an op.
#pragma once

#include <ATen/core/Tensor.h>

namespace dna_fast {

// Whether flat memory of both holds the same elements in the same order, without gaps. Dimensions of size 1 have no
// say: their strides are arbitrary.
inline bool same_dense_layout(const at::Tensor& a, const at::Tensor& b) {
    if (!a.is_non_overlapping_and_dense() || a.sizes() != b.sizes()) return false;
    for (int64_t d = 0; d < a.dim(); ++d) {
        if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
    }
    return true;
}

}  // namespace dna_fast
