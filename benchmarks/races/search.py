"""One question to the solver and to its opponents: HiGHS, CP-SAT, front merging in numpy.

Request: question (a key of QUESTIONS), ways (of WAYS), pace (Pace's fields); for `huge` and `size` instead of the pace: one way,
limit_s, and for `size` blocks and candidates. Every answer is checked against ours, ours by re-adding losses and costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines_search import Answer, CpSat, filtered, highs, numpy_front
from benchmarks.problems import Problem, any_size, sixteen_cells, sixteen_cells_coupled
from benchmarks.race import Contestant, Pace, race
from dna_fast.search import Solution, pareto_front, solve

ONE, THREE = ("macs",), ("macs", "params", "latency_us")
QUESTIONS: dict[str, Callable[[], Problem]] = {
    "one": lambda: sixteen_cells(ONE),
    "three": lambda: sixteen_cells(THREE),
    "coupled": lambda: sixteen_cells_coupled(THREE),
    "front": lambda: sixteen_cells(ONE),
    "top_100": lambda: sixteen_cells(ONE),
}
CLOSE = 1e-6  # HiGHS's own tolerance; CP-SAT's units are finer
TOP = 100
HUGE_BLOCKS, HUGE_CANDIDATES = 27, 5000


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant its times; for `huge` and `size` one entry, with loss, bound, gap and memory."""
    question = request["question"]
    if question == "huge":
        return {"entries": [_once(any_size(HUGE_BLOCKS, HUGE_CANDIDATES), request["way"], request["limit_s"])]}
    if question == "size":
        problem = any_size(request["blocks"], request["candidates"])
        return {"entries": [_once(problem, request["way"], request["limit_s"])]}
    problem = QUESTIONS[question]()
    contestants = [_contestant(question, problem, way) for way in request["ways"]]
    return {"entries": race(contestants, Pace(**request["pace"]))}


def _contestant(question: str, problem: Problem, way: str) -> Contestant:
    fields = {"opponent": way}
    if question == "front":
        return Contestant(fields, _front_run(problem, way), lambda front: _check_front(problem, front))
    if question == "top_100":
        return Contestant(fields, _top_run(problem, way), lambda losses: _check_top(problem, losses))
    run = _optimum_run(problem, way)
    return Contestant(fields, run, lambda loss: _check_loss(problem, loss))


def ours(problem: Problem, **options: Any) -> Solution:
    """Our answer."""
    return solve(problem.losses, problem.costs, problem.budgets, labels=problem.labels, **options)


def _optimum_run(problem: Problem, way: str) -> Callable[[], float]:
    if way == "dna_fast":
        return lambda: _proven(ours(problem))
    target = filtered(problem)[0] if way.endswith("filtered") else problem
    if way.startswith("highs"):
        return lambda: highs(target).loss(target)
    model = CpSat(target)
    return lambda: model.solve().loss(target)


def _proven(solution: Solution) -> float:
    assert solution.status == "optimal", solution.status
    assert solution.loss is not None
    return solution.loss


def _check_loss(problem: Problem, loss: float) -> dict[str, Any]:
    best = ours(problem)
    assert best.choice is not None
    assert best.costs is not None
    assert all(best.costs[name] <= end for name, end in problem.budgets.items())
    assert abs(loss - sum(a[i] for a, i in zip(problem.losses, best.choice, strict=True))) <= CLOSE, loss
    return {"loss": loss}


def _front_run(problem: Problem, way: str) -> Callable[[], Any]:
    reduced = filtered(problem)[0]
    if way == "dna_fast":
        return lambda: pareto_front(problem.losses, problem.costs)
    return (lambda: numpy_front(filtered(problem)[0])) if way == "numpy_raw" else (lambda: numpy_front(reduced))


def _check_front(problem: Problem, answer: Any) -> dict[str, Any]:
    front = pareto_front(problem.losses, problem.costs)
    points = np.stack([front.costs["macs"], front.loss], axis=1)
    assert np.array_equal(points, numpy_front(filtered(problem)[0]))
    assert not isinstance(answer, np.ndarray) or np.array_equal(answer, points)
    return {"points": len(points)}


def _top_run(problem: Problem, way: str) -> Callable[[], list[float]]:
    if way == "dna_fast":
        return lambda: _losses(ours(problem, top_k=TOP))

    def solve_again_and_again() -> list[float]:
        model, losses = CpSat(problem), []
        for _ in range(TOP):
            answer = model.solve()
            assert answer.choice is not None
            losses.append(answer.loss(problem))
            model.forbid(answer.choice)
        return losses

    return solve_again_and_again


def _losses(solution: Solution) -> list[float]:
    return [_proven(solution), *(alternative.loss for alternative in solution.alternatives)]


def _check_top(problem: Problem, losses: list[float]) -> dict[str, Any]:
    expected = _losses(ours(problem, top_k=TOP))
    assert len(losses) == len(expected) == TOP
    assert np.allclose(losses, expected, rtol=0, atol=CLOSE)
    return {"top": TOP}


def _once(problem: Problem, way: str, limit_s: float) -> dict[str, Any]:
    """One run with a deadline, with what is proven and the memory it took; a cold one, as it runs for seconds."""
    model = CpSat(problem) if way == "cp_sat" else None
    before = _fresh_peak_bytes()
    start = time.perf_counter()
    if way == "dna_fast":
        solution = ours(problem, time_limit_s=limit_s)
        loss = float("inf") if solution.loss is None else solution.loss
        choice = None if solution.choice is None else list(solution.choice)
        answer, status = Answer(choice, solution.bound), solution.status
    else:
        answer = highs(problem, limit_s) if model is None else model.solve(limit_s)
        loss = answer.loss(problem)
        status = "feasible" if answer.choice is not None else "limit"
    seconds = time.perf_counter() - start
    if answer.choice is not None:
        for name, end in problem.budgets.items():
            total = sum(int(a[i]) for a, i in zip(problem.costs[name], answer.choice, strict=True))
            assert total <= end * (1 + CLOSE), (name, total, end)
    gap = (loss - answer.bound) / abs(loss) if np.isfinite(loss) else float("inf")
    facts = {"opponent": way, "status": status, "loss": loss, "bound": answer.bound, "gap": max(gap, 0.0)}
    return facts | {"peak_bytes": _peak_bytes() - before, "seconds": [seconds]}


def _fresh_peak_bytes() -> int:
    """Forgets earlier peaks of the resident memory, as only Linux can; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
