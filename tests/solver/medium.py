"""Problems too large for brute force, as integer programs for HiGHS and CP-SAT: independent of the solver's ideas."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np
from solver.oracle import Instance

from dna_fast.search import CostSpec

LOSS_UNITS = 1024  # losses are whole multiples of 1 / LOSS_UNITS, so that every sum is exact in every order


def medium_instance(seed: int) -> Instance:
    """6 to 9 blocks of up to 40 candidates, one to four budgets; every ninth can hardly be met."""
    rng = np.random.default_rng(seed)
    blocks = int(rng.integers(6, 10))
    sizes = rng.integers(1, 41, blocks)
    labels = [rng.choice([16, 24, 32], size) for size in sizes] if seed % 3 == 0 else None
    rows = [1 if b == 0 or labels is None else len(np.unique(labels[b - 1])) for b in range(blocks)]

    def arrays(top: int) -> list[np.ndarray]:
        two = [labels is not None and rng.random() < 0.5 for _ in range(blocks)]
        return [rng.integers(0, top, (r, n) if t else n) for r, n, t in zip(rows, sizes, two, strict=True)]

    losses = [a / LOSS_UNITS for a in arrays(8 if seed % 5 == 0 else 4096)]
    costs, budgets = {}, {}
    for c in range(int(rng.integers(1, 5))):
        name, reduce = f"cost{c}", "max" if rng.random() < 0.2 else "sum"
        values = arrays(int(rng.choice([50, 10**6, 2**40])))
        costs[name] = CostSpec(values, reduce)
        typical = [int(rng.choice(a.ravel())) for a in values]
        upper = (max if reduce == "max" else sum)(typical)
        if seed % 9 == 8:
            upper //= 3
        budgets[name] = (upper - upper // 10, upper) if rng.random() < 0.2 else upper
    return Instance(losses, costs, labels, budgets)


@dataclass(frozen=True)
class Program:
    """Least objective @ x over x in {0, 1}^n with lower <= rows @ x <= upper; x[i] takes candidate[i] in block[i]."""

    objective: np.ndarray  # in LOSS_UNITS
    block: np.ndarray
    row: np.ndarray  # rank of the label of the block before
    candidate: np.ndarray
    label: np.ndarray  # rank of the label that it shows
    rows: list[np.ndarray]
    lower: list[int]
    upper: list[int]


def program_of(instance: Instance) -> Program:
    """A path through (block, label of the block before, candidate); what goes into a label comes out of it."""
    labels = instance.labels or [np.zeros(a.shape[-1], int) for a in instance.losses]
    ranks = [np.unique(values, return_inverse=True)[1] for values in labels]
    arcs = [
        (b, row, i)
        for b, losses in enumerate(instance.losses)
        for row in range(1 if b == 0 else ranks[b - 1].max() + 1)
        for i in range(losses.shape[-1])
    ]
    block, row, candidate = (np.array(part) for part in zip(*arcs, strict=True))

    def along(arrays: list[np.ndarray]) -> np.ndarray:
        return np.array([a[r, i] if (a := arrays[b]).ndim == 2 else a[i] for b, r, i in arcs])

    rows, lower, upper = [(block == 0).astype(int)], [1], [1]
    for b in range(1, len(instance.losses)):
        for label in range(ranks[b - 1].max() + 1):
            into = np.array([o == b - 1 and ranks[b - 1][i] == label for o, _, i in arcs])
            rows.append(into.astype(int) - ((block == b) & (row == label)))
            lower.append(0)
            upper.append(0)
    for name, budget in instance.budgets.items():
        least, most = budget if isinstance(budget, tuple) else (None, budget)
        values = along(instance.costs[name].arrays)
        if instance.costs[name].reduce == "sum":
            rows.append(values)
            lower.append(0 if least is None else least)
            upper.append(int(values.sum()) if most is None else most)
            continue
        rows.append((values > (values.max() if most is None else most)).astype(int))
        lower.append(0)
        upper.append(0)
        if least is not None:
            rows.append((values >= least).astype(int))
            lower.append(1)
            upper.append(len(instance.losses))
    objective = np.rint(along(instance.losses) * LOSS_UNITS).astype(np.int64)
    label = np.array([ranks[b][i] for b, _, i in arcs])
    return Program(objective, block, row, candidate, label, rows, lower, upper)


def cp_sat(program: Program, presolve: bool) -> int | None:
    """The proven least objective by CP-SAT; None: infeasible."""
    from ortools.sat.python import cp_model

    model, solver = cp_model.CpModel(), cp_model.CpSolver()
    taken = [model.new_bool_var("") for _ in program.block]
    for row, lower, upper in zip(program.rows, program.lower, program.upper, strict=True):
        model.add_linear_constraint(cp_model.LinearExpr.weighted_sum(taken, row.tolist()), lower, upper)
    model.minimize(cp_model.LinearExpr.weighted_sum(taken, program.objective.tolist()))
    solver.parameters.num_workers = 1
    solver.parameters.cp_model_presolve = presolve
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    assert status == cp_model.OPTIMAL, solver.status_name(status)
    return round(solver.objective_value)


def main() -> None:
    """In a process of its own: seeds and whether to presolve on standard input -> optima on standard output, all JSON."""
    seeds, presolve = json.load(sys.stdin)
    print(json.dumps([cp_sat(program_of(medium_instance(seed)), presolve) for seed in seeds]))


if __name__ == "__main__":
    main()
