"""Proven optima against HiGHS and CP-SAT on problems too large for brute force. CP-SAT is optional: pip install ortools."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from solver.medium import LOSS_UNITS, Program, medium_instance, program_of

from dna_fast.search import Solution, solve

TESTS = Path(__file__).resolve().parents[1]
FEW, MANY = range(12), range(12, 312)
slow = pytest.mark.slow


def ours(seed: int) -> Solution:
    instance = medium_instance(seed)
    return solve(instance.losses, instance.costs, instance.budgets, labels=instance.labels)


def highs(program: Program) -> tuple[float, int | None]:
    """HiGHS's bound and the objective of its choice, where that is within every row exactly; infinity: infeasible."""
    optimize = pytest.importorskip("scipy.optimize", reason="the comparison needs scipy with HiGHS")
    rows, scale = np.stack(program.rows).astype(float), np.maximum(np.abs(program.upper), 1)  # tolerances are absolute
    result = optimize.milp(
        program.objective.astype(float),
        constraints=optimize.LinearConstraint(
            rows / scale[:, None], np.array(program.lower) / scale, np.array(program.upper) / scale
        ),
        integrality=np.ones(len(program.block)),
        bounds=(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.status == 2:
        return np.inf, None
    assert result.status == 0, result.message
    taken = np.rint(result.x).astype(np.int64)
    totals = [int(row @ taken) for row in program.rows]
    within = all(low <= total <= high for low, total, high in zip(program.lower, totals, program.upper, strict=True))
    return float(result.mip_dual_bound), int(program.objective @ taken) if within else None


@pytest.mark.parametrize("seeds", [FEW, pytest.param(MANY, marks=slow)], ids=["few", "hundreds"])
def test_highs_agrees(seeds: range) -> None:
    compared = 0
    for seed in seeds:
        bound, objective = highs(program_of(medium_instance(seed)))
        solution = ours(seed)
        if solution.status == "infeasible":
            # HiGHS takes a budget for met within a millionth of it.
            assert objective is None, seed
            continue
        assert solution.status == "optimal", seed
        assert solution.loss * LOSS_UNITS >= bound - 1e-6 * max(1.0, abs(bound)), seed
        if objective is not None:
            assert solution.loss * LOSS_UNITS == objective, seed
            compared += 1
    assert compared > len(seeds) // 2


@pytest.mark.skipif(
    importlib.util.find_spec("ortools") is None, reason="the comparison needs OR-tools: pip install ortools"
)
@pytest.mark.parametrize("seeds", [FEW, pytest.param(MANY, marks=slow)], ids=["few", "hundreds"])
def test_cp_sat_agrees(seeds: range) -> None:
    optima = cp_sat_optima(list(seeds), presolve=True)
    solutions = {seed: ours(seed) for seed in seeds}
    for seed, solution in solutions.items():
        assert solution.status == ("optimal" if solution.choice is not None else "infeasible"), seed
        if solution.choice is not None:
            check_choice(seed, solution)
    # OR-tools 9.15's presolve loses the optimum of seed 35: without it the optimum is ours, and exact sums say so too.
    doubtful = [seed for seed, optimum in optima.items() if optimum != objective_of(solutions[seed])]
    optima |= cp_sat_optima(doubtful, presolve=False)
    assert optima == {seed: objective_of(solution) for seed, solution in solutions.items()}
    assert len(doubtful) <= len(seeds) // 100
    assert 0 < sum(optimum is None for optimum in optima.values()) < len(seeds) // 2


def objective_of(solution: Solution) -> int | None:
    return None if solution.loss is None else int(solution.loss * LOSS_UNITS)


def check_choice(seed: int, solution: Solution) -> None:
    """The choice keeps every row of the program, in Python integers."""
    program = program_of(medium_instance(seed))
    taken = np.zeros(len(program.block), np.int64)
    row = 0
    for block, candidate in enumerate(solution.choice):
        arc = (program.block == block) & (program.row == row) & (program.candidate == candidate)
        taken[arc] = 1
        row = program.label[arc].item()
    for row, low, high in zip(program.rows, program.lower, program.upper, strict=True):
        assert low <= int(row @ taken) <= high, seed
    assert int(program.objective @ taken) == objective_of(solution), seed


def cp_sat_optima(seeds: list[int], *, presolve: bool) -> dict[int, int | None]:
    """By CP-SAT, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "solver.medium"],
        input=json.dumps([seeds, presolve]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(seeds, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_the_beam_brackets_the_optimum(seed: int) -> None:
    optimum = ours(seed)
    instance = medium_instance(seed)
    for width in (1, 16, 256):
        beam = solve(
            instance.losses,
            instance.costs,
            instance.budgets,
            labels=instance.labels,
            method="beam",
            beam_width=width,
        )
        assert beam.bound <= (np.inf if optimum.loss is None else optimum.loss)
        if optimum.loss is None:
            assert beam.choice is None
        elif beam.loss is not None:
            assert beam.loss >= optimum.loss
