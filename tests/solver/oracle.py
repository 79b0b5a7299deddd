"""Brute force over all choices, and random small problems for it: independent of the solver's ideas."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dna_fast.search import CostSpec


@dataclass(frozen=True)
class Instance:
    """The arguments of ``solve``."""

    losses: list[np.ndarray]
    costs: dict[str, CostSpec]
    labels: list[np.ndarray] | None
    budgets: dict[str, int | tuple[int | None, int | None]]


@dataclass(frozen=True)
class Point:
    """One choice with its totals; points sort as the solver has to sort them."""

    loss: float
    choice: tuple[int, ...]
    costs: tuple[int, ...]


def all_points(instance: Instance) -> list[Point]:
    """Every choice, in lexicographic order."""
    return [_point(instance, choice) for choice in itertools.product(*(range(a.shape[-1]) for a in instance.losses))]


def _point(instance: Instance, choice: tuple[int, ...]) -> Point:
    rows = [0]
    for block, candidate in enumerate(choice[:-1]):
        labels = instance.labels[block] if instance.labels is not None else np.zeros(1, int).repeat(candidate + 1)
        rows.append(sorted(set(labels.tolist())).index(labels[candidate]))

    def values(arrays: list[np.ndarray]) -> list:
        entries = zip(arrays, rows, choice, strict=True)
        return [(a[row, i] if a.ndim == 2 else a[i]).item() for a, row, i in entries]

    loss = 0.0
    for value in values(instance.losses):
        loss += value
    reduce = {"sum": sum, "max": max}
    return Point(loss, choice, tuple(reduce[spec.reduce](values(spec.arrays)) for spec in instance.costs.values()))


def fits(instance: Instance, point: Point, skip_upper: str | None = None) -> bool:
    """Whether a point is within all budgets; ``skip_upper`` names a budget whose upper end is ignored."""
    totals = dict(zip(instance.costs, point.costs, strict=True))
    for name, budget in instance.budgets.items():
        lower, upper = budget if isinstance(budget, tuple) else (None, budget)
        if lower is not None and totals[name] < lower:
            return False
        if upper is not None and name != skip_upper and totals[name] > upper:
            return False
    return True


def best(instance: Instance, top_k: int) -> list[Point]:
    """The best feasible points by (loss, choice)."""
    feasible = [point for point in all_points(instance) if fits(instance, point)]
    return sorted(feasible, key=lambda point: (point.loss, point.choice))[:top_k]


def smallest_feasible(instance: Instance) -> dict[str, int | None]:
    """Per budget the least total cost with the other budgets and its own lower end held."""
    points = all_points(instance)
    return {
        name: min((p.costs[c] for p in points if fits(instance, p, skip_upper=name)), default=None)
        for c, name in enumerate(instance.costs)
        if name in instance.budgets and instance.budgets[name] not in (None, (None, None))
    }


def front(instance: Instance, allowed: Sequence[np.ndarray | None] | None = None) -> list[Point]:
    """Undominated points without duplicates, sorted by costs, then loss; of equal ones the first choice.

    ``allowed`` holds per block a mask of the candidates that count, or None for all.
    """
    first: dict[tuple, Point] = {}
    for point in all_points(instance):
        if allowed and not all(m is None or m[i] for m, i in zip(allowed, point.choice, strict=True)):
            continue
        first.setdefault((*point.costs, point.loss), point)
    vectors = np.array(list(first))
    undominated = [
        key for key, v in zip(first, vectors, strict=True) if not ((vectors <= v).all(1) & (vectors < v).any(1)).any()
    ]
    return [first[key] for key in sorted(undominated)]


def random_instance(seed: int, *, infeasible: bool = False) -> Instance:
    """A small problem; the seed decides which of labels, ties, max-type costs, negative losses, ... it has."""
    rng = np.random.default_rng(seed)
    blocks = int(rng.integers(1, 6))
    sizes = rng.integers(1, 6, blocks)
    labelled = bool(rng.random() < 0.5)
    labels = [rng.choice([16, 24, 32], size) for size in sizes] if labelled else None

    def arrays(draw) -> list[np.ndarray]:
        result = []
        for block, size in enumerate(sizes):
            rows = len(set(labels[block - 1].tolist())) if labels is not None and block > 0 else 1
            two = rng.random() < 0.5 and (labelled or block == 0)
            result.append(draw((rows, size) if two else size))
        return result

    ratings = [
        lambda shape: rng.random(shape),
        lambda shape: rng.choice([0.1, 0.2, 0.3, 10.0], shape),
        lambda shape: rng.integers(-3, 4, shape) * 0.1,
        lambda shape: rng.choice([1e16, 1.0, 0.3, -1e16, 2.0], shape),
        lambda shape: np.zeros(shape),
    ]
    losses = arrays(ratings[rng.integers(len(ratings))])
    costs = {}
    for c in range(int(rng.integers(1, 4))):
        top = int(rng.choice([2, 10, 1000]))
        reduce = "max" if rng.random() < 0.25 else "sum"
        costs[f"cost{c}"] = CostSpec(arrays(lambda shape, top=top: rng.integers(0, top, shape)), reduce)
    return Instance(losses, costs, labels, _random_budgets(rng, losses, costs, labels, infeasible))


def _random_budgets(rng, losses, costs, labels, infeasible) -> dict:
    points = all_points(Instance(losses, costs, labels, {}))
    totals = np.array([point.costs for point in points])
    budgets = {}
    # Feasible ones open a window around the costs of one choice, infeasible ones are drawn anyhow.
    anchor = totals[rng.integers(len(totals))]
    for c, name in enumerate(costs):
        if rng.random() < 0.2:
            continue
        spread = int(totals[:, c].max() - totals[:, c].min()) + 1
        upper = int(totals[:, c].min() - 1 + rng.integers(spread) // 4) if infeasible else int(anchor[c])
        lower = upper - int(rng.integers(spread)) // 3
        budgets[name] = [upper, (lower, upper), (lower, None)][rng.choice(3, p=[0.6, 0.25, 0.15])]
    return budgets
