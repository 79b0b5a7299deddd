"""What searching takes, checked: shapes, types, labels and budgets, brought into the layout of the compiled solver."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT64_MAX = int(np.iinfo(np.int64).max)

Budget = int | tuple[int | None, int | None]
# A cost as the compiled solver takes it: (name, reduce, arrays, lower, upper).
BoundedCost = tuple[str, str, list[NDArray[np.int64]], int | None, int | None]


@dataclass(frozen=True)
class CostSpec:
    """One cost of all candidates: an integer array per block, ``[n_b]`` or ``[labels_in, n_b]``, and how they combine.

    ``reduce="sum"`` adds over blocks (macs, params, latency); ``"max"`` takes the largest (peak memory).
    """

    arrays: Sequence[ArrayLike]
    reduce: Literal["sum", "max"] = "sum"


@dataclass(frozen=True)
class Problem:
    """Checked arrays in the layout of the compiled solver."""

    losses: list[NDArray[np.float64]]
    costs: dict[str, tuple[str, list[NDArray[np.int64]]]]  # name -> (reduce, arrays)
    labels: list[NDArray[np.int64] | None]  # codes 0, 1, ... in the order of the labels

    def entries(self, choice: Sequence[int]) -> list[tuple[int, int]]:
        """Per block the row and the column of a two-dimensional array that the choice stands in."""
        rows = [0]
        for codes, candidate in zip(self.labels, choice[:-1], strict=False):
            rows.append(0 if codes is None else int(codes[candidate]))
        return list(zip(rows, choice, strict=True))


def read_problem(
    losses: Sequence[ArrayLike],
    costs: Mapping[str, Sequence[ArrayLike] | CostSpec],
    labels: Sequence[ArrayLike] | None,
) -> Problem:
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
    return Problem(loss_arrays, cost_arrays, codes)


def read_allowed(allowed: Sequence[ArrayLike | None], problem: Problem) -> list[NDArray[np.intp]]:
    """Per block the candidates that may be chosen, ascending, from one boolean mask [n_b] per block (None: all of them).

    Raises:
        ValueError: not one mask per block, another shape, or nothing left in a block.
        TypeError: a mask that is not boolean.
    """
    if len(allowed) != len(problem.losses):
        raise ValueError(f"allowed must hold one mask or None per block ({len(problem.losses)}), got {len(allowed)}")
    kept = []
    for block, (mask, losses) in enumerate(zip(allowed, problem.losses, strict=True)):
        size = losses.shape[-1]
        values = np.ones(size, bool) if mask is None else np.asarray(mask)
        if values.dtype != bool:
            raise TypeError(
                f"allowed[{block}] must be boolean, true where a candidate may be chosen, got {values.dtype}"
            )
        if values.shape != (size,):
            raise ValueError(f"allowed[{block}] must be [{size}], one per candidate, got shape {values.shape}")
        if not values.any():
            raise ValueError(f"allowed[{block}] leaves no candidate of block {block}; allow at least one")
        kept.append(np.flatnonzero(values))
    return kept


def restricted(problem: Problem, kept: Sequence[NDArray[np.intp]]) -> Problem:
    """The problem of the kept candidates; labels keep their ranks, and so rows their meaning."""

    def chosen(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.ascontiguousarray(array[..., k]) for array, k in zip(arrays, kept, strict=True)]

    costs = {name: (reduce, chosen(arrays)) for name, (reduce, arrays) in problem.costs.items()}
    labels = [None if codes is None else codes[k] for codes, k in zip(problem.labels, kept, strict=True)]
    return Problem(chosen(problem.losses), costs, labels)


def read_errors(errors: Sequence[ArrayLike], problem: Problem) -> list[NDArray[np.float64]]:
    """Standard errors in the shapes of the losses, nan where not known.

    Raises:
        ValueError: another shape, or an error below zero.
    """
    if len(errors) != len(problem.losses):
        raise ValueError(f"standard_errors must hold one array per block ({len(problem.losses)}), got {len(errors)}")
    result = []
    for block, (array, losses) in enumerate(zip(errors, problem.losses, strict=True)):
        values = np.asarray(array, dtype=np.float64)
        if values.shape != losses.shape:
            raise ValueError(f"standard_errors[{block}] must have the losses' shape {losses.shape}, got {values.shape}")
        if (values < 0).any():
            candidate = int(np.argwhere(values < 0)[0][-1])
            raise ValueError(
                f"standard_errors[{block}], candidate {candidate} must not be negative, got {values.min()}"
            )
        result.append(values)
    return result


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
            return np.zeros(values.shape, np.int64)
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


def with_budgets(
    costs: Mapping[str, tuple[str, list[NDArray[np.int64]]]], budgets: Mapping[str, Budget]
) -> list[BoundedCost]:
    """The costs as the compiled solver takes them: (name, reduce, arrays, lower, upper)."""
    for name in budgets:
        if name not in costs:
            nearest = difflib.get_close_matches(str(name), list(costs), n=1, cutoff=0.0)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"budget {name!r} names no cost; known costs: {', '.join(costs) or 'none'}{hint}")
    result = []
    for name, (reduce, arrays) in costs.items():
        lower, upper = budget_ends(name, budgets[name]) if name in budgets else (None, None)
        result.append((name, reduce, arrays, lower, upper))
    return result


def budget_ends(name: str, budget: Budget) -> tuple[int | None, int | None]:
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
