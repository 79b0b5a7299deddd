// One MBConv layer on one image, in three phases (see Kernels in mbconv.h), for one instruction set and storage type.
//
// Work is ordered so that the expanded tensor exists only as a ring of k rows of one group of 48 channels, which stays
// in the level-2 cache: expansion writes rows of the ring, with batch norm 1 and SiLU applied while they are in
// registers, and the depthwise reads them k times. Its activated result (M channels of the output size) is kept for the
// image, because squeeze-excite needs all of it before the projection; the gate then goes into the projection's weights
// or, where there are fewer pixels than output channels, into that result. Accumulation is float32 throughout.
//
// bfloat16 has two forms. With dot products (kDot) both pointwise products and the depthwise take pairs: of channels,
// and of rows, which the ring holds interleaved. Without, bfloat16 is widened on loading and the rest is float32.
#pragma once

#include "expansion.h"
#include "projection.h"

namespace dna_fast::mbconv {
namespace {

template <class S, bool kDot>
constexpr Kernels kernels_of() {
    using E = Expansion<S, kDot>;
    using P = Projection<S, kDot>;
    return {E::scratch, E::expand, E::depthwise, E::activate, P::gate, P::project, P::output_moments};
}

}  // namespace
}  // namespace dna_fast::mbconv
