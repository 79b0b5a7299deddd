"""Many budgets in one call: the answers that each gets alone."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from solver import oracle
from solver.synthetic import middling_budgets, sixteen_cells

from dna_fast.search import Solution, solve, solve_many


def answer(solution: Solution) -> tuple:
    """All but the statistics."""
    return dataclasses.astuple(dataclasses.replace(solution, stats={}))


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("start", range(0, 200, 40), ids="seeds_from_{}".format)
def test_equal_to_one_by_one(start: int, top_k: int) -> None:
    statuses = set()
    for seed in range(start, start + 40):
        instance = oracle.random_instance(seed, infeasible=seed % 4 == 0)
        points, rng = oracle.all_points(instance), np.random.default_rng(seed)
        budgets: list[dict] = [dict(instance.budgets), {}]
        for _ in range(4):
            anchor = points[rng.integers(len(points))]
            ends = dict(zip(instance.costs, anchor.costs, strict=True))
            budgets.append({n: [e, (e, None), (None, e), (e, e), e - 1][rng.integers(5)] for n, e in ends.items()})
        arguments = {"labels": instance.labels, "top_k": top_k}
        together = solve_many(instance.losses, instance.costs, budgets, **arguments)
        alone = [solve(instance.losses, instance.costs, b, **arguments) for b in budgets]
        assert [answer(s) for s in together] == [answer(s) for s in alone], seed
        statuses |= {s.status for s in together}
    assert statuses == {"optimal", "infeasible"}


@pytest.mark.parametrize("method", ["auto", "front", "beam"])
def test_threads_change_nothing(method: str) -> None:
    losses, costs = sixteen_cells(3)
    losses = [np.round(loss, 3) for loss in losses]  # with ties
    two = {name: costs[name] for name in ("macs", "latency_us")}
    budgets = [middling_budgets(two, share) for share in np.linspace(0.1, 0.5, 9)]
    answers = [
        [(answer(s), s.stats) for s in solve_many(losses, two, budgets, method=method, threads=threads, beam_width=64)]
        for threads in (1, 2, 5, 64)
    ]
    assert answers[0] == answers[1] == answers[2] == answers[3]


def test_hundreds_of_questions_a_second() -> None:
    losses, costs = sixteen_cells(3)
    two = {name: costs[name] for name in ("macs", "params")}
    budgets = [middling_budgets(two, share) for share in np.linspace(0.1, 0.5, 200)]
    started = time.perf_counter()
    solutions = solve_many(losses, two, budgets)
    assert time.perf_counter() - started < 4  # a busy machine; about a third of a second on an idle one
    found = [s.loss for s in solutions if s.loss is not None]
    assert found == sorted(found, reverse=True)  # more budget never loses more


def test_time_limit_is_for_all_together() -> None:
    losses, costs = sixteen_cells(0)
    exact = [{n: (e, e) for n, e in middling_budgets(costs, share).items()} for share in np.linspace(0.2, 0.4, 20)]
    started = time.perf_counter()
    solutions = solve_many(losses, costs, exact, time_limit_s=0.3, threads=2)
    assert time.perf_counter() - started < 2
    assert len(solutions) == 20
    assert all(s.status in ("limit", "feasible", "infeasible") for s in solutions)


def test_no_questions() -> None:
    assert solve_many([[0.0, 1.0]], {}, []) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"budgets": [{"mac": 1}]}, "budget 'mac' names no cost"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"losses": [[0.0, np.nan]]}, "block 0, candidate 1 must be finite"),
    ],
    ids=["threads", "name", "top_k", "nan"],
)
def test_wrong_arguments_are_refused(changed: dict, words: str) -> None:
    arguments = {"losses": [[0.0, 1.0]], "costs": {"macs": [[1, 2]]}, "budgets": [{"macs": 1}]} | changed
    with pytest.raises(ValueError, match=words):
        solve_many(**arguments)


def test_the_common_removal_spares_ties() -> None:
    # Candidate 1 costs less for the same loss, and candidate 0 is the answer wherever it fits.
    many = solve_many([[0.5, 0.5], [0.0]], {"macs": [[2, 1], [0]]}, [{"macs": 5}, {"macs": 2}, {"macs": 1}])
    assert [solution.choice for solution in many] == [(0, 0), (0, 0), (1, 0)]
