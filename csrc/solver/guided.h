// A search guided by the priced bound: what the exact search and the beam share.
//
// 1. Prices that make the bound greatest. 2. A probe: a narrow pass over the most promising candidates, for an
// incumbent. 3. Reduced-cost fixing: candidates that no choice as good as the incumbent can hold are dropped, whatever
// their number; usually tens are left of thousands. 4. Forward passes over that core. A pass that left states out for
// its width alone still proves a bound, the least bound among them; when that is above the incumbent, nothing was lost.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "forward.h"
#include "limit.h"
#include "solution.h"

namespace dna_fast {

struct SearchTask {
    const Chain& chain;
    size_t copies = 1;      // how many best choices are wanted
    size_t max_states = 1;  // over all borders of a pass
};

struct Found {
    double loss;
    std::vector<uint32_t> choice;  // the caller's indices
};

// The candidates that a proof looked at, and what its last pass left.
struct Core {
    Chain chain;  // before dominance; every choice at or below the last of the best losses lies in it
    PricedBound bound;
    std::vector<States> layers;  // cover those choices up to dominance
};

struct SearchResult {
    // The `copies` least losses are proven (fewer: the chain has no more choices).
    bool proven = false;
    std::vector<Found> best;                                  // ascending loss, distinct choices
    double lower = -std::numeric_limits<double>::infinity();  // proven bound on the least loss; infinity: none fits
    Core core;                                                // where proven and not infeasible
};

class GuidedSearch {
  public:
    GuidedSearch(const SearchTask& task, Limit& limit, Stats& stats);

    // Prices, bound and probe. True: settled, because nothing fits.
    bool prepare();
    // The same without prices and probe, for passes that keep everything.
    bool prepare_unpriced();
    // A pass over the core; the width is that of a border. False: the limit came, or the search is settled.
    bool pass(size_t width);
    // Exchanges in the best choices.
    void improve();

    size_t widest() const { return widest_; }  // by max_states
    SearchResult take() { return std::move(result_); }

  private:
    bool settle_if_infeasible();
    void probe();
    void focus();
    void offer(std::vector<Found> found);
    std::vector<Found> run_pass(const ForwardTask& task, ForwardResult& pass);

    const SearchTask& task_;
    Limit& limit_;
    Stats& stats_;
    size_t widest_;
    double incumbent_ = std::numeric_limits<double>::infinity();  // the `copies`-th best loss so far
    bool focused_ = false;
    double focused_at_ = 0;   // incumbent that the core was made for
    PricedBound root_bound_;  // of the whole chain
    Chain reduced_;           // the core after dominance
    Extremes extremes_;       // of the core before it, so that states serve that chain too
    SearchResult result_;
};

}  // namespace dna_fast
