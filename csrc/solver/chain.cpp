#include "chain.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dna_fast {
namespace {

template <class Function>
void add_resource(Chain& chain, const Cost& cost, int64_t cap, Function use_of_cost) {
    chain.cap.push_back(cap);
    for (size_t b = 0; b < chain.size(); ++b) {
        const Column<int64_t>& from = cost.blocks[b];
        std::vector<int64_t>& use = chain.owned_uses.emplace_back(from.rows * from.size);
        std::transform(from.data, from.data + use.size(), use.begin(), use_of_cost);
        chain.blocks[b].use.push_back({use.data(), from.rows, from.size});
    }
}

void add_upper(Chain& chain, const Cost& cost, int64_t upper) {
    chain.cap.push_back(std::max<int64_t>(upper, -1));  // costs are not negative: every cap below 0 says "never"
    for (size_t b = 0; b < chain.size(); ++b) chain.blocks[b].use.push_back(cost.blocks[b]);
}

void forbid_above(Chain& chain, const Cost& cost, int64_t upper) {
    for (size_t b = 0; b < chain.size(); ++b) {
        ChainBlock& block = chain.blocks[b];
        const Column<int64_t>& column = cost.blocks[b];
        for (uint32_t row = 0; row < block.rows; ++row) {
            for (size_t i = 0; i < block.size; ++i) {
                if (column.at(row, i) <= upper) continue;
                if (block.forbidden.empty()) block.forbidden.assign(block.rows * block.size, 0);
                block.forbidden[row * block.size + i] = 1;
            }
        }
    }
}

void add_budget(Chain& chain, const Cost& cost, int64_t largest_total) {
    if (cost.upper && *cost.upper < largest_total) {
        cost.reduce == Reduce::sum ? add_upper(chain, cost, *cost.upper) : forbid_above(chain, cost, *cost.upper);
    }
    if (!cost.lower || *cost.lower <= 0) return;
    const int64_t lower = *cost.lower;
    if (cost.reduce == Reduce::max) {
        add_resource(chain, cost, -1, [lower](int64_t value) { return value >= lower ? int64_t{-1} : int64_t{0}; });
    } else {
        // A lower end beyond every total is kept just out of reach, where cap minus use cannot overflow.
        const int64_t cap = lower > largest_total ? -largest_total - 1 : -lower;
        add_resource(chain, cost, cap, [](int64_t value) { return -value; });
    }
}

template <class T>
Column<T> gather_column(const Column<T>& from, const std::vector<uint32_t>& keep, std::vector<T>& owned) {
    owned.reserve(from.rows * keep.size());
    for (uint32_t row = 0; row < from.rows; ++row) {
        for (uint32_t i : keep) owned.push_back(from.at(row, i));
    }
    return {owned.data(), from.rows, keep.size()};
}

ChainBlock gather_block(const ChainBlock& from, const std::vector<uint32_t>& keep, Chain& owner) {
    ChainBlock block;
    block.size = keep.size();
    block.rows = from.rows;
    for (uint32_t i : keep) block.index.push_back(from.original(i));
    if (!from.label.empty()) {
        for (uint32_t i : keep) block.label.push_back(from.label[i]);
    }
    if (!from.forbidden.empty()) {
        for (uint32_t row = 0; row < from.rows; ++row) {
            for (uint32_t i : keep) block.forbidden.push_back(from.forbidden[row * from.size + i]);
        }
    }
    block.loss = gather_column(from.loss, keep, owner.owned_losses.emplace_back());
    for (const auto& use : from.use) block.use.push_back(gather_column(use, keep, owner.owned_uses.emplace_back()));
    return block;
}

}  // namespace

double Chain::loss_magnitude() const {
    double total = 0;
    for (const ChainBlock& block : blocks) {
        double largest = 0;
        for (size_t i = 0; i < block.loss.rows * block.loss.size; ++i) {
            largest = std::max(largest, std::abs(block.loss.data[i]));
        }
        total += largest;
    }
    return total;
}

std::vector<uint32_t> Chain::original(std::vector<uint32_t> choice) const {
    for (size_t b = 0; b < size(); ++b) choice[b] = blocks[b].original(choice[b]);
    return choice;
}

Chain make_chain(const Problem& problem) {
    Chain chain;
    chain.blocks.resize(problem.blocks());
    for (size_t b = 0; b < problem.blocks(); ++b) {
        ChainBlock& block = chain.blocks[b];
        block.size = problem.candidates(b);
        block.rows = problem.rows(b);
        block.loss = problem.losses(b);
        if (b + 1 == problem.blocks() || problem.rows(b + 1) == 1) continue;
        block.label.resize(block.size);
        for (size_t i = 0; i < block.size; ++i) block.label[i] = problem.label(b, i);
    }
    for (size_t c = 0; c < problem.costs().size(); ++c) {
        add_budget(chain, problem.costs()[c], problem.largest_total(c));
    }
    return chain;
}

Chain gather(const Chain& chain, const std::vector<std::vector<uint32_t>>& keep) {
    Chain result;
    result.cap = chain.cap;
    for (size_t b = 0; b < chain.size(); ++b) result.blocks.push_back(gather_block(chain.blocks[b], keep[b], result));
    return result;
}

Extremes suffix_extremes(const Chain& chain) {
    const size_t resources = chain.resources();
    Extremes result;
    result.resources = resources;
    result.least.resize(chain.size() + 1);
    result.largest.resize(chain.size() + 1);
    result.reachable.resize(chain.size() + 1);
    result.least.back().assign(resources, 0);
    result.largest.back().assign(resources, 0);
    result.reachable.back().assign(1, 1);
    for (size_t b = chain.size(); b-- > 0;) {
        const ChainBlock& block = chain.blocks[b];
        result.least[b].assign(block.rows * resources, std::numeric_limits<int64_t>::max());
        result.largest[b].assign(block.rows * resources, std::numeric_limits<int64_t>::min());
        result.reachable[b].assign(block.rows, 0);
        for (uint32_t row = 0; row < block.rows; ++row) {
            for (size_t i = 0; i < block.size; ++i) {
                const uint32_t next = block.next_row(i);
                if (!block.allowed(row, i) || !result.reachable[b + 1][next]) continue;
                result.reachable[b][row] = 1;
                for (size_t r = 0; r < resources; ++r) {
                    const int64_t use = block.use[r].at(row, i);
                    int64_t& least = result.least[b][row * resources + r];
                    int64_t& largest = result.largest[b][row * resources + r];
                    least = std::min(least, use + result.least[b + 1][next * resources + r]);
                    largest = std::max(largest, use + result.largest[b + 1][next * resources + r]);
                }
            }
        }
    }
    return result;
}

}  // namespace dna_fast
