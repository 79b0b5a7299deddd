"""The 16-cell space of 1.96e17 choices: proven optima, compared with an integer programming solver."""

from __future__ import annotations

import numpy as np
import pytest
from solver.synthetic import SIXTEEN_CELLS, middling_budgets, sixteen_cells

from dna_fast.search import solve

optimize = pytest.importorskip("scipy.optimize", reason="the comparison needs scipy with HiGHS")

Arrays = list[np.ndarray]


def undominated(columns: np.ndarray) -> list[int]:
    """Rows of [n, d] that no other row is at most equal to, the first of equal ones: plain code, not the solver's."""
    kept: list[int] = []
    for i in np.lexsort(columns.T[::-1]):
        if not (columns[kept] <= columns[i]).all(axis=1).any():
            kept.append(int(i))
    return kept


def highs(losses: Arrays, costs: dict[str, Arrays], budgets: dict[str, int]) -> tuple[float, list[int]]:
    """HiGHS's proven lower bound and its choice, over the undominated candidates."""
    stacks = [np.stack([loss, *(costs[n][b] for n in budgets)], 1) for b, loss in enumerate(losses)]
    keep = [undominated(stack) for stack in stacks]
    reduced = np.concatenate([stack[k] for stack, k in zip(stacks, keep, strict=True)])
    block = np.concatenate([np.full(len(k), b) for b, k in enumerate(keep)])
    ends = np.array([budgets[n] for n in budgets], float)
    constraints = [
        optimize.LinearConstraint((block == np.arange(len(keep))[:, None]).astype(float), 1, 1),
        optimize.LinearConstraint(reduced[:, 1:].T / ends[:, None], -np.inf, 1),  # scaled: tolerances are absolute
    ]
    options = {"mip_rel_gap": 0.0, "time_limit": 30.0}
    result = optimize.milp(
        reduced[:, 0], constraints=constraints, integrality=np.ones(len(reduced)), bounds=(0, 1), options=options
    )
    assert result.status == 0, result.message
    chosen = [int(np.argmax(np.where(block == b, result.x, -1.0))) for b in range(len(keep))]
    flat = np.concatenate(keep)
    return result.mip_dual_bound, [int(flat[c]) for c in chosen]


@pytest.mark.parametrize("method", ["front", "branch_and_bound"])
@pytest.mark.parametrize("share", [0.15, 0.35], ids="share_{}".format)
def test_one_budget_agrees_with_highs(share: float, method: str) -> None:
    losses, costs = sixteen_cells(1)
    check_against_highs(losses, costs, {"macs": middling_budgets(costs, share)["macs"]}, method)


@pytest.mark.parametrize("seed", [0, 2])
def test_three_budgets_agree_with_highs(seed: int) -> None:
    losses, costs = sixteen_cells(seed)
    check_against_highs(losses, costs, middling_budgets(costs, 0.35), "auto")


def check_against_highs(losses: Arrays, costs: dict[str, Arrays], budgets: dict[str, int], method: str) -> None:
    assert tuple(len(a) for a in losses) == SIXTEEN_CELLS
    solution = solve(losses, costs, budgets, method=method, time_limit_s=30)
    assert (solution.status, solution.gap, solution.stats["ties"]) == ("optimal", 0.0, "resolved")
    assert solution.loss == sum(a[i] for a, i in zip(losses, solution.choice, strict=True))
    for name, arrays in costs.items():
        assert solution.costs[name] == sum(int(a[i]) for a, i in zip(arrays, solution.choice, strict=True))
    assert all(solution.costs[name] <= end for name, end in budgets.items())

    dual_bound, choice = highs(losses, costs, budgets)
    assert dual_bound <= solution.loss + 1e-6  # HiGHS's own tolerance
    if all(sum(int(a[i]) for a, i in zip(costs[n], choice, strict=True)) <= budgets[n] for n in budgets):
        assert solution.loss <= sum(a[i] for a, i in zip(losses, choice, strict=True))
        assert sum(a[i] for a, i in zip(losses, choice, strict=True)) == pytest.approx(solution.loss, abs=1e-6)


def test_methods_agree_on_the_best_ten() -> None:
    losses, costs = sixteen_cells(0)
    macs, budget = {"macs": costs["macs"]}, {"macs": middling_budgets(costs)["macs"]}
    bounded = solve(losses, macs, budget, top_k=10, method="branch_and_bound")
    front = solve(losses, macs, budget, top_k=10, method="front")
    assert len(bounded.alternatives) == 9
    assert bounded.alternatives == front.alternatives


def test_best_hundred_are_distinct_and_in_order() -> None:
    losses, costs = sixteen_cells(0)
    solution = solve(losses, costs, middling_budgets(costs), top_k=100)
    assert (solution.status, solution.stats["ties"]) == ("optimal", "resolved")
    order = [(solution.loss, solution.choice), *((a.loss, a.choice) for a in solution.alternatives)]
    assert len(order) == 100
    assert order == sorted(set(order))
    assert order[0] == (solve(losses, costs, middling_budgets(costs)).loss, solution.choice)


@pytest.mark.parametrize("digits", [1, 2])
def test_coarse_ratings_with_many_ties(digits: int) -> None:
    losses, costs = sixteen_cells(0)
    losses = [np.round(loss, digits) for loss in losses]
    budgets = middling_budgets(costs)
    solution = solve(losses, costs, budgets, time_limit_s=30)
    assert (solution.status, solution.stats["ties"]) == ("optimal", "resolved")
    # Whoever is first in one block with the rest held would be an earlier choice of the same loss.
    for block, chosen in enumerate(solution.choice):
        for earlier in range(chosen):
            choice = [*solution.choice[:block], earlier, *solution.choice[block + 1 :]]
            loss = sum(a[i] for a, i in zip(losses, choice, strict=True))
            fits = all(sum(int(a[i]) for a, i in zip(costs[n], choice, strict=True)) <= budgets[n] for n in budgets)
            assert not (fits and loss <= solution.loss)
