"""Several best choices: apart from each other, tied, or too close to tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from solver import oracle
from solver.synthetic import middling_budgets, sixteen_cells

from dna_fast import search
from dna_fast.search import Solution, solve

CHUNKS = [range(start, start + 30) for start in range(0, 240, 30)]


def all_of(solution: Solution) -> list[tuple[float, tuple[int, ...]]]:
    if solution.loss is None or solution.choice is None:
        return []
    return [(solution.loss, solution.choice), *((a.loss, a.choice) for a in solution.alternatives)]


def apart(points: list[oracle.Point], top_k: int, differences: int) -> list[tuple[float, tuple[int, ...]]]:
    """One after another, the best that differs enough from all before it."""
    taken: list[oracle.Point] = []
    for point in points:
        far = all(sum(a != b for a, b in zip(point.choice, t.choice, strict=True)) >= differences for t in taken)
        if far and len(taken) < top_k:
            taken.append(point)
    return [(point.loss, point.choice) for point in taken]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"seeds_{seeds[0]}_to_{seeds[-1]}")
def test_choices_apart_equal_brute_force(seeds: range) -> None:
    for seed in seeds:
        instance = oracle.random_instance(seed, infeasible=seed % 7 == 0)
        points = oracle.best(instance, 10**9)
        for differences in range(1, len(instance.losses) + 1):
            solution = solve(
                instance.losses,
                instance.costs,
                instance.budgets,
                labels=instance.labels,
                top_k=4,
                min_differences=differences,
            )
            assert all_of(solution) == apart(points, 4, differences), (seed, differences)
            assert solution.status == ("optimal" if points else "infeasible"), (seed, differences)


def test_choices_apart_hold_the_costs_that_were_asked_for() -> None:
    solution = solve([[0.0, 0.1], [0.0, 0.1]], {"macs": [[1, 2], [3, 4]]}, {}, top_k=3, min_differences=2)
    assert (solution.costs, [a.costs for a in solution.alternatives]) == ({"macs": 4}, [{"macs": 6}])


def test_sixteen_cells_five_apart() -> None:
    losses, costs = sixteen_cells(2)
    macs = {"macs": costs["macs"]}
    solution = solve(losses, macs, {"macs": middling_budgets(costs)["macs"]}, top_k=5, min_differences=4)
    assert solution.status == "optimal"
    choices = [choice for _, choice in all_of(solution)]
    assert len(choices) == 5
    for i, one in enumerate(choices):
        for other in choices[:i]:
            assert sum(a != b for a, b in zip(one, other, strict=True)) >= 4


@pytest.mark.parametrize("differences", [0, 3])
def test_impossible_differences_are_refused(differences: int) -> None:
    with pytest.raises(ValueError, match=f"min_differences must be 1 to 2, the number of blocks, got {differences}"):
        solve([[0.0, 1.0], [0.0, 1.0]], {}, {}, min_differences=differences)


def test_no_time_for_further_ones_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, costs = sixteen_cells(2)
    question = {"top_k": 6, "min_differences": 6}
    budgets = middling_budgets(costs)
    whole = solve(losses, costs, budgets, **question)
    assert (whole.status, len(whole.alternatives)) == ("optimal", 5)

    class Clock:
        """Jumps past the deadline at its fourth reading: when solve() began, the deadline, one further choice."""

        readings = 0

        def perf_counter(self) -> float:
            self.readings += 1
            return 0.0 if self.readings < 4 else 1000.0

    monkeypatch.setattr(search, "time", Clock())
    limited = solve(losses, costs, budgets, **question, time_limit_s=500)
    assert limited.status == "feasible"
    assert all_of(limited)[:2] == all_of(whole)[:2]
    assert len(limited.alternatives) < 5


def test_ties_are_marked() -> None:
    solution = solve([[0.5, 0.5, 0.75], [0.0]], {}, {}, top_k=3)
    assert [a.tied for a in solution.alternatives] == [True, False]


def test_standard_errors_tell_what_cannot_be_told_apart() -> None:
    losses, errors = [[0.5, 0.6, 0.9], [0.1, 0.2]], [[0.03, 0.04, 0.0], [0.5, 0.5]]
    solution = solve(losses, {}, {}, top_k=3, standard_errors=errors)
    first, second = solution.alternatives
    # (1, 0) and (0, 1): the first differs in block 0 alone, where the errors are 0.03 and 0.04.
    assert {first.choice, second.choice} == {(1, 0), (0, 1)}
    by_choice = {a.choice: a for a in solution.alternatives}
    assert by_choice[1, 0].difference_error == pytest.approx(0.05)
    assert not by_choice[1, 0].indistinguishable  # 0.1 is more than 1.96 * 0.05
    assert by_choice[0, 1].difference_error == pytest.approx(math.hypot(0.5, 0.5))
    assert by_choice[0, 1].indistinguishable


def test_unknown_errors_leave_it_open() -> None:
    solution = solve([[0.5, 0.6], [0.1]], {}, {}, top_k=2, standard_errors=[[0.1, np.nan], [0.1]])
    assert solution.alternatives[0].difference_error is None
    assert solution.alternatives[0].indistinguishable is None
    assert solve([[0.5, 0.6]], {}, {}, top_k=2).alternatives[0].indistinguishable is None


def test_errors_of_rows_follow_the_labels() -> None:
    losses = [[0.0, 0.1], [[0.0], [0.5]]]
    solution = solve(losses, {}, {}, labels=[[16, 24], [1]], top_k=2, standard_errors=[[0.3, 0.4], [[0.0], [1.2]]])
    assert solution.alternatives[0].difference_error == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([[0.1, 0.1]], r"one array per block \(2\), got 1"),
        ([[0.1], [0.1]], r"standard_errors\[0\] must have the losses' shape \(2,\), got \(1,\)"),
        ([[0.1, 0.1], [-1.0]], r"standard_errors\[1\], candidate 0 must not be negative, got -1.0"),
    ],
    ids=["blocks", "shape", "negative"],
)
def test_wrong_errors_are_refused(errors: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        solve([[0.5, 0.6], [0.1]], {}, {}, standard_errors=errors)
