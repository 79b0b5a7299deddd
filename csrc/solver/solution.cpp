#include "solution.h"

#include <algorithm>
#include <cmath>

namespace dna_fast {

const char* name(Status status) {
    switch (status) {
        case Status::optimal:
            return "optimal";
        case Status::feasible:
            return "feasible";
        case Status::infeasible:
            return "infeasible";
        case Status::limit:
            return "limit";
    }
    return "";  // not reached: every status has returned
}

double Solution::gap() const {
    if (best.empty()) return std::numeric_limits<double>::infinity();
    if (status == Status::optimal) return 0;
    constexpr double smallest_scale = 1e-300;  // a loss of zero must not divide by zero
    return (best[0].loss - bound) / std::max(std::abs(best[0].loss), smallest_scale);
}

}  // namespace dna_fast
