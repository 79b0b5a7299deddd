"""What the solver races: HiGHS through scipy, and front merging in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from benchmarks.problems import Problem


def filtered(problem: Problem) -> tuple[Problem, list[NDArray[np.intp]]]:
    """The problem without dominated candidates, and the numbers of those that are left."""
    keep = []
    for b, losses in enumerate(problem.losses):
        columns = np.stack([losses, *(arrays[b] for arrays in problem.costs.values())], axis=1)
        front: list[int] = []
        for i in np.lexsort(columns.T[::-1]):
            if not (columns[front] <= columns[i]).all(axis=1).any():
                front.append(int(i))
        keep.append(np.sort(np.array(front)))
    costs = {name: [a[k] for a, k in zip(arrays, keep, strict=True)] for name, arrays in problem.costs.items()}
    return Problem([a[k] for a, k in zip(problem.losses, keep, strict=True)], costs, problem.budgets), keep


def highs(problem: Problem) -> float:
    """Optimal loss by HiGHS, gap 0."""
    sizes = [len(a) for a in problem.losses]
    block = np.repeat(np.arange(len(sizes)), sizes)
    one_each = optimize.LinearConstraint((block == np.arange(len(sizes))[:, None]).astype(float), 1, 1)
    # Scaled to 1, because HiGHS's feasibility tolerance is absolute.
    rows = np.stack([np.concatenate(problem.costs[name]) / problem.budgets[name] for name in problem.budgets])
    result = optimize.milp(
        np.concatenate(problem.losses),
        constraints=[one_each, optimize.LinearConstraint(rows, -np.inf, 1)],
        integrality=np.ones(sum(sizes)),
        bounds=(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS: {result.message}")
    return float(result.fun)


def numpy_front(problem: Problem) -> NDArray[np.float64]:
    """[points, 2] cost and loss of the complete front of one cost, merged block by block; block sums in the solver's order."""
    (arrays,) = problem.costs.values()
    cost, loss = np.zeros(1, np.int64), np.zeros(1)
    for c, v in zip(arrays, problem.losses, strict=True):
        costs, losses = (cost[:, None] + c).ravel(), (loss[:, None] + v).ravel()
        order = np.lexsort((losses, costs))
        costs, losses = costs[order], losses[order]
        best = np.minimum.accumulate(losses)
        keep = np.concatenate(([True], losses[1:] < best[:-1]))
        cost, loss = costs[keep], losses[keep]
    return np.stack([cost, loss], axis=1)
