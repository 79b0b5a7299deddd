// The highest point under planes: the model of the Lagrangian bound that its evaluations so far give.
//
// Every choice of the chain is a plane above the bound as a function of the prices, so the peak of the least plane says
// how much better prices can get, and where. Few dimensions (one per resource), so dense arithmetic does.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace dna_fast {

class Planes {
  public:
    explicit Planes(size_t dimensions) : dimensions_(dimensions) {}

    void add(double constant, std::vector<double> slope);

    struct Box {
        std::vector<double> lower, upper;
    };
    struct Peak {
        std::vector<double> at;  // within the box
        double height = 0;       // of the least plane there; rounded, as all of this
    };
    // The peak of the least of all planes over the box; at least one plane must be there. Nothing: the planes are too
    // nearly parallel for the arithmetic.
    std::optional<Peak> peak(const Box& box);

  private:
    // A column of the dual program; a plane, or the lower or upper wall of one dimension.
    enum class Kind { lower_wall, upper_wall, plane };
    struct Column {
        Kind kind;
        size_t index;  // of the dimension or plane

        bool operator==(const Column&) const = default;
    };

    void start();
    double cost(const Column& column, const Box& box) const;
    double coefficient(const Column& column, size_t row) const;
    std::vector<double> coefficients(const Column& column) const;
    std::optional<std::vector<double>> multipliers(const Box& box) const;
    std::optional<Column> entering(const std::vector<double>& multipliers, const Box& box, bool first) const;
    bool exchange(const Column& column);

    size_t dimensions_;
    std::vector<double> constants_;
    std::vector<std::vector<double>> slopes_;
    std::vector<Column> basis_;  // [dimensions + 1]; stays feasible when planes are added and the box moves
};

}  // namespace dna_fast
