#include "planes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace dna_fast {
namespace {

// Solves matrix x = right by elimination with row exchanges. Nothing: singular to working precision.
std::optional<std::vector<double>> solve_linear(std::vector<std::vector<double>> matrix, std::vector<double> right) {
    constexpr double singular = 1e-13;
    const size_t n = right.size();
    for (size_t k = 0; k < n; ++k) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; ++i) {
            if (std::abs(matrix[i][k]) > std::abs(matrix[pivot][k])) pivot = i;
        }
        if (!(std::abs(matrix[pivot][k]) > singular)) return std::nullopt;
        std::swap(matrix[k], matrix[pivot]);
        std::swap(right[k], right[pivot]);
        for (size_t i = k + 1; i < n; ++i) {
            const double factor = matrix[i][k] / matrix[k][k];
            for (size_t j = k; j < n; ++j) matrix[i][j] -= factor * matrix[k][j];
            right[i] -= factor * right[k];
        }
    }
    for (size_t k = n; k-- > 0;) {
        for (size_t j = k + 1; j < n; ++j) right[k] -= matrix[k][j] * right[j];
        right[k] /= matrix[k][k];
    }
    return right;
}

}  // namespace

void Planes::add(double constant, std::vector<double> slope) {
    constants_.push_back(constant);
    slopes_.push_back(std::move(slope));
    if (basis_.empty()) start();
}

// The dual program: weights w >= 0 on planes that sum to one (the last row), and walls that cancel their summed slope
// (a row per dimension), at least cost. Its multipliers are minus the point, and the height.
double Planes::cost(const Column& column, const Box& box) const {
    switch (column.kind) {
        case Kind::lower_wall:
            return -box.lower[column.index];
        case Kind::upper_wall:
            return box.upper[column.index];
        case Kind::plane:
            return constants_[column.index];
    }
    return 0;  // not reached: every kind has returned
}

double Planes::coefficient(const Column& column, size_t row) const {
    if (column.kind == Kind::plane) return row == dimensions_ ? 1.0 : slopes_[column.index][row];
    if (row != column.index) return 0;
    return column.kind == Kind::lower_wall ? 1.0 : -1.0;
}

std::vector<double> Planes::coefficients(const Column& column) const {
    std::vector<double> result(dimensions_ + 1);
    for (size_t row = 0; row <= dimensions_; ++row) result[row] = coefficient(column, row);
    return result;
}

// All weight on the first plane.
void Planes::start() {
    for (size_t d = 0; d < dimensions_; ++d) {
        basis_.push_back({slopes_[0][d] >= 0 ? Kind::upper_wall : Kind::lower_wall, d});
    }
    basis_.push_back({Kind::plane, 0});
}

std::optional<std::vector<double>> Planes::multipliers(const Box& box) const {
    std::vector<std::vector<double>> transposed;
    std::vector<double> costs;
    for (const Column& column : basis_) {
        transposed.push_back(coefficients(column));
        costs.push_back(cost(column, box));
    }
    return solve_linear(std::move(transposed), std::move(costs));
}

// The column of most negative reduced cost, or the first of negative one; nothing: the basis is optimal.
std::optional<Planes::Column> Planes::entering(const std::vector<double>& multipliers, const Box& box,
                                               bool first) const {
    double least = -1e-11;  // everything is scaled to about one
    std::optional<Column> best;
    const auto look = [&](const Column& column) {
        if (first && best) return;
        double reduced = cost(column, box);
        for (size_t row = 0; row <= dimensions_; ++row) reduced -= multipliers[row] * coefficient(column, row);
        if (reduced < least && std::find(basis_.begin(), basis_.end(), column) == basis_.end()) {
            least = reduced;
            best = column;
        }
    };
    for (size_t k = 0; k < constants_.size(); ++k) look({Kind::plane, k});
    for (size_t d = 0; d < dimensions_; ++d) {
        look({Kind::lower_wall, d});
        look({Kind::upper_wall, d});
    }
    return best;
}

// Brings a column into the basis. False: the arithmetic failed.
bool Planes::exchange(const Column& column) {
    std::vector<std::vector<double>> matrix(dimensions_ + 1, std::vector<double>(dimensions_ + 1));
    for (size_t j = 0; j < basis_.size(); ++j) {
        for (size_t row = 0; row <= dimensions_; ++row) matrix[row][j] = coefficient(basis_[j], row);
    }
    std::vector<double> right(dimensions_ + 1, 0.0);
    right.back() = 1;
    const auto weights = solve_linear(matrix, std::move(right));
    const auto change = solve_linear(std::move(matrix), coefficients(column));
    if (!weights || !change) return false;
    constexpr double smallest_pivot = 1e-10;
    size_t leaving = basis_.size();
    double least = std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < basis_.size(); ++j) {
        if ((*change)[j] <= smallest_pivot) continue;
        const double ratio = std::max((*weights)[j], 0.0) / (*change)[j];
        if (ratio < least) {
            least = ratio;
            leaving = j;
        }
    }
    if (leaving == basis_.size()) return false;
    basis_[leaving] = column;
    return true;
}

std::optional<Planes::Peak> Planes::peak(const Box& box) {
    const size_t most = 50 * (dimensions_ + 1), patience = most / 2;  // against cycles: the first column, then an end
    std::optional<std::vector<double>> found;
    for (size_t exchanges = 0; exchanges < most; ++exchanges) {
        found = multipliers(box);
        if (!found) return std::nullopt;
        const std::optional<Column> column = entering(*found, box, exchanges > patience);
        if (!column) break;
        if (!exchange(*column)) return std::nullopt;
    }
    Peak peak;
    for (size_t d = 0; d < dimensions_; ++d) {
        peak.at.push_back(std::clamp(-(*found)[d], box.lower[d], box.upper[d]));
    }
    peak.height = found->back();
    return peak;
}

}  // namespace dna_fast
