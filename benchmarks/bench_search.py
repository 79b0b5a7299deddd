"""Exact search on the 16-cell space (1.96e17 architectures), from raw arrays of 23,046 candidates; each answer checked first.

Opponents: HiGHS on the raw problem and behind a dominance filter (whose time is not counted against it); front merging in numpy from
raw arrays, filter included, and behind the filter. Times are warm, in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.baselines_search import filtered, highs, numpy_front
from benchmarks.problems import Problem, sixteen_cells
from dna_fast.search import pareto_front, solve

ONE, THREE = ("macs",), ("macs", "params", "latency_us")


@pytest.fixture(scope="module")
def one() -> Problem:
    return sixteen_cells(ONE)


@pytest.fixture(scope="module")
def three() -> Problem:
    return sixteen_cells(THREE)


def ours(problem: Problem, top_k: int = 1) -> float:
    solution = solve(problem.losses, problem.costs, problem.budgets, top_k=top_k)
    assert solution.status == "optimal"
    assert len(solution.alternatives) == top_k - 1
    assert solution.loss is not None
    return solution.loss


@pytest.mark.benchmark(group="optimum, one budget")
@pytest.mark.parametrize("opponent", ["dna_fast", "highs_raw", "highs_filtered"])
def test_one_budget(benchmark: Any, one: Problem, opponent: str) -> None:
    _race(benchmark, one, opponent)


@pytest.mark.benchmark(group="optimum, three budgets")
@pytest.mark.parametrize("opponent", ["dna_fast", "highs_filtered"])
def test_three_budgets(benchmark: Any, three: Problem, opponent: str) -> None:
    _race(benchmark, three, opponent)


@pytest.mark.benchmark(group="top 100, one budget")
def test_top_100(benchmark: Any, one: Problem) -> None:
    assert benchmark(ours, one, 100) == ours(one)


@pytest.mark.benchmark(group="complete front, one cost")
@pytest.mark.parametrize("opponent", ["dna_fast", "numpy_raw", "numpy_filtered"])
def test_front(benchmark: Any, one: Problem, opponent: str) -> None:
    reduced, _ = filtered(one)
    front = pareto_front(one.losses, one.costs)
    assert np.array_equal(np.stack([front.costs["macs"], front.loss], axis=1), numpy_front(reduced))
    benchmark.extra_info["points"] = len(front.loss)
    if opponent == "dna_fast":
        benchmark(pareto_front, one.losses, one.costs)
    elif opponent == "numpy_raw":
        benchmark(lambda: numpy_front(filtered(one)[0]))
    else:
        benchmark(numpy_front, reduced)


def _race(benchmark: Any, problem: Problem, opponent: str) -> None:
    target = problem if opponent == "highs_raw" else filtered(problem)[0]
    run: Callable[[Problem], float] = ours if opponent == "dna_fast" else highs
    argument = problem if opponent == "dna_fast" else target
    assert run(argument) == pytest.approx(ours(problem), abs=1e-6)  # HiGHS's own tolerance
    if opponent == "highs_raw":
        benchmark.pedantic(run, args=(argument,), rounds=3)
    else:
        benchmark(run, argument)
