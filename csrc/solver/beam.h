// Beam search: good choices with a proven gap where exactness is out of reach.
//
// The same passes as the exact search makes, up to a width, with exchanges in the best choice between them. The widths
// are the powers of four up to the given one, in order, and each pass starts from what the ones before left; so a
// larger width repeats all of a smaller one's work before it adds its own, and its loss and its bound are never worse
// on any problem (unless a limit cuts it short).
#pragma once

#include <cstddef>

#include "guided.h"
#include "limit.h"
#include "solution.h"

namespace dna_fast {

SearchResult beam_search(const SearchTask& task, size_t width, Limit& limit, Stats& stats);

}  // namespace dna_fast
