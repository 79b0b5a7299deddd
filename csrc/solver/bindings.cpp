// Python module dna_fast._solver: arrays in, plain dictionaries out. Checks what C++ types cannot say; the meaning of
// the numbers is checked by Problem. dna_fast/search.py is the public face.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <string>

#include "front.h"
#include "many.h"
#include "solve.h"

namespace py = pybind11;
using namespace dna_fast;

namespace {

// Keeps the arrays alive while the solver reads them in place.
struct Arrays {
    std::vector<py::array> held;

    template <class T>
    Column<T> column(const py::handle& object, const std::string& what, size_t block) {
        const std::string where = what + " of block " + std::to_string(block);
        const std::string type = py::str(py::dtype::of<T>());
        if (!py::array_t<T, py::array::c_style>::check_(object)) {
            throw py::type_error(where + " must be a C-contiguous " + type + " array; call numpy.ascontiguousarray");
        }
        auto array = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
        if (array.ndim() != 1 && array.ndim() != 2) {
            throw py::value_error(where + " must be [n] or [rows, n], got " + std::to_string(array.ndim()) +
                                  " dimensions");
        }
        const bool flat = array.ndim() == 1;
        const auto rows = flat ? 1 : array.shape(0), size = array.shape(flat ? 0 : 1);
        if (rows > std::numeric_limits<int32_t>::max()) throw py::value_error(where + " has too many rows");
        held.push_back(array);
        return {array.data(), static_cast<uint32_t>(rows), static_cast<size_t>(size)};
    }
};

ProblemData read_problem(const py::list& losses, const py::list& costs, const py::list& labels, Arrays& arrays) {
    ProblemData data;
    for (size_t b = 0; b < losses.size(); ++b) data.losses.push_back(arrays.column<double>(losses[b], "losses", b));
    for (const py::handle& item : costs) {
        const auto entry = py::cast<py::tuple>(item);
        if (entry.size() != 5) throw py::value_error("a cost must be (name, reduce, arrays, lower, upper)");
        Cost cost;
        cost.name = py::cast<std::string>(entry[0]);
        const auto reduce = py::cast<std::string>(entry[1]);
        if (reduce != "sum" && reduce != "max") throw py::value_error("reduce must be 'sum' or 'max', got " + reduce);
        cost.reduce = reduce == "max" ? Reduce::max : Reduce::sum;
        const auto blocks = py::cast<py::list>(entry[2]);
        for (size_t b = 0; b < blocks.size(); ++b) {
            cost.blocks.push_back(arrays.column<int64_t>(blocks[b], "cost '" + cost.name + "'", b));
        }
        cost.lower = py::cast<std::optional<int64_t>>(entry[3]);
        cost.upper = py::cast<std::optional<int64_t>>(entry[4]);
        data.costs.push_back(std::move(cost));
    }
    for (size_t b = 0; b < labels.size(); ++b) {
        if (labels[b].is_none()) {
            data.labels.emplace_back();
            continue;
        }
        const Column<int64_t> codes = arrays.column<int64_t>(labels[b], "labels", b);
        if (codes.rows != 1) throw py::value_error("labels of block " + std::to_string(b) + " must be [n]");
        std::vector<uint32_t>& block = data.labels.emplace_back();
        for (size_t i = 0; i < codes.size; ++i) {
            if (codes.data[i] < 0 || codes.data[i] > std::numeric_limits<int32_t>::max()) {
                throw py::value_error("labels of block " + std::to_string(b) + " must be codes 0, 1, ..., got " +
                                      std::to_string(codes.data[i]));
            }
            block.push_back(static_cast<uint32_t>(codes.data[i]));
        }
    }
    return data;
}

// Deadline and Ctrl-C. The solver runs without the interpreter lock, so a pending signal is looked for by taking it,
// at most every 20 ms: often enough for a person, seldom enough to cost nothing.
class Watch {
  public:
    explicit Watch(std::optional<double> seconds) {
        constexpr double a_century = 3e9;  // beyond the clock's range there is no deadline
        if (seconds && *seconds < a_century) {
            const std::chrono::duration<double> wait(std::max(*seconds, 0.0));
            deadline_ = Limit::Clock::now() + std::chrono::duration_cast<Limit::Clock::duration>(wait);
        }
    }

    Limit limit() {
        return Limit(deadline_, [this] { return signalled(); });
    }

    // Raises the exception of the signal handler, if one came.
    void rethrow() const {
        if (signalled_) throw py::error_already_set();
    }

  private:
    bool signalled() {
        const auto now = Limit::Clock::now();
        if (signalled_ || now < next_look_) return signalled_;
        next_look_ = now + std::chrono::milliseconds(20);
        const py::gil_scoped_acquire lock;
        signalled_ = PyErr_CheckSignals() != 0;
        return signalled_;
    }

    std::optional<Limit::Clock::time_point> deadline_;
    Limit::Clock::time_point next_look_ = Limit::Clock::now();
    bool signalled_ = false;
};

py::dict to_dict(const Candidate& candidate) {
    py::dict result;
    result["loss"] = candidate.loss;
    result["costs"] = candidate.costs;
    result["choice"] = candidate.choice;
    return result;
}

py::dict to_dict(const Stats& stats) {
    py::dict result;
    result["candidates"] = stats.candidates;
    result["after_bounds"] = stats.after_bounds;
    result["after_dominance"] = stats.after_dominance;
    result["nodes"] = stats.nodes;
    result["peak_front"] = stats.peak_front;
    result["passes"] = stats.passes;
    result["iterations"] = stats.iterations;
    result["method"] = stats.method;
    result["reason"] = stats.reason;
    result["ties"] = stats.ties_resolved ? "resolved" : "unresolved";
    result["smallest_feasible"] = stats.smallest_feasible_complete ? "complete" : "limit";
    return result;
}

py::dict to_dict(const Solution& solution) {
    py::list best;
    for (const Candidate& candidate : solution.best) best.append(to_dict(candidate));
    py::dict smallest;
    for (const auto& [name, value] : solution.smallest_feasible) smallest[py::str(name)] = value;
    py::dict result;
    result["status"] = name(solution.status);
    result["best"] = best;
    result["bound"] = solution.bound;
    result["gap"] = solution.gap();
    result["smallest_feasible"] = smallest;
    result["stats"] = to_dict(solution.stats);
    return result;
}

std::optional<Method> method_of(const std::string& name) {
    if (name == "front") return Method::front;
    if (name == "branch_and_bound") return Method::branch_and_bound;
    if (name == "beam") return Method::beam;
    if (name != "auto") {
        throw py::value_error("method must be 'auto', 'front', 'branch_and_bound' or 'beam', got '" + name + "'");
    }
    return std::nullopt;
}

SolveOptions options_of(const std::string& method, size_t top_k, size_t max_states, size_t beam_width) {
    if (top_k < 1 || max_states < 1 || beam_width < 1) {
        throw py::value_error("top_k, max_states and beam_width must be at least 1");
    }
    return {method_of(method), top_k, max_states, beam_width};
}

py::dict solve_arrays(const py::list& losses, const py::list& costs, const py::list& labels, size_t top_k,
                      const std::string& method, std::optional<double> time_limit_s, size_t max_states,
                      size_t beam_width) {
    const SolveOptions options = options_of(method, top_k, max_states, beam_width);
    Arrays arrays;
    ProblemData data = read_problem(losses, costs, labels, arrays);
    Watch watch(time_limit_s);
    Solution solution;
    {
        const py::gil_scoped_release unlocked;
        Limit limit = watch.limit();
        const Problem problem(std::move(data));
        solution = solve(problem, options, limit);
    }
    watch.rethrow();
    return to_dict(solution);
}

using Ends = std::pair<std::optional<int64_t>, std::optional<int64_t>>;

// Budgets: per question one (lower, upper) per cost; those of the costs themselves are not read.
py::list solve_many_arrays(const py::list& losses, const py::list& costs, const py::list& labels,
                           const std::vector<std::vector<Ends>>& budgets, size_t top_k, const std::string& method,
                           std::optional<double> time_limit_s, size_t max_states, size_t beam_width, size_t threads) {
    if (threads < 1) throw py::value_error("threads must be at least 1");
    const SolveOptions options = options_of(method, top_k, max_states, beam_width);
    Arrays arrays;
    ProblemData data = read_problem(losses, costs, labels, arrays);
    std::vector<std::vector<BudgetEnds>> ends;
    for (const auto& question : budgets) {
        if (question.size() != costs.size()) throw py::value_error("budgets must hold one (lower, upper) per cost");
        auto& list = ends.emplace_back();
        for (const auto& [lower, upper] : question) list.push_back({lower, upper});
    }
    Watch watch(time_limit_s);
    std::vector<Solution> solutions;
    {
        const py::gil_scoped_release unlocked;
        Limit limit = watch.limit();
        const Problem problem(std::move(data));
        solutions = solve_many(problem, ends, options, threads, limit);
    }
    watch.rethrow();
    py::list result;
    for (const Solution& solution : solutions) result.append(to_dict(solution));
    return result;
}

py::dict front_of_arrays(const py::list& losses, const py::list& costs, const py::list& labels, size_t max_points,
                         double epsilon) {
    Arrays arrays;
    ProblemData data = read_problem(losses, costs, labels, arrays);
    const size_t blocks = losses.size();
    Watch watch(std::nullopt);
    Front front;
    try {
        const py::gil_scoped_release unlocked;
        Limit limit = watch.limit();
        const Problem problem(std::move(data));
        front = pareto_front(problem, {max_points, epsilon}, limit);
    } catch (const Interrupted&) {
        throw py::error_already_set();  // only a signal can end a front early
    }
    const auto points = static_cast<py::ssize_t>(front.loss.size());
    py::array_t<int64_t> choice({points, static_cast<py::ssize_t>(blocks)});
    int64_t* to = choice.mutable_data();
    for (const auto& row : front.choices) to = std::copy(row.begin(), row.end(), to);
    py::list columns;
    for (const auto& cost : front.costs) columns.append(py::array_t<int64_t>(points, cost.data()));
    py::dict result;
    result["loss"] = py::array_t<double>(points, front.loss.data());
    result["costs"] = columns;
    result["choice"] = choice;
    result["epsilon"] = front.epsilon;
    return result;
}

}  // namespace

PYBIND11_MODULE(_solver, module) {
    module.doc() = "Exact search over a product of candidates; use dna_fast.search.";
    module.def("solve", &solve_arrays, py::arg("losses"), py::arg("costs"), py::arg("labels"), py::arg("top_k"),
               py::arg("method"), py::arg("time_limit_s"), py::arg("max_states"), py::arg("beam_width"));
    module.def("pareto_front", &front_of_arrays, py::arg("losses"), py::arg("costs"), py::arg("labels"),
               py::arg("max_points"), py::arg("epsilon"));
    module.def("solve_many", &solve_many_arrays, py::arg("losses"), py::arg("costs"), py::arg("labels"),
               py::arg("budgets"), py::arg("top_k"), py::arg("method"), py::arg("time_limit_s"), py::arg("max_states"),
               py::arg("beam_width"), py::arg("threads"));
}
