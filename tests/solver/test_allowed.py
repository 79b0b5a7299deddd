"""Candidates fixed and forbidden, against brute force over what is left."""

from __future__ import annotations

import numpy as np
import pytest
from solver import oracle

from dna_fast.search import pareto_front, solve


def random_masks(instance: oracle.Instance, rng: np.random.Generator) -> list[np.ndarray | None]:
    allowed: list[np.ndarray | None] = []
    for losses in instance.losses:
        mask = rng.random(losses.shape[-1]) < 0.6
        mask[rng.integers(len(mask))] = True
        allowed.append(None if rng.random() < 0.3 else mask)
    return allowed


@pytest.mark.parametrize("start", range(0, 160, 40), ids="seeds_from_{}".format)
def test_equals_brute_force_over_what_is_left(start: int) -> None:
    statuses = set()
    for seed in range(start, start + 40):
        instance, rng = oracle.random_instance(seed), np.random.default_rng(seed)
        allowed = random_masks(instance, rng)
        expected = [
            point
            for point in oracle.best(instance, 10**9)
            if all(mask is None or mask[i] for mask, i in zip(allowed, point.choice, strict=True))
        ][:3]
        solution = solve(
            instance.losses, instance.costs, instance.budgets, labels=instance.labels, allowed=allowed, top_k=3
        )
        found = [] if solution.choice is None else [solution, *solution.alternatives]
        assert [(f.loss, f.choice, tuple(f.costs.values())) for f in found] == [
            (p.loss, p.choice, p.costs) for p in expected
        ], seed
        statuses.add(solution.status)
    assert statuses == {"optimal", "infeasible"}


@pytest.mark.parametrize("start", range(0, 160, 40), ids="seeds_from_{}".format)
def test_fronts_equal_brute_force_over_what_is_left(start: int) -> None:
    for seed in range(start, start + 40):
        instance = oracle.random_instance(seed)
        allowed = random_masks(instance, np.random.default_rng(seed))
        front = pareto_front(instance.losses, instance.costs, labels=instance.labels, allowed=allowed)
        columns = zip(*(column.tolist() for column in front.costs.values()), strict=True)
        found = zip(front.loss.tolist(), map(tuple, front.choice.tolist()), columns, strict=True)
        assert list(found) == [(p.loss, p.choice, p.costs) for p in oracle.front(instance, allowed)], seed


def test_apart_and_errors_count_from_what_is_allowed() -> None:
    losses, errors = [[0.0, 0.1, 0.2], [0.0, 0.1]], [[9.0, 0.3, 0.4], [0.0, 0.0]]
    solution = solve(losses, {}, {}, allowed=[[False, True, True], None], top_k=2, standard_errors=errors)
    assert solution.choice == (1, 0)
    apart = solve(losses, {}, {}, allowed=[[False, True, True], None], top_k=2, min_differences=2)
    assert [a.choice for a in apart.alternatives] == [(2, 1)]
    other = next(
        a
        for a in solve(
            losses, {}, {}, allowed=[[False, True, True], None], top_k=4, standard_errors=errors
        ).alternatives
        if a.choice == (2, 0)
    )
    assert other.difference_error == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("allowed", "error", "words"),
    [
        ([None], ValueError, r"one mask or None per block \(2\), got 1"),
        ([[True], None], ValueError, r"allowed\[0\] must be \[2\], one per candidate, got shape \(1,\)"),
        ([None, [False, False]], ValueError, r"allowed\[1\] leaves no candidate of block 1; allow at least one"),
        ([[0, 1], None], TypeError, r"allowed\[0\] must be boolean, true where a candidate may be chosen, got int64"),
    ],
    ids=["blocks", "shape", "nothing", "integers"],
)
def test_wrong_masks_are_refused(allowed: list, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        solve([[0.0, 1.0], [0.0, 1.0]], {}, {}, allowed=allowed)
