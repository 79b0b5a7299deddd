"""Ranking studies: how well scores that cost no training rank networks that were trained, overall and at equal cost.

A score that follows the cost ranks well where costs differ, and says nothing that the cost does not. So agreement is also
measured within buckets of equal cost, and the cost itself is always among the scores.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dna_fast.study_statistics import (
    COEFFICIENTS,
    MIN_MODELS,
    Estimate,
    Floats,
    Resamples,
    coefficient,
    grouped_tau,
    with_interval,
    within_groups,
)

FORMAT, VERSION = "dna_fast.study", 1
BUCKET_WIDTH = 0.1  # the dearest model of a bucket costs at most this share more than the cheapest could
RESAMPLES = 2000  # the ends of a 95 % interval are then the 50th of 2000 from either side
MIN_RESAMPLES = 40  # of fewer none lies beyond the end of an interval


@dataclass(frozen=True, eq=False)
class Models:
    """Trained networks and what was known of them before.

    Args:
        title: of the study.
        names: one per model.
        truth_name, truth: [models] what was measured after training; more is better.
        scores: name -> [models].
        cost_name, cost: [models], > 0; models are compared at equal cost by it.
        lower_is_better: the scores of which less is better.
        remarks: what a reader must know of where the numbers come from.
        edges: of the buckets of cost that the models were drawn from; empty: buckets are made from the costs.

    Raises:
        ValueError: fewer than three models, other lengths, values that are not finite, a truth that is the same for all, a
            cost that is not positive, an unknown score.
    """

    title: str
    names: Sequence[str]
    truth_name: str
    truth: Floats
    scores: Mapping[str, Floats]
    cost_name: str
    cost: Floats
    lower_is_better: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) < MIN_MODELS:
            raise ValueError(f"study: expected at least {MIN_MODELS} models, got {len(self.names)}; train more")
        if unknown := self.lower_is_better - set(self.scores):
            raise ValueError(
                f"study: lower is better for {', '.join(sorted(unknown))}, but the scores are {_list(self.scores)}"
            )
        for name, values in ((self.truth_name, self.truth), (self.cost_name, self.cost), *self.scores.items()):
            if values.shape != (len(self.names),):
                raise ValueError(f"study: {name} needs a value per model, {len(self.names)}, got {values.shape}")
            if len(bad := np.flatnonzero(~np.isfinite(values))):
                raise ValueError(
                    f"study: {name} must be finite, got {values[bad[0]]} for {self.names[bad[0]]}; leave that model out"
                )
        if self.truth.min() == self.truth.max():
            raise ValueError(
                f"study: {self.truth_name} is {self.truth[0]:g} for all {len(self.names)} models: there is nothing to rank; "
                "train longer, or judge on more images"
            )
        if self.cost.min() <= 0:
            raise ValueError(f"study: {self.cost_name} must be > 0, got {self.cost.min():g}; choose another cost")

    def better(self, score: str) -> Floats:
        """[models] a score, turned so that more is better."""
        return -self.scores[score] if score in self.lower_is_better else self.scores[score]


@dataclass(frozen=True)
class Bucket:
    """Models of about equal cost: from `low` on and below `high` (the last one's `high` belongs to it)."""

    low: float
    high: float
    models: tuple[int, ...]  # their numbers


@dataclass(frozen=True)
class Agreement:
    """Between one score and the truth."""

    score: str
    overall: Mapping[str, Estimate]  # coefficient ->
    within: Estimate  # tau-b over the pairs of models of the same bucket, all buckets together
    buckets: tuple[Mapping[str, Estimate], ...]  # per bucket: coefficient ->


@dataclass(frozen=True)
class Comparison:
    """Kendall's tau of one score minus that of another, on the same models and the same resamples."""

    first: str
    second: str
    overall: Estimate
    within: Estimate


@dataclass(frozen=True)
class Study:
    """What `study` found."""

    models: Models
    bucket_width: float  # of the widest: the share by which costs within a bucket can differ
    resamples: int
    buckets: tuple[Bucket, ...]
    agreements: tuple[Agreement, ...]
    comparisons: tuple[Comparison, ...]
    groups: NDArray[np.int64] = field(repr=False)  # [models] the number of each model's bucket

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        models = self.models
        return {
            "format": FORMAT,
            "version": VERSION,
            "title": models.title,
            "remarks": list(models.remarks),
            "truth": models.truth_name,
            "cost": models.cost_name,
            "lower_is_better": sorted(models.lower_is_better),
            "interval": f"95 %, percentiles of {self.resamples} bootstrap resamples of the models",
            "bucket_width": self.bucket_width,
            "buckets": [asdict(bucket) for bucket in self.buckets],
            "agreements": [asdict(agreement) for agreement in self.agreements],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "models": [
                {"name": name, models.truth_name: float(models.truth[i]), models.cost_name: float(models.cost[i])}
                | {score: float(values[i]) for score, values in models.scores.items()}
                for i, name in enumerate(models.names)
            ],
        }


def study(
    models: Models, rng: np.random.Generator, *, bucket_width: float = BUCKET_WIDTH, resamples: int = RESAMPLES
) -> Study:
    """Measures how well every score ranks the models, and which score does it better.

    Args:
        models: at least three.
        rng: draws the resamples; the same generator state gives the same intervals.
        bucket_width: relative width of a bucket of equal cost, see `equal_ratios`; models drawn from buckets keep those.
        resamples: of the bootstrap.

    Intervals overall come from resamples of all models; within buckets from resamples of each bucket's own models.

    Raises:
        ValueError: a width that is not positive, too few resamples.
    """
    if resamples < MIN_RESAMPLES:
        raise ValueError(f"study: expected at least {MIN_RESAMPLES} resamples, got {resamples}; try {RESAMPLES}")
    edges = models.edges or equal_ratios(models.cost, bucket_width)
    buckets = equal_cost_buckets(models.cost, edges)
    groups = np.empty(len(models.cost), dtype=np.int64)
    for number, bucket in enumerate(buckets):
        groups[list(bucket.models)] = number
    everywhere = Resamples.draw(np.zeros_like(groups), resamples, rng)
    inside = Resamples.draw(groups, resamples, rng)
    agreements = []
    for score in models.scores:
        better = models.better(score)
        overall = {name: coefficient(name, better, models.truth, everywhere) for name in COEFFICIENTS}
        within, _ = within_groups(better, models.truth, groups, inside)
        agreements.append(Agreement(score, overall, within, tuple(_per_bucket(models, better, buckets))))
    pairs = combinations(models.scores, 2)
    comparisons = [
        Comparison(
            first,
            second,
            _difference(models, (first, second), np.zeros_like(groups), everywhere),
            _difference(models, (first, second), groups, inside),
        )
        for first, second in pairs
    ]
    widest = max(high / low for low, high in pairwise(edges)) - 1
    return Study(models, widest, resamples, tuple(buckets), tuple(agreements), tuple(comparisons), groups)


def equal_ratios(cost: Floats, width: float) -> tuple[float, ...]:
    """Cuts the range of the costs into as few buckets of one ratio as leave none wider than 1 + width.

    With the cheapest at c, the dearest at C and n = ceil(log(C / c) / log(1 + width)), bucket i goes from c (C / c)^(i/n) to
    c (C / c)^((i + 1)/n).

    Raises:
        ValueError: a width that is not positive.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"study: the width of a bucket must be a share > 0 such as 0.1, got {width}")
    low, high = float(cost.min()), float(cost.max())
    # Costs that differ by exactly the width are one bucket, whatever way the logarithms round.
    count = max(1, math.ceil(math.log(high / low) / math.log1p(width) - 1e-9))
    return (low, *(low * (high / low) ** (i / count) for i in range(1, count)), high)


def equal_cost_buckets(cost: Floats, edges: Sequence[float]) -> list[Bucket]:
    """The models between every two edges; buckets without models are left out.

    Raises:
        ValueError: a cost beyond the edges.
    """
    if cost.min() < edges[0] or cost.max() > edges[-1]:
        raise ValueError(
            f"study: costs run from {cost.min():g} to {cost.max():g}, the buckets from {edges[0]:g} to {edges[-1]:g}"
        )
    numbers = np.searchsorted(edges[1:-1], cost, side="right")
    found = [np.flatnonzero(numbers == i) for i in range(len(edges) - 1)]
    return [
        Bucket(edges[i], edges[i + 1], tuple(int(m) for m in members))
        for i, members in enumerate(found)
        if len(members)
    ]


def _per_bucket(models: Models, better: Floats, buckets: Sequence[Bucket]) -> Iterable[Mapping[str, Estimate]]:
    """Coefficients of each bucket. Without intervals: a bucket holds few models; the pooled tau has one."""
    for bucket in buckets:
        chosen = list(bucket.models)
        yield {name: coefficient(name, better[chosen], models.truth[chosen], None) for name in COEFFICIENTS}


def _difference(models: Models, scores: tuple[str, str], groups: NDArray[np.int64], resamples: Resamples) -> Estimate:
    """Of tau within the groups, first score minus second, on the same resamples: what both share cancels."""
    ones, values, found = np.ones((1, len(groups))), [], []
    for score in scores:
        better = models.better(score)
        values.append(float(grouped_tau(better, models.truth, groups, ones)[0]))
        found.append(grouped_tau(better, models.truth, groups, resamples.weights))
    if not all(map(math.isfinite, values)):
        return Estimate(None, why="tau of one of them is not defined")
    return with_interval(values[0] - values[1], found[0] - found[1], len(groups))


# ---- a user's own models --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Which column of a CSV file is what."""

    truth: str
    scores: tuple[str, ...]
    cost: str
    lower_is_better: frozenset[str] = frozenset()
    name: str | None = None  # of the models; None: they are numbered


def read_models(path: str | Path, columns: Columns) -> Models:
    """Reads models from a CSV file with a header line. The cost is a score, too: the baseline.

    Raises:
        ValueError: no such file or column (the nearest is named), a value that is no number, or what `Models` refuses.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a CSV file, a run directory, or: published") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    scores = tuple(dict.fromkeys((*columns.scores, columns.cost)))
    for column in (columns.truth, *scores, *([columns.name] if columns.name else [])):
        if column not in header:
            near = difflib.get_close_matches(column, header, n=1, cutoff=0.0)
            raise ValueError(
                f"{path}: no column {column!r}{f'; did you mean {near[0]!r}?' if near else ''} Its columns: {_list(header)}"
            )
    names = [row[columns.name] if columns.name else f"model {i}" for i, row in enumerate(rows, start=1)]

    def numbers(column: str) -> Floats:
        values = []
        for line, row in enumerate(rows, start=2):
            try:
                values.append(float(row[column]))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {line}: {column} must be a number, got {row[column]!r}") from error
        return np.array(values, dtype=np.float64)

    return Models(
        title=Path(path).stem,
        names=names,
        truth_name=columns.truth,
        truth=numbers(columns.truth),
        scores={score: numbers(score) for score in scores},
        cost_name=columns.cost,
        cost=numbers(columns.cost),
        lower_is_better=columns.lower_is_better,
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
