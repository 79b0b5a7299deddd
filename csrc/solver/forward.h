// The forward pass: all partial choices block by block, kept small by dominance, bounds and, on demand, a width.
//
// A state at border b stands for a choice in blocks 0..b-1: its label, its uses, its loss added in block order. Float
// addition is monotone, so a state that is no larger in loss and uses stays so after any completion: weak dominance
// keeps the exact least loss, and with k copies the exact k least losses.
//
// Uses are saturated: what no completion can push over the cap any more is raised to the largest such value, so states
// that differ only there compare equal. It changes no answer to "does this completion fit?".
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "bound.h"
#include "chain.h"
#include "limit.h"

namespace dna_fast {

struct States {
    std::vector<int64_t> columns;             // [size, resources + 1]: uses, then the loss as an ordered.h key
    std::vector<uint32_t> parent, candidate;  // [size] state at the border before; chain index in the block before
    std::vector<uint32_t> begin;              // [rows + 1] states of label r are begin[r] .. begin[r + 1] - 1

    size_t size() const { return parent.size(); }
};

struct ForwardTask {
    const Chain& chain;
    const Extremes& extremes;  // suffix extremes of the chain before presolve, so that the states serve that chain too
    const PricedBound& bound;
    size_t copies = 1;                                           // how many best losses must survive
    size_t width = 0;                                            // most states kept at one border
    double incumbent = std::numeric_limits<double>::infinity();  // states that cannot reach it are left out
};

struct ForwardResult {
    std::vector<States> layers;  // [border]; fewer than blocks + 1 when the limit came
    bool finished = false;       // reached the last border
    // Least bound among states that were left out for the width alone; infinity: none were.
    double least_dropped = std::numeric_limits<double>::infinity();
    uint64_t expanded = 0;  // states generated
    size_t peak = 0;        // most states at one border
};

ForwardResult forward(const ForwardTask& task, Limit& limit);

// Chain indices of the choice that state `state` at the last border stands for.
std::vector<uint32_t> trace(const std::vector<States>& layers, uint32_t state);

}  // namespace dna_fast
