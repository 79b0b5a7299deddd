"""What must hold for any problem, and what any input may do: give an answer or an error in words."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver import oracle

from dna_fast import _solver
from dna_fast.search import CostSpec, Solution, pareto_front, solve

METHODS = st.sampled_from(["auto", "front", "branch_and_bound", "beam"])
quickly = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list, dict, dict]:
    """Losses that are exact in any order, up to four costs of either kind, upper ends around a choice's totals."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    eighths = st.integers(-40, 40).map(lambda value: value / 8)
    losses = [np.array(draw(st.lists(eighths, min_size=n, max_size=n))) for n in sizes]
    choice = [draw(st.integers(0, n - 1)) for n in sizes]
    costs, budgets = {}, {}
    for c in range(draw(st.integers(1, 4))):
        arrays = [np.array(draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))) for n in sizes]
        reduce = draw(st.sampled_from(["sum", "sum", "max"]))
        total = (sum if reduce == "sum" else max)(int(a[i]) for a, i in zip(arrays, choice, strict=True))
        costs[f"cost{c}"] = CostSpec(arrays, reduce)
        budgets[f"cost{c}"] = draw(st.sampled_from([total, (total // 2, total), (total, total), (None, total)]))
    return losses, costs, budgets


def answers(solution: Solution) -> list[tuple[float, tuple[int, ...]]]:
    return [(solution.loss, solution.choice), *((a.loss, a.choice) for a in solution.alternatives)]


@quickly
@given(problems(), METHODS, st.randoms(use_true_random=False))
def test_order_of_unlabelled_blocks_changes_no_loss(problem: tuple, method: str, random) -> None:
    losses, costs, budgets = problem
    order = list(range(len(losses)))
    random.shuffle(order)
    shuffled = {n: CostSpec([spec.arrays[b] for b in order], spec.reduce) for n, spec in costs.items()}
    one = solve(losses, costs, budgets, method=method)
    other = solve([losses[b] for b in order], shuffled, budgets, method=method)
    assert one.loss == other.loss
    assert one.status == other.status == "optimal"


@quickly
@given(problems(), METHODS, st.integers(2, 10**9))
def test_scaling_costs_with_their_budgets_changes_nothing(problem: tuple, method: str, factor: int) -> None:
    losses, costs, budgets = problem
    scaled = {n: CostSpec([a * factor for a in spec.arrays], spec.reduce) for n, spec in costs.items()}
    ends = {
        n: tuple(None if end is None else end * factor for end in b) if isinstance(b, tuple) else b * factor
        for n, b in budgets.items()
    }
    one = solve(losses, costs, budgets, method=method, top_k=4)
    assert answers(one) == answers(solve(losses, scaled, ends, method=method, top_k=4))


@quickly
@given(problems(), METHODS)
def test_scaling_losses_by_a_power_of_two_changes_no_choice(problem: tuple, method: str) -> None:
    losses, costs, budgets = problem
    one = solve(losses, costs, budgets, method=method, top_k=4)
    other = solve([a * 2.0**60 for a in losses], costs, budgets, method=method, top_k=4)
    assert [choice for _, choice in answers(one)] == [choice for _, choice in answers(other)]


@quickly
@given(problems(), METHODS)
def test_worse_candidates_change_nothing(problem: tuple, method: str) -> None:
    losses, costs, budgets = problem
    wider = [np.append(a, a.max() + 1) for a in losses]
    copied = {
        n: CostSpec([np.append(a, a[losses[b].argmax()]) for b, a in enumerate(spec.arrays)], spec.reduce)
        for n, spec in costs.items()
    }
    assert answers(solve(losses, costs, budgets, method=method)) == answers(
        solve(wider, copied, budgets, method=method)
    )


@quickly
@given(problems(), METHODS, st.integers(1, 8))
def test_a_tighter_budget_never_loses_less(problem: tuple, method: str, step: int) -> None:
    losses, costs, budgets = problem
    upper = {n: b[1] if isinstance(b, tuple) else b for n, b in budgets.items()}
    loose = solve(losses, costs, upper, method=method)
    tight = solve(losses, costs, {n: end - step for n, end in upper.items()}, method=method)
    assert loose.status == "optimal"
    assert tight.status in ("optimal", "infeasible")
    assert tight.loss is None or tight.loss >= loose.loss
    assert tight.bound >= loose.bound


@quickly
@given(problems(), METHODS)
def test_more_alternatives_begin_like_fewer(problem: tuple, method: str) -> None:
    losses, costs, budgets = problem
    many = answers(solve(losses, costs, budgets, method=method, top_k=9))
    assert many == sorted(many)
    assert len(set(many)) == len(many)
    assert many[:3] == answers(solve(losses, costs, budgets, method=method, top_k=3))


@pytest.mark.parametrize("seed", range(30))
def test_sums_near_the_end_of_int64_equal_python_integers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = int(rng.integers(2, 5))
    top = 2**62 // blocks
    losses = [rng.integers(0, 50, 5) / 8 for _ in range(blocks)]
    arrays = [top - rng.integers(0, 2 ** int(rng.integers(2, 61)), 5) for _ in range(blocks)]
    instance = oracle.Instance(losses, {"bytes": CostSpec(arrays)}, None, {})
    totals = sorted(point.costs[0] for point in oracle.all_points(instance))
    assert totals[-1] > 2**61
    for end in (totals[0] - 1, totals[0], totals[len(totals) // 3], (totals[5], totals[-5]), (totals[-1], None)):
        asked = oracle.Instance(losses, instance.costs, None, {"bytes": end})
        expected = oracle.best(asked, 5)
        for method in ("front", "branch_and_bound", "beam"):
            solution = solve(losses, instance.costs, {"bytes": end}, method=method, top_k=5)
            if not expected:
                assert solution.status == "infeasible"
                assert solution.smallest_feasible == oracle.smallest_feasible(asked)
            else:
                found = [(a.loss, a.choice) for a in expected]
                assert answers(solution) == found
                assert solution.costs == {"bytes": expected[0].costs[0]}


def junk(rng: np.random.Generator) -> object:
    """Some array, list or thing that may or may not be what a block needs."""
    shape = [(3,), (0,), (2, 3), (1, 3), (3, 1), (), (1, 1, 3), (4,)][rng.integers(8)]
    dtype = [np.float64, np.int64, np.float32, np.int8, np.uint64, bool, complex, object, "U3"][rng.integers(9)]
    values = rng.integers(-2, 9, shape)
    if dtype is np.float64 and rng.random() < 0.3:
        values = np.where(values > 6, [np.nan, np.inf, -np.inf, 1e308][rng.integers(4)], values)
    if dtype is np.int64 and rng.random() < 0.2:
        values = np.where(values > 6, [2**63 - 1, -(2**63), 2**62][rng.integers(3)], values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casts that lose something
        array = np.asarray(values).astype(dtype)
    return [array, array.tolist(), np.atleast_1d(array)[..., ::2], None, "abc", 7, [[1], [2, 3]]][rng.integers(7)]


def sound(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 9, 3).astype(np.float64)


@pytest.mark.parametrize("start", range(0, 1200, 300), ids="from_{}".format)
def test_any_input_gives_an_answer_or_an_error_in_words(start: int) -> None:
    answered = refused = 0
    for seed in range(start, start + 300):
        rng = np.random.default_rng(seed)

        def some(make, rng=rng) -> list:
            return [junk(rng) if rng.random() < 0.1 else make(rng) for _ in range(rng.integers(0, 4))]

        losses = some(sound)
        costs = {f"c{i}": some(lambda g: sound(g).astype(np.int64)) for i in range(rng.integers(0, 3))}
        budget = [5, (1, 9), -3, 2**70, (None, None), "9", 1.5, None, (1, 2, 3), (9, 1)][rng.integers(10)]
        labels = [None, some(lambda g: g.integers(0, 2, 3))][rng.integers(2)]
        options = {"labels": labels, "top_k": int(rng.integers(1, 4))}
        if rng.random() < 0.2:
            options["standard_errors"] = some(lambda g: np.abs(sound(g)))
        try:
            solve(losses, costs, {"c0": budget} if rng.random() < 0.8 else {}, **options)
            pareto_front(losses, costs, labels=labels)
            answered += 1
        except (ValueError, TypeError):
            refused += 1
    assert answered > 5
    assert refused > 100


@pytest.mark.parametrize("start", range(0, 1200, 300), ids="from_{}".format)
def test_any_call_of_the_compiled_module_is_survived(start: int) -> None:
    for seed in range(start, start + 300):
        rng = np.random.default_rng(seed)

        def some(make, rng=rng) -> object:
            if rng.random() < 0.05:
                return junk(rng)
            return [junk(rng) if rng.random() < 0.05 else make(rng) for _ in range(2)]

        cost = ["c", "sum", some(lambda g: g.integers(0, 9, 3)), None, 5]
        if rng.random() < 0.2:
            cost[rng.integers(5)] = junk(rng)
        arguments = [some(sound), [tuple(cost)], some(lambda g: g.integers(0, 2, 3)), 2, "auto", 0.5, 1000, 64]
        if rng.random() < 0.2:
            arguments[rng.integers(len(arguments))] = junk(rng)
        # pybind11 calls what does not convert a RuntimeError.
        with contextlib.suppress(ValueError, TypeError, RuntimeError):
            _solver.solve(*arguments)
