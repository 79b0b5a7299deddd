"""solve() against brute force, and what must not change its answer."""

from __future__ import annotations

import numpy as np
import pytest
from solver import oracle

from dna_fast.search import CostSpec, Solution, solve

METHODS = ["front", "branch_and_bound"]
SEEDS = range(560)
CHUNKS = [range(start, start + 40) for start in range(0, len(SEEDS), 40)]


def instance_of(seed: int) -> oracle.Instance:
    return oracle.random_instance(seed, infeasible=seed % 4 == 0)


def run(instance: oracle.Instance, **options) -> Solution:
    return solve(instance.losses, instance.costs, instance.budgets, labels=instance.labels, **options)


def points_of(solution: Solution) -> list[oracle.Point]:
    found = [] if solution.choice is None else [solution, *solution.alternatives]
    return [oracle.Point(f.loss, f.choice, tuple(f.costs.values())) for f in found]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"seeds_{seeds[0]}_to_{seeds[-1]}")
def test_equals_brute_force(method: str, seeds: range) -> None:
    for seed in seeds:
        instance = instance_of(seed)
        for top_k in (1, 2 + seed % 6):
            expected = oracle.best(instance, top_k)
            solution = run(instance, top_k=top_k, method=method)
            assert points_of(solution) == expected, (seed, top_k)
            if expected:
                assert (solution.status, solution.bound, solution.gap) == ("optimal", solution.loss, 0.0), seed
                assert solution.stats["ties"] == "resolved", seed
                assert solution.smallest_feasible == {}, seed
            else:
                assert (solution.status, solution.bound, solution.gap) == ("infeasible", np.inf, np.inf), seed
                assert solution.smallest_feasible == oracle.smallest_feasible(instance), seed


def test_random_instances_hold_every_feature() -> None:
    seen = dict.fromkeys(["labels", "2-D losses", "2-D costs", "max-type", "lower end", "infeasible", "near ties"], 0)
    for seed in SEEDS:
        instance = instance_of(seed)
        feasible = [point for point in oracle.all_points(instance) if oracle.fits(instance, point)]
        seen["labels"] += instance.labels is not None
        seen["2-D losses"] += any(a.ndim == 2 and len(a) > 1 for a in instance.losses)
        seen["2-D costs"] += any(a.ndim == 2 and len(a) > 1 for spec in instance.costs.values() for a in spec.arrays)
        seen["max-type"] += any(instance.costs[name].reduce == "max" for name in instance.budgets)
        seen["lower end"] += any(isinstance(budget, tuple) for budget in instance.budgets.values())
        seen["infeasible"] += not feasible
        if feasible:
            losses = {point.loss for point in feasible}
            least = min(losses)
            ties = sum(point.loss == least for point in feasible)
            seen["near ties"] += ties > 1 or any(0 < loss - least < 1e-12 for loss in losses)
    assert all(count >= 30 for count in seen.values()), seen


@pytest.mark.parametrize("method", METHODS)
def test_rounding_makes_unequal_prefixes_tie(method: str) -> None:
    # 0.1 + 0.2 is larger than 0.3 + 0.0, but 10 more swallows the difference: the first choice must win.
    losses = [[0.1, 0.3], [0.2, 0.0], [10.0]]
    assert 0.1 + 0.2 > 0.3
    assert 0.1 + 0.2 + 10.0 == 0.3 + 10.0
    costs = {"macs": [[0, 1], [1, 0], [0]]}
    solution = solve(losses, costs, {"macs": (1, 1)}, method=method, top_k=2)
    assert solution.choice == (0, 0, 0)
    assert [a.choice for a in solution.alternatives] == [(1, 1, 0)]


@pytest.mark.parametrize("method", METHODS)
def test_millions_of_equal_losses_give_the_first_choices(method: str) -> None:
    losses = [np.full(10, 0.1)] * 7
    costs = {"macs": [np.arange(10)[::-1]] * 7}
    solution = solve(losses, costs, {"macs": 60}, method=method, top_k=3)
    expected = [(0, 0, 0, 0, 0, 0, 3), (0, 0, 0, 0, 0, 0, 4), (0, 0, 0, 0, 0, 0, 5)]
    assert [solution.choice, *(a.choice for a in solution.alternatives)] == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_order_of_unlabelled_blocks_changes_nothing(method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = [rng.integers(-64, 64, 30) / 64 for _ in range(6)]  # sums of these are exact in any order
    costs = {name: [rng.integers(0, 100, 30) for _ in range(6)] for name in ("macs", "params")}
    budgets = {"macs": 200, "params": (150, 250)}
    order = rng.permutation(6)
    solution = solve(losses, costs, budgets, method=method)
    shuffled = solve(
        [losses[b] for b in order], {n: [a[b] for b in order] for n, a in costs.items()}, budgets, method=method
    )
    assert solution.status == shuffled.status == "optimal"
    assert solution.loss == shuffled.loss


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_dominated_candidates_change_nothing(method: str, seed: int) -> None:
    instance = oracle.random_instance(seed)

    def widen(arrays: list[np.ndarray], more: int) -> list[np.ndarray]:
        return [np.concatenate([a, a[..., :1] + more], axis=-1) for a in arrays]

    # Only costs with no lower end may grow: under a lower end, more is not worse.
    grows = {name: isinstance(instance.budgets.get(name, 0), int) for name in instance.costs}
    wider = oracle.Instance(
        widen(instance.losses, 1),
        {n: CostSpec(widen(spec.arrays, int(grows[n])), spec.reduce) for n, spec in instance.costs.items()},
        None if instance.labels is None else widen(instance.labels, 0),
        instance.budgets,
    )
    assert points_of(run(wider, method=method)) == points_of(run(instance, method=method))


@pytest.mark.parametrize("seed", range(12))
def test_methods_agree_where_brute_force_cannot_go(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [rng.choice([16, 24, 32], 25) for _ in range(7)]
    losses = [rng.choice([0.1, 0.2, 0.3, 0.7, 10.0], (3, 25) if b else 25) for b in range(7)]
    costs = {
        "macs": [rng.integers(0, 50, (3, 25) if b % 2 else 25) for b in range(7)],
        "memory": CostSpec([rng.integers(0, 50, 25) for _ in range(7)], "max"),
    }
    budgets = {"macs": (60, 90), "memory": 45}
    front, bounded = (solve(losses, costs, budgets, labels=labels, top_k=20, method=m) for m in METHODS)
    assert front.status == "optimal"
    assert points_of(front) == points_of(bounded)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e300])
def test_losses_near_the_ends_of_float64(scale: float) -> None:
    losses = [np.array([5.0, 3.0, 1.0]) * scale] * 3
    costs = {"macs": [np.array([1, 2, 4])] * 3}
    points = oracle.best(oracle.Instance(losses, {"macs": CostSpec(costs["macs"])}, None, {"macs": 8}), 3)
    assert points_of(solve(losses, costs, {"macs": 8}, top_k=3)) == points


def test_smallest_feasible_of_costs_beyond_float64() -> None:
    big = 2**60
    costs = {"bytes": [[big + 1, big + 3], [big + 7, big + 4]], "macs": [[5, 1], [5, 9]]}
    solution = solve([[0, 0], [0, 0]], costs, {"bytes": 10, "macs": 6})
    assert solution.status == "infeasible"
    assert solution.smallest_feasible == {"bytes": 2 * big + 10, "macs": None}


def test_costs_up_to_the_end_of_int64() -> None:
    most = int(np.iinfo(np.int64).max) - 1  # the last value is kept for "more than any total"
    costs = {"bytes": [[most - 5, most - 6], [5, 3]]}
    assert solve([[0, 1], [0, 1]], costs, {"bytes": (most, None)}).choice == (0, 0)
    assert solve([[0, 1], [0, 1]], costs, {"bytes": most - 2}).choice == (0, 1)
    assert solve([[0, 1], [0, 1]], costs, {"bytes": most - 3}).choice == (1, 1)
    assert solve([[0, 1], [0, 1]], costs, {"bytes": most - 4}).smallest_feasible == {"bytes": most - 3}
    assert solve([[0, 1], [0, 1]], costs, {"bytes": (most + 1, None)}).smallest_feasible == {"bytes": None}
    with pytest.raises(ValueError, match="total of cost 'bytes' could leave int64"):
        solve([[0, 1], [0, 1]], {"bytes": [[most - 5, 0], [6, 0]]}, {})


def test_auto_says_what_it_chose_and_why() -> None:
    losses, costs = [[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]}
    loose, tight = (solve(losses, costs, {"macs": end}).stats for end in (100, 7))
    assert (loose["method"], tight["method"]) == ("front", "branch_and_bound")
    assert "no budget can bind" in loose["reason"]
    assert "budget ends that can bind: 1" in tight["reason"]
    assert tight["candidates"] == [2, 2]
