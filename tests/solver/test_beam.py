"""Beam search: never wrong about what it proves, never worse when wider, good where exactness is out of reach."""

from __future__ import annotations

import time

import numpy as np
import pytest
from solver import oracle
from solver.synthetic import middling_budgets, wide_space

from dna_fast.search import CostSpec, Solution, solve

CHUNKS = [range(start, start + 40) for start in range(0, 320, 40)]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"seeds_{seeds[0]}_to_{seeds[-1]}")
def test_brute_force_lies_between_bound_and_loss(seeds: range) -> None:
    proven = 0
    for seed in seeds:
        instance = oracle.random_instance(seed, infeasible=seed % 4 == 0)
        best = oracle.best(instance, 3)
        for width in (1, 8, 4096):
            for top_k in (1, 3):
                solution = solve(
                    instance.losses,
                    instance.costs,
                    instance.budgets,
                    labels=instance.labels,
                    method="beam",
                    beam_width=width,
                    top_k=top_k,
                )
                check_claims(solution, best[:top_k], seed)
                proven += solution.status in ("optimal", "infeasible")
    assert proven >= 2 * len(seeds)  # the widest proves every one


def check_claims(solution: Solution, best: list[oracle.Point], seed: int) -> None:
    if solution.status == "infeasible":
        assert not best, seed
    elif solution.status == "optimal":
        found = [(solution.loss, solution.choice), *((a.loss, a.choice) for a in solution.alternatives)]
        assert found == [(point.loss, point.choice) for point in best], seed
    elif solution.status == "feasible":
        assert solution.bound <= best[0].loss <= solution.loss, seed
        scale = max(abs(solution.loss), 1e-300)
        assert solution.gap == pytest.approx((solution.loss - solution.bound) / scale), seed
    else:
        assert solution.choice is None, seed
        assert not best or solution.bound <= best[0].loss, seed


def pinned() -> dict[str, tuple]:
    """Problems that no pass of moderate width settles."""
    rng = np.random.default_rng(7)
    labels = [rng.choice([16, 24, 32], 40) for _ in range(12)]
    losses, costs = wide_space(0, blocks=20, size=300)
    anchor = [int(rng.integers(0, 300)) for _ in range(20)]  # windows around its costs hold at least this choice
    totals = {n: sum(int(a[i]) for a, i in zip(arrays, anchor, strict=True)) for n, arrays in costs.items()}
    coupled = {
        "macs": [rng.integers(0, 10**6, (3, 40) if b else 40) for b in range(12)],
        "params": [rng.integers(0, 10**6, (3, 40) if b else 40) for b in range(12)],
        "memory": CostSpec([rng.integers(0, 1000, 40) for _ in range(12)], "max"),
    }
    return {
        "three_upper_ends": (losses, costs, middling_budgets(costs, 0.3), None),
        "three_windows": (losses, costs, {n: (v - v // 200, v + v // 200) for n, v in totals.items()}, None),
        "labels_and_maximum": (
            [rng.random((3, 40) if b else 40) for b in range(12)],
            coupled,
            {"macs": (3_400_000, 3_450_000), "params": (3_400_000, 3_450_000), "memory": (900, 980)},
            labels,
        ),
    }


@pytest.mark.parametrize("name", ["three_upper_ends", "three_windows", "labels_and_maximum"])
def test_a_wider_beam_is_never_worse(name: str) -> None:
    losses, costs, budgets, labels = pinned()[name]
    loss, bound = np.inf, -np.inf
    for width in (1, 3, 4, 16, 64, 100, 256, 1024):
        solution = solve(losses, costs, budgets, labels=labels, method="beam", beam_width=width)
        assert solution.bound <= (np.inf if solution.loss is None else solution.loss)
        assert (np.inf if solution.loss is None else solution.loss) <= loss
        assert solution.bound >= bound
        loss, bound = np.inf if solution.loss is None else solution.loss, solution.bound
    assert loss < np.inf
    within = [
        (low is None or low <= solution.costs[n]) and solution.costs[n] <= high
        for n, budget in budgets.items()
        for low, high in [budget if isinstance(budget, tuple) else (None, budget)]
    ]
    assert all(within)


def test_widths_between_powers_of_four_are_rounded_down() -> None:
    losses, costs, budgets, _ = pinned()["three_windows"]
    answers = [solve(losses, costs, budgets, method="beam", beam_width=width) for width in (64, 100, 255)]
    assert len({(a.loss, a.choice, a.bound, a.stats["passes"]) for a in answers}) == 1


def test_huge_space_with_two_budgets_has_a_small_proven_gap() -> None:
    # 27 blocks of 5,000 candidates: 7e99 choices.
    losses, costs = wide_space(1, blocks=27, size=5000)
    two = {name: costs[name] for name in ("macs", "params")}
    solution = solve(losses, two, middling_budgets(two), method="beam", beam_width=256)
    assert solution.status in ("optimal", "feasible")
    assert solution.gap <= 1e-3


def test_answers_within_a_deadline() -> None:
    losses, costs = wide_space(2, blocks=120, size=400)
    windows = {n: (v - v // 10_000, v) for n, v in middling_budgets(costs).items()}
    started = time.perf_counter()
    solution = solve(losses, costs, windows, method="beam", beam_width=4**12, time_limit_s=0.5)
    assert time.perf_counter() - started < 2
    assert solution.status in ("feasible", "limit")
    assert np.isfinite(solution.bound)


def test_auto_says_that_it_became_a_beam() -> None:
    losses, costs, budgets, _ = pinned()["three_windows"]
    solution = solve(losses, costs, budgets, max_states=2000)
    assert solution.status in ("feasible", "limit")
    assert solution.stats["method"] == "beam"
    assert "exactness is out of reach of max_states" in solution.stats["reason"]
    assert solution.stats["peak_front"] <= 2000 // 20
    beam = solve(losses, costs, budgets, method="beam")
    assert (beam.stats["method"], beam.stats["reason"]) == ("beam", "asked for")


def test_no_time_at_all_still_gives_a_bound() -> None:
    losses, costs, budgets, _ = pinned()["three_upper_ends"]
    solution = solve(losses, costs, budgets, method="beam", time_limit_s=0)
    assert solution.status in ("limit", "feasible")
    assert np.isfinite(solution.bound)


def test_few_states_narrow_the_beam() -> None:
    losses, costs, budgets, _ = pinned()["three_upper_ends"]
    solution = solve(losses, costs, budgets, method="beam", beam_width=4096, max_states=20 * 16)
    assert solution.stats["passes"] <= 4  # the probe and widths 1, 4, 16
