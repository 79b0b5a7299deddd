"""Exact search: one candidate per block, least total loss within budgets, with a proof.

The problem is a multiple-choice knapsack on a chain. The total loss is the float64 sum in block order; costs are exact
integers; equal losses are decided by the lexicographically smallest choice. `search_arrays` checks types and shapes;
the compiled solver reads the arrays in place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dna_fast.search_arrays import (
    BoundedCost,
    Budget,
    CostSpec,
    Problem,
    read_allowed,
    read_errors,
    read_problem,
    restricted,
    with_budgets,
)

__all__ = [
    "Alternative",
    "Budget",
    "CostSpec",
    "Front",
    "Method",
    "Solution",
    "Status",
    "pareto_front",
    "solve",
    "solve_many",
]

Status = Literal["optimal", "feasible", "infeasible", "limit"]
Method = Literal["auto", "front", "branch_and_bound", "beam"]

TWO_SIDED_95 = 1.96  # standard errors; beyond them a difference is no accident in 95 of 100 cases


@dataclass(frozen=True)
class Alternative:
    """One choice: candidate index per block, its total loss and its total costs.

    ``tied``: its loss equals the best one's. With ratings' standard errors, ``difference_error`` is that of the
    difference between its loss and the best one's (candidates they share cancel; the others are taken for independent,
    which overstates it where they were rated on the same images), and ``indistinguishable`` says whether the difference
    is within 1.96 of them; None where an error is not known.
    """

    loss: float
    costs: dict[str, int]
    choice: tuple[int, ...]
    tied: bool = False
    difference_error: float | None = None
    indistinguishable: bool | None = None


@dataclass(frozen=True)
class Solution:
    """What ``solve`` found and what it proved.

    ``status``: ``optimal`` (proven), ``feasible`` (a limit came first, ``gap`` says how good the choice is at worst),
    ``infeasible`` (proven) or ``limit`` (a limit came first and nothing was found). ``loss``, ``costs`` and ``choice``
    are None where there is no choice. ``bound`` is a proven lower bound of the loss, infinite if infeasible; ``gap`` is
    (loss - bound) / |loss|. ``smallest_feasible`` gives, for an infeasible problem, each budget's least upper end that
    makes it feasible with the other budgets held, or None if none does; a budget that a limit cut off is absent.
    """

    status: Status
    loss: float | None
    costs: dict[str, int] | None
    choice: tuple[int, ...] | None
    bound: float
    gap: float
    stats: dict[str, Any]
    alternatives: tuple[Alternative, ...] = ()
    smallest_feasible: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Front:
    """All undominated vectors of loss and costs, sorted by the costs in their order, then by loss.

    ``loss`` is float64 [F], each of ``costs`` int64 [F], ``choice`` int64 [F, B]: the lexicographically smallest choice
    that attains exactly that vector. With ``epsilon`` above 0 the front was too large to be complete, and covers the
    complete one instead: for every choice there is a point that loses no more and costs at most 1 + epsilon times as
    much in each cost; its points are choices, undominated among themselves, not always the first of their vector.
    """

    loss: NDArray[np.float64]
    costs: dict[str, NDArray[np.int64]]
    choice: NDArray[np.int64]
    epsilon: float = 0.0


def solve(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    budgets: Mapping[str, Budget],
    *,
    labels: Sequence[ArrayLike] | None = None,
    top_k: int = 1,
    min_differences: int = 1,
    standard_errors: Sequence[ArrayLike] | None = None,
    allowed: Sequence[ArrayLike | None] | None = None,
    method: Method = "auto",
    time_limit_s: float | None = None,
    max_states: int = 8_000_000,
    beam_width: int = 4096,
) -> Solution:
    """Finds the ``top_k`` choices of least total loss within the budgets, and proves it.

    >>> solution = solve([[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]}, {"macs": 7})
    >>> solution.status, solution.choice, solution.costs
    ('optimal', (1, 0), {'macs': 7})

    Args:
        losses: One array per block, ``[n_b]``, or ``[labels_in, n_b]`` where the loss depends on the label that the
            block before shows: row r belongs to the r-th smallest distinct label in ``labels[b - 1]``. Any finite
            numbers; computed in float64.
        costs: Name -> one array per block of the same shapes, whole numbers >= 0 of any integer dtype (a sum-type
            cost), or a ``CostSpec``. Costs without a budget are only reported.
        budgets: Cost name -> upper end, or (lower, upper) with None for an open end. Both ends are inclusive.
        labels: One integer array ``[n_b]`` per block: what each candidate shows to the next block (e.g. its width).
            Needed where an array has two dimensions.
        top_k: How many best choices to return, ordered by loss, then lexicographically.
        min_differences: In at least how many blocks every two of them differ. They are chosen one after another, each
            the best (by loss, then lexicographically) of those that differ enough from all before it, so the first is
            the optimum. Beyond 1, each further choice is a search of its own with one more budget end per choice
            before it: meant for a handful, not for hundreds.
        standard_errors: Those of ``losses``, in the same shapes, nan where not known: tells which alternatives cannot
            be told from the best (see ``Alternative``).
        allowed: Per block a boolean mask ``[n_b]`` of the candidates that may be chosen, or None for all of them: fixes a
            candidate (one true entry) or forbids some, and keeps every number as it is.
        method: ``front`` merges complete fronts; ``branch_and_bound`` prunes them with priced bounds, and finds good
            choices early; both are exact. ``beam`` makes the same passes up to ``beam_width``, whatever they leave
            open: for spaces where exactness is out of reach. ``auto`` takes ``front`` where no budget can bind, and
            otherwise ``branch_and_bound``, which becomes a beam where ``max_states`` stops it.
        time_limit_s: Seconds after which the best choice so far is returned with what is proven about it.
        max_states: Most partial choices held at once, over all blocks; each takes 16 bytes and 8 more per budget end,
            and up to four times a block's share is held while that block is merged.
        beam_width: Most partial choices that a beam keeps after one block, rounded down to a power of four. Without a
            limit, a larger width never gives a larger loss or a smaller bound.

    Returns:
        A ``Solution``; a limit is an answer, not an error. ``stats``: ``candidates`` per block, ``after_bounds`` (those
        that a choice as good as the best one may hold) and ``after_dominance`` (those of them that no other replaces),
        ``nodes`` (partial choices made), ``peak_front`` (most kept after one block), ``passes``, ``iterations``,
        ``method``, ``reason``, ``time_s``, ``ties`` ("resolved", or "unresolved" when the losses are not proven, or a
        limit came before the lexicographically first choices were), ``smallest_feasible`` ("complete" or "limit").

    Raises:
        ValueError: A shape, a value, a label or a name does not fit; the message names block and candidate.
        TypeError: A cost or a budget is not whole numbers.
        RuntimeError: The compiled solver is missing.
    """
    started = time.perf_counter()
    _check_options(top_k, max_states, beam_width, time_limit_s)
    problem = read_problem(losses, costs, labels)
    if not 1 <= min_differences <= len(problem.losses):
        raise ValueError(
            f"min_differences must be 1 to {len(problem.losses)}, the number of blocks, got {min_differences}"
        )
    errors = None if standard_errors is None else read_errors(standard_errors, problem)
    kept = None if allowed is None else read_allowed(allowed, problem)
    asked = problem if kept is None else restricted(problem, kept)
    search = _Search(asked, with_budgets(asked.costs, budgets), method, time_limit_s, max_states, beam_width)
    raw = search.run(top_k) if min_differences == 1 else search.run_apart(top_k, min_differences)
    if kept is not None:
        for found in raw["best"]:
            found["choice"] = [int(k[i]) for k, i in zip(kept, found["choice"], strict=True)]
    raw["stats"]["time_s"] = time.perf_counter() - started
    solution = _solution(raw, list(costs))
    return solution if errors is None else _with_errors(solution, problem, errors)


def solve_many(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    budgets: Sequence[Mapping[str, Budget]],
    *,
    labels: Sequence[ArrayLike] | None = None,
    top_k: int = 1,
    method: Method = "auto",
    time_limit_s: float | None = None,
    max_states: int = 8_000_000,
    beam_width: int = 4096,
    threads: int = 1,
) -> list[Solution]:
    """Answers ``solve`` for many budgets of one space, removing what can win under none of them once for all.

    >>> many = solve_many([[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]}, [{"macs": end} for end in (3, 5, 9)])
    >>> [solution.choice for solution in many]
    [(0, 0), (0, 1), (1, 1)]

    Args:
        losses, costs, labels, top_k, method, max_states, beam_width: As in ``solve``.
        budgets: One mapping per question, each as in ``solve``.
        time_limit_s: For all questions together.
        threads: How many questions are worked on at once. The answers are the same for any number.

    Returns:
        One ``Solution`` per question, in order: what ``solve`` gives for it; ``stats`` count candidates after the
        common removal, and hold no ``time_s``.

    Raises:
        ValueError, TypeError, RuntimeError: As in ``solve``.
    """
    _check_options(top_k, max_states, beam_width, time_limit_s)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if isinstance(budgets, Mapping):
        raise TypeError(
            f"budgets must be a list of mappings, one per question, got one mapping {budgets!r}; write [budgets]"
        )
    problem = read_problem(losses, costs, labels)
    ends = [[cost[3:] for cost in with_budgets(problem.costs, each)] for each in budgets]
    raws = _compiled().solve_many(
        problem.losses,
        with_budgets(problem.costs, {}),
        problem.labels,
        ends,
        top_k,
        method,
        time_limit_s,
        max_states,
        beam_width,
        threads,
    )
    return [_solution(raw, list(costs)) for raw in raws]


def pareto_front(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    *,
    labels: Sequence[ArrayLike] | None = None,
    allowed: Sequence[ArrayLike | None] | None = None,
    max_points: int = 1_000_000,
    epsilon: float = 0.0,
) -> Front:
    """Computes the complete exact front over the loss and all given costs, or one that covers it.

    >>> front = pareto_front([[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]})
    >>> front.costs["macs"].tolist(), front.choice.tolist()
    ([3, 5, 7, 9], [[0, 0], [0, 1], [1, 0], [1, 1]])

    Args:
        losses: As in ``solve``.
        costs: As in ``solve``; every one is an objective.
        labels, allowed: As in ``solve``.
        max_points: Most points of the front, and of the front of the first blocks on the way there.
        epsilon: What to give up where they are too few: costs up to 1 + epsilon times as large (see ``Front``). The
            front is complete as long as it fits.

    Returns:
        The undominated vectors without duplicates, each with the lexicographically smallest choice that attains it.

    Raises:
        ValueError, TypeError: As in ``solve``.
        RuntimeError: The front passes ``max_points`` whatever ``epsilon`` gives up, or the compiled solver is missing.
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a finite number >= 0, such as 0.01 for one per cent, got {epsilon}")
    problem = read_problem(losses, costs, labels)
    kept = None if allowed is None else read_allowed(allowed, problem)
    asked = problem if kept is None else restricted(problem, kept)
    raw = _compiled().pareto_front(asked.losses, with_budgets(asked.costs, {}), asked.labels, max_points, epsilon)
    choice = raw["choice"]
    if kept is not None:
        choice = np.stack([indices[choice[:, block]] for block, indices in enumerate(kept)], axis=1)
    return Front(raw["loss"], dict(zip(costs, raw["costs"], strict=True)), choice, raw["epsilon"])


def _check_options(top_k: int, max_states: int, beam_width: int, time_limit_s: float | None) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; 1 asks for the optimum alone")
    for name, value in (("max_states", max_states), ("beam_width", beam_width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if time_limit_s is not None and not time_limit_s >= 0:
        raise ValueError(f"time_limit_s must be a number of seconds >= 0 or None, got {time_limit_s}")


def _compiled() -> ModuleType:
    """The compiled solver, loaded at first use so that importing this module needs nothing built."""
    try:
        from dna_fast import _solver
    except ImportError as error:
        raise RuntimeError(
            "dna_fast._solver is not built for this Python; run `pip install .` (or `python setup.py build_ext "
            f"--inplace` in a checkout): {error}"
        ) from error
    return cast(ModuleType, _solver)


@dataclass(frozen=True)
class _Search:
    """One question to the compiled solver."""

    problem: Problem
    costs: list[BoundedCost]
    method: str
    time_limit_s: float | None
    max_states: int
    beam_width: int

    def run(self, top_k: int) -> dict[str, Any]:
        return cast(
            dict[str, Any],
            _compiled().solve(
                self.problem.losses,
                self.costs,
                self.problem.labels,
                top_k,
                self.method,
                self.time_limit_s,
                self.max_states,
                self.beam_width,
            ),
        )

    def run_apart(self, top_k: int, min_differences: int) -> dict[str, Any]:
        """The same with every two choices `min_differences` blocks apart, one search per choice.

        "Differs from a choice in at least d of B blocks" is a budget: of the candidates it shares with it, B - d.
        """
        end = None if self.time_limit_s is None else time.perf_counter() + self.time_limit_s
        result = self.run(1)
        found = result["best"]
        while 0 < len(found) < top_k:
            left = None if end is None else max(0.0, end - time.perf_counter())
            apart = [self._shared_with(f["choice"], min_differences) for f in found]
            further = replace(self, costs=self.costs + apart, time_limit_s=left).run(1)
            for count in ("nodes", "passes", "iterations"):
                result["stats"][count] += further["stats"][count]
            if further["status"] not in ("optimal", "infeasible"):
                result["status"] = "feasible"
            if not further["best"]:
                break
            found += further["best"]
        return result

    def _shared_with(self, choice: Sequence[int], min_differences: int) -> BoundedCost:
        arrays = []
        for losses, candidate in zip(self.problem.losses, choice, strict=True):
            shared = np.zeros(losses.shape[-1], np.int64)
            shared[candidate] = 1
            arrays.append(shared)
        return ("blocks shared with an alternative", "sum", arrays, None, len(choice) - min_differences)


def _solution(raw: dict[str, Any], names: Sequence[str]) -> Solution:
    best = [
        Alternative(
            found["loss"],
            dict(zip(names, found["costs"][: len(names)], strict=True)),
            tuple(found["choice"]),
            tied=found["loss"] == raw["best"][0]["loss"],
        )
        for found in raw["best"]
    ]
    first = best[0] if best else None
    return Solution(
        status=raw["status"],
        loss=first.loss if first else None,
        costs=first.costs if first else None,
        choice=first.choice if first else None,
        bound=raw["bound"],
        gap=raw["gap"],
        stats=raw["stats"],
        alternatives=tuple(best[1:]),
        smallest_feasible=raw["smallest_feasible"],
    )


def _with_errors(solution: Solution, problem: Problem, errors: Sequence[NDArray[np.float64]]) -> Solution:
    """The solution with what is within the errors marked."""
    if solution.choice is None or solution.loss is None:
        return solution
    best, marked = problem.entries(solution.choice), []
    for alternative in solution.alternatives:
        other = problem.entries(alternative.choice)
        variance = 0.0
        for error, mine, its in zip(errors, best, other, strict=True):
            if mine != its:
                variance += float(error[mine if error.ndim == 2 else mine[1]]) ** 2
                variance += float(error[its if error.ndim == 2 else its[1]]) ** 2
        if math.isnan(variance):
            marked.append(alternative)
            continue
        deviation = math.sqrt(variance)
        within = alternative.loss - solution.loss <= TWO_SIDED_95 * deviation
        marked.append(replace(alternative, difference_error=deviation, indistinguishable=within))
    return replace(solution, alternatives=tuple(marked))
