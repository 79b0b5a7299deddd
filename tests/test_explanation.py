"""Why an answer is what it is, against brute force."""

from __future__ import annotations

import doctest

import pytest
from solver import oracle

from dna_fast import explanation
from dna_fast.explanation import explain
from dna_fast.search import CostSpec


def test_docstring_example() -> None:
    result = doctest.testmod(explanation)
    assert (result.attempted, result.failed) == (2, 0)


def least_loss(points: list[oracle.Point], instance: oracle.Instance, **ends: tuple) -> float | None:
    """The least loss with some budgets' (lower, upper) in place of the instance's."""
    changed = oracle.Instance(instance.losses, instance.costs, instance.labels, {**instance.budgets, **ends})
    return min((p.loss for p in points if oracle.fits(changed, p)), default=None)


@pytest.mark.parametrize("start", range(0, 120, 30), ids="seeds_from_{}".format)
def test_reports_equal_brute_force(start: int) -> None:
    seen = {"binds": 0, "next": 0, "loose": 0}
    for seed in range(start, start + 30):
        instance = oracle.random_instance(seed)
        points = oracle.all_points(instance)
        told = explain(instance.losses, instance.costs, instance.budgets, labels=instance.labels)
        assert [report.name for report in told.budgets] == list(instance.budgets), seed
        for report in told.budgets:
            budget = instance.budgets[report.name]
            lower, upper = budget if isinstance(budget, tuple) else (None, budget)
            without = least_loss(points, instance, **{report.name: (None, None)})
            assert (report.loss_without, report.binds) == (without, without < told.solution.loss), seed
            seen["binds" if report.binds else "loose"] += 1
            better = sorted(
                p.costs[list(instance.costs).index(report.name)]
                for p in points
                if p.loss < told.solution.loss and oracle.fits(instance, p, skip_upper=report.name)
            )
            expected = better[0] if upper is not None and better else None
            assert report.next_upper == expected, (seed, report.name)
            if expected is not None:
                seen["next"] += 1
                assert report.next_loss == least_loss(points, instance, **{report.name: (lower, expected)}), seed
                assert report.gain_per_unit > 0
    assert all(count > 0 for count in seen.values()), seen


def test_verdict_on_a_choice() -> None:
    losses = [[0.4, 0.1], [0.2, 0.0]]
    costs = {"macs": [[1, 5], [2, 4]], "memory": CostSpec([[7, 9], [1, 1]], "max")}
    told = explain(losses, costs, {"macs": 7, "memory": (8, None)}, choice=[1, 1])
    assert told.verdict.costs == {"macs": 9, "memory": 9}
    assert (told.verdict.broken, told.verdict.fits) == ({"macs": 2}, False)
    assert told.verdict.behind == pytest.approx(-0.2)
    lower = explain(losses, costs, {"memory": (8, None)}, choice=[0, 1]).verdict
    assert lower.broken == {"memory": -1}
    worse = explain(losses, costs, {"macs": 7}, choice=[0, 1]).verdict
    assert (worse.fits, worse.behind) == (True, pytest.approx(0.1))


def test_rows_of_the_verdict_follow_the_labels() -> None:
    told = explain([[0.0, 1.0], [[2.0], [3.0]]], {"m": [[1, 1], [[5], [6]]]}, {}, labels=[[8, 9], [0]], choice=[1, 0])
    assert (told.verdict.loss, told.verdict.costs) == (4.0, {"m": 7})


def test_words() -> None:
    losses, costs = [[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]], "params": [[1, 1], [1, 1]]}
    lines = explain(losses, costs, {"macs": 7, "params": 5}, choice=[1, 1]).lines()
    assert lines[1].startswith("macs: 7 of 7; binds, at 9 the loss would be 0.1")
    assert lines[2] == "params: 2; does not bind"
    assert lines[3] == "macs: the choice is off by 2"
    assert lines[4].startswith("the choice loses 0.1, ")
    assert lines[4].endswith(" less than the best that fits")
    infeasible = explain(losses, costs, {"macs": 2, "params": 1}).lines()
    assert infeasible[0] == "infeasible: loss None"
    assert "no value of it helps" in infeasible[1]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ([1], r"one candidate per block \(2\), got 1"),
        ([0, 2], "choice of block 1 must be 0 to 1, one of its candidates, got 2"),
        ([-1, 0], "choice of block 0 must be 0 to 1"),
    ],
    ids=["blocks", "too_large", "negative"],
)
def test_wrong_choices_are_refused(choice: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explain([[0.4, 0.1], [0.2, 0.0]], {}, {}, choice=choice)
