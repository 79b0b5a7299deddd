"""Exact search: one candidate per block, least total loss within budgets, with a proof.

The problem is a multiple-choice knapsack on a chain. The total loss is the float64 sum in block order; costs are exact
integers; equal losses are decided by the lexicographically smallest choice. This module checks types and shapes and
hands the arrays to the compiled solver, which reads them in place.
"""

from __future__ import annotations

import difflib
import math
import numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT64_MAX = int(np.iinfo(np.int64).max)

Status = Literal["optimal", "feasible", "infeasible", "limit"]
Budget = int | tuple[int | None, int | None]


@dataclass(frozen=True)
class CostSpec:
    """One cost of all candidates: an integer array per block, ``[n_b]`` or ``[labels_in, n_b]``, and how they combine.

    ``reduce="sum"`` adds over blocks (macs, params, latency); ``"max"`` takes the largest (peak memory).
    """

    arrays: Sequence[ArrayLike]
    reduce: Literal["sum", "max"] = "sum"


@dataclass(frozen=True)
class Alternative:
    """One choice: candidate index per block, its total loss and its total costs."""

    loss: float
    costs: dict[str, int]
    choice: tuple[int, ...]


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
    that attains exactly that vector.
    """

    loss: NDArray[np.float64]
    costs: dict[str, NDArray[np.int64]]
    choice: NDArray[np.int64]


def solve(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    budgets: Mapping[str, Budget],
    *,
    labels: Sequence[ArrayLike] | None = None,
    top_k: int = 1,
    method: Literal["auto", "front", "branch_and_bound"] = "auto",
    time_limit_s: float | None = None,
    max_states: int = 8_000_000,
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
        method: ``front`` merges complete fronts; ``branch_and_bound`` prunes them with priced bounds, and finds good
            choices early; ``auto`` takes ``front`` only where no budget can bind. Both are exact.
        time_limit_s: Seconds after which the best choice so far is returned with what is proven about it. Sorting some
            million partial choices is not interrupted, so the answer may come a little later.
        max_states: Most partial choices held at once, over all blocks; each takes 16 bytes and 8 more per budget end,
            and up to four times a block's share is held while that block is merged.

    Returns:
        A ``Solution``; a limit is an answer, not an error. ``stats``: ``candidates`` and ``after_dominance`` per block,
        ``nodes`` (partial choices made), ``peak_front`` (most kept after one block), ``passes``, ``iterations``,
        ``method``, ``reason``, ``time_s``, ``ties`` ("resolved", or "unresolved" when the losses are proven but a limit
        came before the lexicographically first choices were), ``smallest_feasible`` ("complete" or "limit").

    Raises:
        ValueError: A shape, a value, a label or a name does not fit; the message names block and candidate.
        TypeError: A cost or a budget is not whole numbers.
        RuntimeError: The compiled solver is missing.
    """
    started = time.perf_counter()
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; 1 asks for the optimum alone")
    if max_states < 1:
        raise ValueError(f"max_states must be at least 1, got {max_states}")
    if time_limit_s is not None and not time_limit_s >= 0:
        raise ValueError(f"time_limit_s must be a number of seconds >= 0 or None, got {time_limit_s}")
    problem = _read_problem(losses, costs, labels)
    bounded = _with_budgets(problem.costs, budgets)
    raw = _compiled().solve(problem.losses, bounded, problem.labels, top_k, method, time_limit_s, max_states)

    names = list(costs)
    best = [
        Alternative(found["loss"], dict(zip(names, found["costs"], strict=True)), tuple(found["choice"]))
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
        stats=raw["stats"] | {"time_s": time.perf_counter() - started},
        alternatives=tuple(best[1:]),
        smallest_feasible=raw["smallest_feasible"],
    )


def pareto_front(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    *,
    labels: Sequence[ArrayLike] | None = None,
    max_points: int = 1_000_000,
) -> Front:
    """Computes the complete exact front over the loss and all given costs.

    >>> front = pareto_front([[0.4, 0.1], [0.2, 0.0]], {"macs": [[1, 5], [2, 4]]})
    >>> front.costs["macs"].tolist(), front.choice.tolist()
    ([3, 5, 7, 9], [[0, 0], [0, 1], [1, 0], [1, 1]])

    Args:
        losses: As in ``solve``.
        costs: As in ``solve``; every one is an objective.
        labels: As in ``solve``.
        max_points: Most points of the front, and of the front of the first blocks on the way there.

    Returns:
        The undominated vectors without duplicates, each with the lexicographically smallest choice that attains it.

    Raises:
        ValueError, TypeError: As in ``solve``.
        RuntimeError: The front passes ``max_points``, or the compiled solver is missing.
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    problem = _read_problem(losses, costs, labels)
    raw = _compiled().pareto_front(problem.losses, _with_budgets(problem.costs, {}), problem.labels, max_points)
    return Front(raw["loss"], dict(zip(costs, raw["costs"], strict=True)), raw["choice"])


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
class _Problem:
    """Checked arrays in the layout of the compiled solver."""

    losses: list[NDArray[np.float64]]
    costs: dict[str, tuple[str, list[NDArray[np.int64]]]]  # name -> (reduce, arrays)
    labels: list[NDArray[np.int64] | None]  # codes 0, 1, ... in the order of the labels


def _read_problem(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    labels: Sequence[ArrayLike] | None,
) -> _Problem:
    blocks = len(losses)
    if blocks == 0:
        raise ValueError("losses must hold at least one block, got none; give one array per block")
    loss_arrays = [_losses_of_block(array, block) for block, array in enumerate(losses)]
    sizes = [array.shape[-1] for array in loss_arrays]
    codes, counts = _label_codes(labels, sizes)
    for block, array in enumerate(loss_arrays):
        _check_shape(array, f"losses[{block}]", block, sizes[block], counts)

    cost_arrays: dict[str, tuple[str, list[NDArray[np.int64]]]] = {}
    for name, spec in costs.items():
        arrays, reduce = (spec.arrays, spec.reduce) if isinstance(spec, CostSpec) else (spec, "sum")
        if reduce not in ("sum", "max"):
            raise ValueError(f"cost {name!r}: reduce must be 'sum' or 'max', got {reduce!r}")
        if len(arrays) != blocks:
            raise ValueError(f"cost {name!r} must hold one array per block ({blocks} as in losses), got {len(arrays)}")
        checked = []
        for block, values in enumerate(arrays):
            what = f"cost {name!r}[{block}]"
            checked.append(_integers(values, what, "round it to whole units, e.g. microseconds or bytes"))
            _check_shape(checked[-1], what, block, sizes[block], counts)
        cost_arrays[name] = (reduce, checked)
    return _Problem(loss_arrays, cost_arrays, codes)


def _losses_of_block(array: ArrayLike, block: int) -> NDArray[np.float64]:
    values = np.asarray(array)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"losses[{block}] must be real numbers, got dtype {values.dtype}")
    if values.ndim not in (1, 2):
        raise ValueError(f"losses[{block}] must be [n] or [labels_in, n], got shape {values.shape}")
    if values.shape[-1] == 0:
        raise ValueError(f"losses[{block}] has no candidates, got shape {values.shape}; every block needs at least one")
    return np.ascontiguousarray(values, dtype=np.float64)


def _integers(array: ArrayLike, what: str, advice: str) -> NDArray[np.int64]:
    values = np.asarray(array)
    if values.dtype.kind not in "iu":
        if values.size == 0:  # an empty list has no dtype of its own; its shape is what is wrong
            return np.ascontiguousarray(values, dtype=np.int64)
        raise TypeError(f"{what} must be integers, got dtype {values.dtype}; {advice}")
    if values.dtype == np.uint64 and int(values.max(initial=0)) > INT64_MAX:
        position = np.unravel_index(int(values.argmax()), values.shape)
        raise ValueError(f"{what}, candidate {position[-1]} must fit int64, got {values.max()}; use a coarser unit")
    return np.ascontiguousarray(values, dtype=np.int64)


def _label_codes(
    labels: Sequence[ArrayLike] | None, sizes: Sequence[int]
) -> tuple[list[NDArray[np.int64] | None], list[int]]:
    """Per block the labels as ranks among the distinct ones, and how many there are; without labels there is one."""
    if labels is None:
        return [None] * len(sizes), [1] * len(sizes)
    if len(labels) != len(sizes):
        raise ValueError(f"labels must hold one array per block ({len(sizes)} as in losses), got {len(labels)}")
    codes: list[NDArray[np.int64] | None] = []
    counts = []
    for block, (array, size) in enumerate(zip(labels, sizes, strict=True)):
        values = _integers(array, f"labels[{block}]", "use e.g. the width that the candidate shows to the next block")
        if values.shape != (size,):
            raise ValueError(f"labels[{block}] must be [{size}], one per candidate, got shape {values.shape}")
        distinct, ranks = np.unique(values, return_inverse=True)
        codes.append(np.ascontiguousarray(ranks, dtype=np.int64))
        counts.append(len(distinct))
    return codes, counts


def _check_shape(array: NDArray[Any], what: str, block: int, size: int, label_counts: Sequence[int]) -> None:
    if array.ndim not in (1, 2) or array.shape[-1] != size:
        raise ValueError(
            f"{what} must be [{size}] or [labels_in, {size}] like the losses of block {block}, got shape {array.shape}"
        )
    rows = label_counts[block - 1] if block > 0 else 1
    if array.ndim == 2 and array.shape[0] != rows:
        reason = f"labels[{block - 1}] has {rows} distinct" if block > 0 else "no block comes before"
        raise ValueError(f"{what} must have {rows} rows, as {reason}, got shape {array.shape}; check labels")


def _with_budgets(
    costs: Mapping[str, tuple[str, list[NDArray[np.int64]]]], budgets: Mapping[str, Budget]
) -> list[tuple[str, str, list[NDArray[np.int64]], int | None, int | None]]:
    """The costs as the compiled solver takes them: (name, reduce, arrays, lower, upper)."""
    for name in budgets:
        if name not in costs:
            nearest = difflib.get_close_matches(str(name), list(costs), n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"budget {name!r} names no cost; known costs: {', '.join(costs) or 'none'}{hint}")
    result = []
    for name, (reduce, arrays) in costs.items():
        lower, upper = _budget_ends(name, budgets[name]) if name in budgets else (None, None)
        result.append((name, reduce, arrays, lower, upper))
    return result


def _budget_ends(name: str, budget: Budget) -> tuple[int | None, int | None]:
    if isinstance(budget, (tuple, list)):
        if len(budget) != 2:
            raise ValueError(f"budget {name!r} must be an upper end or (lower, upper), got {len(budget)} values")
        lower, upper = (_budget_end(name, end) for end in budget)
    else:
        lower, upper = None, _budget_end(name, budget)
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"budget {name!r} must have lower <= upper, got ({lower}, {upper}); swap them")
    return lower, upper


def _budget_end(name: str, end: object) -> int | None:
    if end is None:
        return None
    if isinstance(end, (bool, np.bool_)) or not isinstance(end, numbers.Integral):
        hint = f"; write {math.floor(end)}" if isinstance(end, float) and math.isfinite(end) else ""
        raise TypeError(f"budget {name!r} must be a whole number, got {end!r}{hint}")
    return max(-1, min(int(end), INT64_MAX))  # costs are >= 0 and fit int64: beyond that nothing changes
