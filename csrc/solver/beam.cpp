#include "beam.h"

#include <algorithm>

namespace dna_fast {

SearchResult beam_search(const SearchTask& task, size_t width, Limit& limit, Stats& stats) {
    GuidedSearch search(task, limit, stats);
    if (search.prepare()) return search.take();
    search.improve();
    constexpr size_t growth = 4;
    const size_t widest = std::min(width, search.widest());
    for (size_t next = 1; next <= widest && search.pass(next); next *= growth) search.improve();
    return search.take();
}

}  // namespace dna_fast
