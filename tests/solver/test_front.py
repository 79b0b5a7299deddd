"""pareto_front() against brute force, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from solver import oracle
from solver.synthetic import middling_budgets, sixteen_cells

from dna_fast.search import CostSpec, Front, pareto_front, solve

CHUNKS = [range(start, start + 40) for start in range(0, 520, 40)]


def points_of(front: Front) -> list[oracle.Point]:
    columns = zip(*(column.tolist() for column in front.costs.values()), strict=True)
    return [
        oracle.Point(loss, tuple(choice), costs)
        for loss, choice, costs in zip(front.loss.tolist(), front.choice.tolist(), columns, strict=True)
    ]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"seeds_{seeds[0]}_to_{seeds[-1]}")
def test_equals_brute_force(seeds: range) -> None:
    for seed in seeds:
        instance = oracle.random_instance(seed)
        front = pareto_front(instance.losses, instance.costs, labels=instance.labels)
        assert points_of(front) == oracle.front(instance), seed


@pytest.mark.parametrize("costs", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_tied_vectors_give_the_first_choice(costs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = [rng.choice([0.1, 0.2, 0.3, 10.0], 4) for _ in range(5)]
    arrays = {f"cost{c}": CostSpec([rng.integers(0, 2, 4) for _ in range(5)]) for c in range(costs)}
    instance = oracle.Instance(losses, arrays, None, {})
    assert points_of(pareto_front(losses, arrays)) == oracle.front(instance)


def test_rounding_makes_unequal_prefixes_tie() -> None:
    front = pareto_front([[0.3, 0.1], [0.0, 0.2], [10.0]], {"macs": [[1, 0], [0, 1], [0]]})
    # 0.1 at no cost, and nothing else: every other choice loses or costs more.
    assert points_of(front) == [oracle.Point(10.1, (1, 0, 0), (0,))]
    front = pareto_front([[0.1, 0.3], [0.2, 0.0], [10.0]], {"a": [[0, 1], [1, 0], [0]], "b": [[1, 0], [0, 1], [0]]})
    assert oracle.Point(10.3, (0, 0, 0), (1, 1)) in points_of(front)


def test_types_and_shapes_without_costs() -> None:
    front = pareto_front([[0.4, 0.1], [0.2, 0.0]], {})
    assert (front.loss.tolist(), front.costs, front.choice.tolist()) == ([0.1], {}, [[1, 1]])
    assert (front.loss.dtype, front.choice.dtype) == (np.float64, np.int64)


def test_too_many_points_raise_in_words() -> None:
    losses, costs = [np.arange(10.0)] * 3, {"macs": [np.arange(10)[::-1]] * 3}
    assert len(pareto_front(losses, costs, max_points=28).loss) == 28
    with pytest.raises(
        RuntimeError, match=r"front after block 2 has more than max_points = 27 points; raise max_points"
    ):
        pareto_front(losses, costs, max_points=27)


def test_sixteen_cells_front_agrees_with_solve() -> None:
    losses, costs = sixteen_cells(0)
    macs = {"macs": costs["macs"]}
    front = pareto_front(losses, macs)
    assert len(front.loss) > 100
    assert (np.diff(front.costs["macs"]) > 0).all()
    assert (np.diff(front.loss) < 0).all()
    for point in range(0, len(front.loss), 40):
        end = int(front.costs["macs"][point])
        solution = solve(losses, macs, {"macs": end})
        assert (solution.loss, solution.choice) == (front.loss[point], tuple(front.choice[point].tolist()))
        if point > 0:  # one unit less buys only the point before
            assert solve(losses, macs, {"macs": end - 1}).loss == front.loss[point - 1]


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("seed", range(25))
def test_epsilon_front_covers_every_choice(seed: int, epsilon: float) -> None:
    instance = oracle.random_instance(seed)
    arguments = (instance.losses, instance.costs)
    for most in (3, 8, 10_000):
        options = {"labels": instance.labels, "max_points": most, "epsilon": epsilon}
        try:
            front = pareto_front(*arguments, **options)
        except RuntimeError:
            assert most < 10_000  # too few, however much is given up
            continue
        assert len(front.loss) <= most
        assert front.epsilon in (0.0, epsilon)
        exact = {point.choice: point for point in oracle.all_points(instance)}
        points = points_of(front)
        assert all(exact[p.choice] == p for p in points)
        for point in exact.values():
            assert any(
                p.loss <= point.loss
                and all(a <= b * (1 + front.epsilon) * (1 + 1e-12) for a, b in zip(p.costs, point.costs, strict=True))
                for p in points
            )


def test_epsilon_front_is_complete_where_it_fits() -> None:
    instance = oracle.random_instance(1)
    exact = pareto_front(instance.losses, instance.costs, labels=instance.labels)
    covering = pareto_front(instance.losses, instance.costs, labels=instance.labels, epsilon=0.5)
    assert covering.epsilon == 0
    assert points_of(covering) == points_of(exact)


def test_sixteen_cells_two_costs_within_ten_per_cent() -> None:
    losses, costs = sixteen_cells(0)
    two = {name: costs[name] for name in ("macs", "latency_us")}
    front = pareto_front(losses, two, max_points=6000, epsilon=0.1)
    assert 0 < len(front.loss) <= 6000
    assert front.epsilon == 0.1
    # Whatever the budgets, a point within 1 + epsilon times them loses no more than the optimum.
    for share in (0.15, 0.3, 0.5):
        budgets = middling_budgets(two, share)
        optimum = solve(losses, two, budgets)
        within = np.ones(len(front.loss), bool)
        for name, end in budgets.items():
            within &= front.costs[name] <= end * 1.1
        assert front.loss[within].min() <= optimum.loss


@pytest.mark.parametrize("epsilon", [-0.1, np.nan, np.inf])
def test_wrong_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be a finite number >= 0"):
        pareto_front([[0.0]], {}, epsilon=epsilon)
