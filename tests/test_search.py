"""The Python side of searching: what is accepted, what is refused and in which words, what comes back."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys

import numpy as np
import pytest

from dna_fast import search, search_arrays
from dna_fast.search import CostSpec, pareto_front, solve

LOSSES = [[0.4, 0.1], [0.2, 0.0]]
MACS = {"macs": [[1, 5], [2, 4]]}
TWO_ROWS = [[0.4, 0.1], [[0.2, 0.0], [0.3, 0.1]]]
LABELS = [[24, 32], [40, 40]]


def test_docstring_examples() -> None:
    result = doctest.testmod(search)
    assert result.attempted >= 4
    assert result.failed == 0


def test_solution_holds_plain_python_values() -> None:
    solution = solve(LOSSES, MACS | {"params": [[7, 8], [9, 9]]}, {"macs": 7}, top_k=2)
    assert solution.status == "optimal"
    assert (solution.loss, solution.choice) == (0.1 + 0.2, (1, 0))
    assert solution.costs == {"macs": 7, "params": 17}  # params has no budget and is reported all the same
    assert (solution.bound, solution.gap, solution.smallest_feasible) == (solution.loss, 0.0, {})
    assert [(a.choice, a.costs) for a in solution.alternatives] == [((0, 1), {"macs": 5, "params": 16})]
    assert type(solution.loss) is float
    assert {type(value) for value in (*solution.costs.values(), *solution.choice)} == {int}
    assert solution.stats["time_s"] > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.loss = 0.0


def test_fewer_choices_than_top_k() -> None:
    assert len(solve(LOSSES, MACS, {}, top_k=100).alternatives) == 3


def test_infeasible_says_what_would_do() -> None:
    solution = solve(LOSSES, MACS | {"params": [[7, 8], [9, 9]]}, {"macs": 2, "params": 16})
    assert (solution.status, solution.loss, solution.costs, solution.choice) == ("infeasible", None, None, None)
    assert solution.smallest_feasible == {"macs": 3, "params": None}


@pytest.mark.parametrize(
    ("budget", "choice"),
    [
        (7, (1, 0)),
        (np.int32(7), (1, 0)),
        ((None, 7), (1, 0)),
        ((4, 6), (0, 1)),
        ([4, 6], (0, 1)),
        ((8, None), (1, 1)),
        ((None, None), (1, 1)),
        (None, (1, 1)),
        (10**30, (1, 1)),
        (-(10**30), None),
        ((10**30, None), None),
    ],
    ids=str,
)
def test_budget_forms(budget: object, choice: tuple[int, ...] | None) -> None:
    assert solve(LOSSES, MACS, {"macs": budget}).choice == choice


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64], ids=lambda t: t.__name__
)
def test_any_integer_dtype_and_layout(dtype: type) -> None:
    costs = {"macs": [np.array([[1, 9, 5, 9]], dtype)[:, ::2], np.array([2, 4], dtype)]}
    losses = [np.array([0.4, 0.1], np.float32), np.array([9, 0, 1])[:0:-1]]
    solution = solve(losses, costs, {"macs": 7})
    assert (solution.choice, solution.costs) == ((0, 1), {"macs": 5})


def test_arrays_are_read_in_place_and_left_alone() -> None:
    array = np.array([0.4, 0.1])
    array.flags.writeable = False
    assert search_arrays._losses_of_block(array, 0) is array
    assert solve([array, array], {}, {}).choice == (1, 1)


def test_rows_follow_the_sorted_distinct_labels() -> None:
    # Labels 32 and 24: row 0 belongs to 24, which the second candidate shows.
    losses = [[0.0, 0.0], [[5.0, 0.5], [7.0, 6.0]]]
    solution = solve(losses, {}, {}, labels=[[32, 24], [0, 0]])
    assert (solution.choice, solution.loss) == ((1, 1), 0.5)
    front = pareto_front(losses, {"macs": [[0, 1], [0, 0]]}, labels=[[32, 24], [0, 0]])
    assert (front.loss.tolist(), front.choice.tolist()) == ([6.0, 0.5], [[0, 1], [1, 1]])


def test_max_type_cost() -> None:
    memory = {"memory": CostSpec([[3, 9], [5, 4]], reduce="max")}
    solution = solve(LOSSES, memory, {"memory": 5})
    assert (solution.choice, solution.costs) == ((0, 1), {"memory": 4})


REFUSED = {
    "no_blocks": ({"losses": []}, ValueError, "losses must hold at least one block, got none"),
    "empty_block": ({"losses": [[0.1], []]}, ValueError, r"losses\[1\] has no candidates, got shape \(0,\)"),
    "loss_nan": ({"losses": [[0.1, 0.2], [0.1, np.nan]]}, ValueError, "block 1, candidate 1 must be finite, got nan"),
    "loss_inf": ({"losses": [[np.inf, 0.2], [0.1, 0.3]]}, ValueError, "block 0, candidate 0 must be finite, got inf"),
    "loss_text": ({"losses": [["a", "b"], [0.1, 0.3]]}, TypeError, r"losses\[0\] must be real numbers, got dtype"),
    "loss_complex": ({"losses": [[1j, 0], [0.1, 0.3]]}, TypeError, "must be real numbers, got dtype complex128"),
    "loss_scalar": ({"losses": [0.5, [0.1, 0.3]]}, ValueError, r"losses\[0\] must be \[n\] or \[labels_in, n\]"),
    "loss_3d": ({"losses": [[[[0.1]]], [0.1, 0.3]]}, ValueError, r"got shape \(1, 1, 1\)"),
    "loss_rows_block_0": ({"losses": [[[1, 2], [3, 4]], [0, 1]]}, ValueError, "1 rows, as no block comes before"),
    "loss_rows_no_labels": ({"losses": TWO_ROWS}, ValueError, r"must have 1 rows, as labels\[0\] has 1 distinct"),
    "loss_rows_labels": (
        {"losses": TWO_ROWS, "labels": [[24, 24], [40, 40]]},
        ValueError,
        r"losses\[1\] must have 1 rows, as labels\[0\] has 1 distinct, got shape \(2, 2\); check labels",
    ),
    "labels_count": ({"labels": [[1, 2]]}, ValueError, r"one array per block \(2 as in losses\), got 1"),
    "labels_length": ({"labels": [[1, 2, 3], [1, 2]]}, ValueError, r"labels\[0\] must be \[2\], one per candidate"),
    "labels_float": ({"labels": [[1.5, 2], [1, 2]]}, TypeError, r"labels\[0\] must be integers, got dtype float64"),
    "cost_count": ({"costs": {"macs": [[1, 2]]}}, ValueError, r"cost 'macs' must hold one array per block \(2"),
    "cost_length": ({"costs": {"macs": [[1, 2], [1, 2, 3]]}}, ValueError, r"cost 'macs'\[1\] must be \[2\] or"),
    "cost_empty": ({"costs": {"macs": [[1, 2], []]}}, ValueError, r"cost 'macs'\[1\] must be \[2\] or"),
    "cost_rows": (
        {"costs": {"macs": [[1, 2], [[1, 2], [1, 2], [1, 2]]]}, "labels": LABELS},
        ValueError,
        r"cost 'macs'\[1\] must have 2 rows, as labels\[0\] has 2 distinct, got shape \(3, 2\)",
    ),
    "cost_float": (
        {"costs": {"latency_us": [[1.5, 2], [1, 2]]}},
        TypeError,
        r"cost 'latency_us'\[0\] must be integers, got dtype float64; round it to whole units",
    ),
    "cost_bool": ({"costs": {"macs": [[True, False], [1, 2]]}}, TypeError, "must be integers, got dtype bool"),
    "cost_negative": (
        {"costs": {"macs": [[1, 2], [1, -2]]}},
        ValueError,
        "cost 'macs' of block 1, candidate 1 must not be negative, got -2",
    ),
    "cost_uint64": (
        {"costs": {"macs": [np.array([1, 2**63], np.uint64), [1, 2]]}},
        ValueError,
        r"cost 'macs'\[0\], candidate 1 must fit int64, got 9223372036854775808",
    ),
    "cost_overflow": (
        {"costs": {"macs": [[2**62, 1], [2**62, 1]]}},
        ValueError,
        "the total of cost 'macs' could leave int64 at block 1; use a coarser unit",
    ),
    "loss_overflow": ({"losses": [[1e308, 0], [1e308, 0]]}, ValueError, "sum of losses could leave float64"),
    "reduce": ({"costs": {"macs": CostSpec([[1], [2]], "mean")}}, ValueError, "reduce must be 'sum' or 'max'"),
    "budget_name": (
        {"budgets": {"mac": 5}},
        ValueError,
        "budget 'mac' names no cost; known costs: macs; did you mean 'macs'",
    ),
    "budget_name_no_costs": ({"costs": {}}, ValueError, "budget 'macs' names no cost; known costs: none$"),
    "budget_float": ({"budgets": {"macs": 5.5}}, TypeError, "budget 'macs' must be a whole number, got 5.5; write 5"),
    "budget_text": ({"budgets": {"macs": "460M"}}, TypeError, "must be a whole number, got '460M'$"),
    "budget_bool": ({"budgets": {"macs": True}}, TypeError, "must be a whole number, got True"),
    "budget_length": ({"budgets": {"macs": (1, 2, 3)}}, ValueError, r"an upper end or \(lower, upper\), got 3 values"),
    "budget_order": ({"budgets": {"macs": (7, 3)}}, ValueError, r"must have lower <= upper, got \(7, 3\)"),
    "top_k": ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
    "max_states": ({"max_states": 0}, ValueError, "max_states must be at least 1, got 0"),
    "time_limit": ({"time_limit_s": -1}, ValueError, "time_limit_s must be a number of seconds >= 0 or None, got -1"),
    "time_limit_nan": ({"time_limit_s": np.nan}, ValueError, "time_limit_s must be a number"),
    "method": (
        {"method": "bean"},
        ValueError,
        "method must be 'auto', 'front', 'branch_and_bound' or 'beam', got 'bean'",
    ),
}


@pytest.mark.parametrize(("changed", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_words(changed: dict, error: type[Exception], words: str) -> None:
    arguments = {"losses": LOSSES, "costs": MACS, "budgets": {"macs": 7}} | changed
    if "costs" in changed and "budgets" not in changed and changed["costs"]:
        arguments["budgets"] = {}
    with pytest.raises(error, match=words):
        solve(**arguments)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [REFUSED[name] for name in ("no_blocks", "loss_nan", "cost_float", "labels_length")],
    ids=["no_blocks", "loss_nan", "cost_float", "labels_length"],
)
def test_front_refuses_the_same(changed: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pareto_front(**({"losses": LOSSES, "costs": MACS} | changed))


def test_front_refuses_no_points() -> None:
    with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
        pareto_front(LOSSES, MACS, max_points=0)


def test_missing_solver_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dna_fast._solver", None)
    monkeypatch.delattr("dna_fast._solver", raising=False)
    with pytest.raises(RuntimeError, match=r"dna_fast\._solver is not built .* run `pip install \.`"):
        solve(LOSSES, MACS, {})


def test_import_loads_nothing_compiled() -> None:
    code = "import sys, dna_fast.search; print('dna_fast._solver' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
