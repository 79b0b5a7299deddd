"""What times are turned into: ratios to the best opponent, and their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.results import Entry

OURS = "ours"
# Whoever may use bfloat16 may also use float32 where that is faster, but not the other way round.
RIVAL_DTYPES = {"float32": ("float32",), "bfloat16": ("bfloat16", "float32")}


def geometric_mean(ratios: Iterable[float]) -> float:
    """Of positive ratios.

    Raises:
        ValueError: none, or one that is not positive.
    """
    values = list(ratios)
    if not values or not all(value > 0 for value in values):
        raise ValueError(f"geometric_mean: expected positive numbers, got {values}")
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def fastest(entries: Iterable[Entry], among: Callable[[Entry], bool]) -> Entry | None:
    """The entry of least median time among some; None if there are none."""
    return min(filter(among, entries), key=lambda entry: entry.median_s, default=None)


@dataclass(frozen=True)
class Standing:
    """Our time and the best opponents' in one race, for one dtype and number of threads.

    `default` races both with the allocator as it comes, `tuned` both with one that keeps freed memory; `any` sets ours with the
    tuned one against the best of all opponents whatever they do: allocator, pieces, and float32 where we use bfloat16.
    """

    ours_default: Entry | None
    ours_tuned: Entry | None
    default: Entry | None
    tuned: Entry | None
    any: Entry | None

    @property
    def ratio_default(self) -> float | None:
        return _ratio(self.default, self.ours_default)

    @property
    def ratio_tuned(self) -> float | None:
        return _ratio(self.tuned, self.ours_tuned)

    @property
    def ratio_any(self) -> float | None:
        return _ratio(self.any, self.ours_tuned)


def standing(entries: Sequence[Entry], dtype: str, *, rivals: Callable[[Entry], bool] = lambda entry: True) -> Standing:
    """Who stands where in one race.

    Args:
        entries: with fields way, dtype, allocator and possibly pieces.
        dtype: ours.
        rivals: which opponents count, for comparisons with one kind of them.
    """

    def ours(allocator: str) -> Entry | None:
        return fastest(
            entries,
            lambda e: e.fields["way"] == OURS and (e.fields["dtype"], e.fields["allocator"]) == (dtype, allocator),
        )

    def rival(entry: Entry) -> bool:
        return entry.fields["way"] != OURS and entry.fields["dtype"] in RIVAL_DTYPES[dtype] and rivals(entry)

    def whole(allocator: str) -> Entry | None:
        return fastest(
            entries, lambda e: rival(e) and e.fields["allocator"] == allocator and not e.fields.get("pieces", 0)
        )

    return Standing(ours("default"), ours("tuned"), whole("default"), whole("tuned"), fastest(entries, rival))


def _ratio(rival: Entry | None, ours: Entry | None) -> float | None:
    return rival.median_s / ours.median_s if rival is not None and ours is not None else None


@dataclass(frozen=True)
class Spread:
    """Many ratios in three figures."""

    mean: float  # geometric
    worst: float
    median: float
    count: int


def spread(ratios: Iterable[float | None]) -> Spread | None:
    """Of the ratios that exist; None if there are none."""
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return None
    return Spread(geometric_mean(known), min(known), median(known), len(known))
