// Which candidates still matter: by a bound on the best choice through each of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bound.h"
#include "chain.h"

namespace dna_fast {

// Per block and candidate, a lower bound on the loss of every choice within the caps that holds the candidate: the
// priced loss of the best path through it, in its best row. Infinity: no allowed path.
std::vector<std::vector<double>> bounds_through(const Chain& chain, const PricedBound& bound);

// Reduced-cost fixing: per block, ascending, the candidates of choices that may lose `most` or less. With infinity,
// those of any choice at all.
std::vector<std::vector<uint32_t>> promising_candidates(const Chain& chain, const PricedBound& bound, double most);

// Per block, ascending, the `count` candidates of least bound of each label.
std::vector<std::vector<uint32_t>> leading_candidates(const Chain& chain, const PricedBound& bound, size_t count);

}  // namespace dna_fast
