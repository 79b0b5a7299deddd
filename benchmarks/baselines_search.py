"""What the solver races: HiGHS through scipy, CP-SAT of OR-tools, and front merging in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from benchmarks.problems import Problem

CP_SAT_UNITS = 1e9  # per loss of one: CP-SAT's objective is whole numbers


@dataclass(frozen=True)
class Answer:
    """An opponent's best choice, one candidate per block (None: none found), and its bound on the loss."""

    choice: list[int] | None
    bound: float

    def loss(self, problem: Problem) -> float:
        """Total loss of the choice, added in block order."""
        if self.choice is None:
            return float("inf")
        return float(sum(losses[i] for losses, i in zip(problem.losses, self.choice, strict=True)))


def filtered(problem: Problem) -> tuple[Problem, list[NDArray[np.intp]]]:
    """The problem without dominated candidates, and the numbers of those that are left; only for problems without labels."""
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


@dataclass(frozen=True)
class Arcs:
    """Every (block, row, candidate) as one yes-or-no variable: a path through the labels takes one arc per block."""

    block: NDArray[np.int64]
    row: NDArray[np.int64]
    candidate: NDArray[np.int64]
    label: NDArray[np.int64]
    loss: NDArray[np.float64]
    costs: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, problem: Problem) -> Arcs:
        parts: dict[str, list[NDArray[np.int64]]] = {"block": [], "row": [], "candidate": [], "label": []}
        losses: list[NDArray[np.float64]] = []
        costs: dict[str, list[NDArray[np.int64]]] = {name: [] for name in problem.costs}
        for b, loss in enumerate(problem.losses):
            n = len(loss)
            rows = 1 if b == 0 or problem.labels is None else int(problem.labels[b - 1].max()) + 1
            labels = np.zeros(n, np.int64) if problem.labels is None else problem.labels[b]
            parts["block"].append(np.full(rows * n, b))
            parts["row"].append(np.repeat(np.arange(rows), n))
            parts["candidate"].append(np.tile(np.arange(n), rows))
            parts["label"].append(np.tile(labels, rows))
            losses.append(np.tile(loss, rows))
            for name, arrays in problem.costs.items():
                costs[name].append(np.broadcast_to(arrays[b], (rows, n)).ravel())
        joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return cls(**joined, loss=np.concatenate(losses), costs={name: np.concatenate(a) for name, a in costs.items()})

    def choice(self, taken: NDArray[np.float64]) -> list[int]:
        """The candidates of the arcs that are taken most."""
        blocks = range(int(self.block[-1]) + 1)
        return [int(self.candidate[np.argmax(np.where(self.block == b, taken, -1.0))]) for b in blocks]

    def borders(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Per border and label: the arcs that come in with it and those that go out; as many of one as of the other."""
        result = []
        for b in range(int(self.block[-1])):
            into, out_of = np.flatnonzero(self.block == b), np.flatnonzero(self.block == b + 1)
            for label in range(int(self.row[out_of].max()) + 1):
                result.append((into[self.label[into] == label], out_of[self.row[out_of] == label]))
        return result


def highs(problem: Problem, time_limit_s: float = np.inf) -> Answer:
    """HiGHS, gap 0, with every default otherwise."""
    arcs = Arcs.of(problem)
    n, blocks = len(arcs.block), len(problem.losses)
    # One candidate per block; with labels that follows from one in block 0 and what goes in at a border coming out of it.
    one_each = 1 if problem.labels is not None else blocks
    borders = arcs.borders() if problem.labels is not None else []
    lines = sparse.lil_matrix((one_each + len(borders), n))
    for b in range(one_each):
        lines[b, np.flatnonzero(arcs.block == b)] = 1
    for line, (into, out_of) in enumerate(borders, start=one_each):
        lines[line, into] = 1
        lines[line, out_of] = -1
    right = np.concatenate([np.ones(one_each), np.zeros(len(borders))])
    # Scaled to 1, because HiGHS's feasibility tolerance is absolute.
    ends = np.stack([arcs.costs[name] / problem.budgets[name] for name in problem.budgets])
    constraints = [optimize.LinearConstraint(lines.tocsr(), right, right), optimize.LinearConstraint(ends, -np.inf, 1)]
    options = {"mip_rel_gap": 0.0} | ({} if time_limit_s == np.inf else {"time_limit": time_limit_s})
    result = optimize.milp(arcs.loss, constraints=constraints, integrality=np.ones(n), bounds=(0, 1), options=options)
    if result.status not in (0, 1):
        raise RuntimeError(f"HiGHS: {result.message}")
    return Answer(None if result.x is None else arcs.choice(result.x), float(result.mip_dual_bound))


class CpSat:
    """CP-SAT over the arcs; made once, as building the model in Python is no part of its time.

    Raises:
        ImportError: OR-tools is not installed.
    """

    def __init__(self, problem: Problem) -> None:
        from ortools.sat.python import cp_model

        self.cp_model, self.problem = cp_model, problem
        self.arcs = Arcs.of(problem)
        self.model = model = cp_model.CpModel()
        self.taken = [model.new_bool_var("") for _ in self.arcs.block]
        for b in range(len(problem.losses) if problem.labels is None else 1):
            model.add_exactly_one(self.taken[i] for i in np.flatnonzero(self.arcs.block == b))
        for into, out_of in self.arcs.borders() if problem.labels is not None else []:
            model.add(sum(self.taken[i] for i in into) == sum(self.taken[i] for i in out_of))
        for name, end in problem.budgets.items():
            model.add(cp_model.LinearExpr.weighted_sum(self.taken, self.arcs.costs[name].tolist()) <= end)
        units = np.rint(self.arcs.loss * CP_SAT_UNITS).astype(np.int64)
        model.minimize(cp_model.LinearExpr.weighted_sum(self.taken, units.tolist()))

    def forbid(self, choice: list[int]) -> None:
        """Adds a cut: not this choice again."""
        arcs = self.arcs
        its = [i for b, c in enumerate(choice) for i in np.flatnonzero((arcs.block == b) & (arcs.candidate == c))]
        self.model.add(sum(self.taken[i] for i in its) <= len(choice) - 1)

    def solve(self, time_limit_s: float = np.inf) -> Answer:
        """CP-SAT with every default but the time, on as many threads as there are cores."""
        solver = self.cp_model.CpSolver()
        if time_limit_s < np.inf:
            solver.parameters.max_time_in_seconds = time_limit_s
        status = solver.solve(self.model)
        bound = (solver.best_objective_bound - len(self.problem.losses)) / CP_SAT_UNITS  # less what rounding can add
        if status not in (self.cp_model.OPTIMAL, self.cp_model.FEASIBLE):
            return Answer(None, bound)
        taken = np.array([solver.value(variable) for variable in self.taken], float)
        return Answer(self.arcs.choice(taken), bound)


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
