#include "exact.h"

#include <algorithm>
#include <cstddef>

namespace dna_fast {

SearchResult merge_fronts(const SearchTask& task, Limit& limit, Stats& stats) {
    GuidedSearch search(task, limit, stats);
    if (!search.prepare_unpriced()) search.pass(search.widest());
    return search.take();
}

SearchResult branch_and_bound(const SearchTask& task, Limit& limit, Stats& stats) {
    GuidedSearch search(task, limit, stats);
    if (search.prepare()) return search.take();
    search.improve();
    // Narrow first: an incumbent is worth more than breadth, and the widths add up to little more than the last.
    constexpr size_t narrowest = 64, growth = 4;
    const size_t widest = search.widest();
    for (size_t width = std::min(std::max(narrowest, 2 * task.copies), widest); search.pass(width);) {
        search.improve();
        if (width == widest) break;
        width = std::min(width * growth, widest);
    }
    return search.take();
}

}  // namespace dna_fast
