#include "problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace dna_fast {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string at_block(size_t block) { return "block " + std::to_string(block); }

template <class T>
void check_shape(const Column<T>& column, const std::string& what, size_t block, size_t candidates) {
    if (column.size != candidates || column.rows == 0 || (candidates > 0 && column.data == nullptr)) {
        fail(what + " of " + at_block(block) + " must hold " + std::to_string(candidates) +
             " candidates in at least one row, got " + std::to_string(column.size) + " in " +
             std::to_string(column.rows) + " rows; give every array of a block the same length");
    }
}

}  // namespace

Problem::Problem(ProblemData data) : data_(std::move(data)) {
    if (data_.losses.empty()) fail("losses must hold at least one block, got none; give one array per block");
    if (data_.labels.empty()) data_.labels.resize(blocks());
    if (data_.labels.size() != blocks()) {
        fail("labels must hold one array per block (" + std::to_string(blocks()) + "), got " +
             std::to_string(data_.labels.size()) + "; pass an empty array for a block without labels");
    }
    check_losses();
    for (const Cost& cost : data_.costs) check_cost(cost);
    check_rows();
}

void Problem::check_losses() const {
    double magnitude = 0;
    for (size_t b = 0; b < blocks(); ++b) {
        const Column<double>& losses = data_.losses[b];
        check_shape(losses, "losses", b, candidates(b));
        if (losses.size == 0) fail(at_block(b) + " has no candidates; every block needs at least one");
        if (losses.size > std::numeric_limits<uint32_t>::max() / 4) {
            fail(at_block(b) + " has " + std::to_string(losses.size) + " candidates; at most 2^30 - 1 are supported");
        }
        double largest = 0;
        for (size_t i = 0; i < losses.rows * losses.size; ++i) {
            if (!std::isfinite(losses.data[i])) {
                fail("losses of " + at_block(b) + ", candidate " + std::to_string(i % losses.size) +
                     " must be finite, got " + std::to_string(losses.data[i]) + "; remove or repair the candidate");
            }
            largest = std::max(largest, std::abs(losses.data[i]));
        }
        magnitude += largest;
    }
    // A quarter leaves room for bounds, which add multiples of costs to sums of losses.
    if (!(magnitude < std::numeric_limits<double>::max() / 4)) {
        fail("the sum of losses could leave float64; scale the losses down");
    }
}

void Problem::check_cost(const Cost& cost) {
    if (cost.blocks.size() != blocks()) {
        fail("cost '" + cost.name + "' must hold one array per block (" + std::to_string(blocks()) + "), got " +
             std::to_string(cost.blocks.size()));
    }
    constexpr int64_t largest_int64 = std::numeric_limits<int64_t>::max();
    int64_t total = 0;
    for (size_t b = 0; b < blocks(); ++b) {
        const Column<int64_t>& column = cost.blocks[b];
        check_shape(column, "cost '" + cost.name + "'", b, candidates(b));
        int64_t largest = 0;
        for (size_t i = 0; i < column.rows * column.size; ++i) {
            if (column.data[i] < 0) {
                fail("cost '" + cost.name + "' of " + at_block(b) + ", candidate " + std::to_string(i % column.size) +
                     " must not be negative, got " + std::to_string(column.data[i]));
            }
            largest = std::max(largest, column.data[i]);
        }
        if (cost.reduce == Reduce::max) {
            total = std::max(total, largest);
        } else if (__builtin_add_overflow(total, largest, &total)) {
            total = largest_int64;
        }
        // The last value stays free, so that "more than any total" can be said in int64 too.
        if (total == largest_int64) {
            fail("the total of cost '" + cost.name + "' could leave int64 at " + at_block(b) +
                 "; use a coarser unit for this cost");
        }
    }
    largest_totals_.push_back(total);
}

void Problem::check_rows() {
    rows_.assign(blocks(), 1);
    labels_used_.assign(blocks(), 0);
    const auto see = [&](size_t b, uint32_t rows, const std::string& what) {
        if (rows == 1) return;
        if (rows_[b] != 1 && rows_[b] != rows) {
            fail(what + " of " + at_block(b) + " has " + std::to_string(rows) + " rows where another array has " +
                 std::to_string(rows_[b]) + "; all need one row per label of the block before");
        }
        rows_[b] = rows;
    };
    for (size_t b = 0; b < blocks(); ++b) {
        see(b, data_.losses[b].rows, "losses");
        for (const Cost& cost : data_.costs) see(b, cost.blocks[b].rows, "cost '" + cost.name + "'");
    }
    if (rows_[0] != 1) fail("block 0 has no block before it and takes one row, got " + std::to_string(rows_[0]));
    for (size_t b = 0; b + 1 < blocks(); ++b) {
        if (rows_[b + 1] == 1) continue;
        const std::vector<uint32_t>& labels = data_.labels[b];
        if (labels.size() != candidates(b)) {
            fail("labels of " + at_block(b) + " must hold one label per candidate (" + std::to_string(candidates(b)) +
                 "), got " + std::to_string(labels.size()) + "; " + at_block(b + 1) + " has one row per label");
        }
        for (size_t i = 0; i < labels.size(); ++i) {
            if (labels[i] >= rows_[b + 1]) {
                fail("label of " + at_block(b) + ", candidate " + std::to_string(i) + " must be below the " +
                     std::to_string(rows_[b + 1]) + " rows of " + at_block(b + 1) + ", got " +
                     std::to_string(labels[i]));
            }
        }
        labels_used_[b] = 1;
    }
}

Problem Problem::with(std::vector<Column<double>> losses, std::vector<Cost> costs) const {
    return Problem(ProblemData{std::move(losses), data_.labels, std::move(costs)});
}

double Problem::loss_of(const std::vector<uint32_t>& choice) const {
    double total = 0;
    uint32_t row = 0;
    for (size_t b = 0; b < blocks(); ++b) {
        total = b == 0 ? data_.losses[b].at(row, choice[b]) : total + data_.losses[b].at(row, choice[b]);
        row = label(b, choice[b]);
    }
    return total;
}

int64_t Problem::cost_of(size_t cost, const std::vector<uint32_t>& choice) const {
    int64_t total = 0;
    uint32_t row = 0;
    for (size_t b = 0; b < blocks(); ++b) {
        const int64_t value = data_.costs[cost].blocks[b].at(row, choice[b]);
        total = data_.costs[cost].reduce == Reduce::max ? std::max(total, value) : total + value;
        row = label(b, choice[b]);
    }
    return total;
}

}  // namespace dna_fast
