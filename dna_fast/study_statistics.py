"""How well a score ranks models: Kendall, Spearman and Pearson, within groups of equal cost too, with bootstrap intervals.

Intervals are percentiles of the statistic over models drawn again with replacement. In 400 simulated studies each of 8, 10,
23 and 60 normal models with tau 0, 0.41, 0.65 and 0.8 they held the true tau in 93 to 98 of 100 cases. Bias-corrected and
accelerated ones (BCa), tried with 10 to 60 models and tau up to 0.65, did no better (94 to 98), and are not defined where
the agreement is perfect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COEFFICIENTS = ("kendall", "spearman", "pearson")
MIN_MODELS = 3  # two models are in order or not: no coefficient says more
# Of fewer models there are fewer distinct resamples, C(2n - 1, n), than resamples are drawn: 1,716 of 7, 6,435 of 8.
MIN_MODELS_FOR_INTERVAL = 8
LEVELS = (0.025, 0.975)
_PAIR_ROWS = 512  # models whose pairs are looked at at once: tables of [512, models]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. None: not defined, or not known; `why` says so in words."""

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" + ("" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


@dataclass(frozen=True, eq=False)
class Resamples:
    """Models drawn again, with replacement.

    Args:
        indices: [resamples, models] which model stands in each place.
    """

    indices: NDArray[np.int64]

    @classmethod
    def draw(cls, groups: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> Resamples:
        """As many models of every group as it has: groups are part of a study's design, not of chance.

        Args:
            groups: [models] a number per group; zeros draw from all models alike.
        """
        indices = np.empty((resamples, len(groups)), dtype=np.int64)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            indices[:, members] = members[rng.integers(len(members), size=(resamples, len(members)))]
        return cls(indices)

    @property
    def weights(self) -> Floats:
        """[resamples, models] how often each model was drawn."""
        resamples, models = self.indices.shape
        places = self.indices + models * np.arange(resamples)[:, None]
        return np.bincount(places.ravel(), minlength=resamples * models).reshape(resamples, models).astype(np.float64)


def grouped_tau(score: Floats, truth: Floats, groups: NDArray[np.int64], weights: Floats) -> Floats:
    """Kendall's tau-b over the pairs of models that share a group, for every row of weights.

    (concordant - discordant) / sqrt(pairs that differ in score x pairs that differ in truth), pairs of all groups counted
    together. A model drawn twice ties with itself in both and so enters none of the three counts.

    Args:
        score, truth, groups: [models].
        weights: [resamples, models] how often each model counts.

    Returns:
        [resamples]; nan where no pair differs.
    """
    concordant, differ_score, differ_truth = (np.zeros(len(weights)) for _ in range(3))
    for start in range(0, len(score), _PAIR_ROWS):
        rows = slice(start, start + _PAIR_ROWS)
        together = groups[rows, None] == groups
        by_score = np.sign(score[rows, None] - score) * together
        by_truth = np.sign(truth[rows, None] - truth) * together
        for total, pairs in (
            (concordant, by_score * by_truth),
            (differ_score, np.abs(by_score)),
            (differ_truth, np.abs(by_truth)),
        ):
            total += ((weights @ pairs.T) * weights[:, rows]).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(concordant / np.sqrt(differ_score * differ_truth), dtype=np.float64)


def coefficient(name: str, score: Floats, truth: Floats, resamples: Resamples | None) -> Estimate:
    """One of `COEFFICIENTS` between a score and the truth, over all models.

    Args:
        score, truth: [models], finite; a greater score should mean a greater truth.
        resamples: of the same models; None: no interval.
    """
    if why := undefined(score, truth):
        return Estimate(None, why=why)
    from scipy import stats

    of_all = {"kendall": stats.kendalltau, "spearman": stats.spearmanr, "pearson": stats.pearsonr}[name]
    value = float(of_all(score, truth).statistic)
    if resamples is None:
        return Estimate(value)
    return with_interval(value, replicates(name, score, truth, resamples), len(score))


def replicates(name: str, score: Floats, truth: Floats, resamples: Resamples) -> Floats:
    """[resamples] the coefficient of each; nan where it is not defined."""
    if name == "kendall":
        return grouped_tau(score, truth, np.zeros(len(score), dtype=np.int64), resamples.weights)
    from scipy.stats import rankdata

    x, y = score[resamples.indices], truth[resamples.indices]
    if name == "spearman":
        x, y = rankdata(x, axis=1), rankdata(y, axis=1)
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)), dtype=np.float64)


def within_groups(
    score: Floats, truth: Floats, groups: NDArray[np.int64], resamples: Resamples | None
) -> tuple[Estimate, Floats]:
    """`grouped_tau` with its interval, and the replicates behind it."""
    value = float(grouped_tau(score, truth, groups, np.ones((1, len(score))))[0])
    if np.isnan(value):
        sizes = np.unique(groups, return_counts=True)[1]
        why = "no bucket holds two models" if sizes.max() < 2 else "no two models of a bucket differ in score and truth"
        return Estimate(None, why=why), np.empty(0)
    if resamples is None:
        return Estimate(value), np.empty(0)
    found = grouped_tau(score, truth, groups, resamples.weights)
    return with_interval(value, found, len(score)), found


def with_interval(value: float, found: Floats, models: int) -> Estimate:
    """The percentile interval of a value, if there are models enough for one.

    Args:
        found: [resamples] replicates; those that are nan are left out.
        models: how many were drawn from.
    """
    if models < MIN_MODELS_FOR_INTERVAL:
        return Estimate(value, why=f"no interval: {models} models, expected at least {MIN_MODELS_FOR_INTERVAL}")
    defined = found[np.isfinite(found)]
    if 2 * len(defined) < len(found):
        return Estimate(value, why="no interval: most resamples hold only ties")
    low, high = np.quantile(defined, LEVELS)
    return Estimate(value, float(low), float(high))


def undefined(score: Floats, truth: Floats) -> str:
    """Why no coefficient is defined; empty if all are."""
    if len(score) < MIN_MODELS:
        return f"{len(score)} models, expected at least {MIN_MODELS}"
    for what, values in (("the score", score), ("the truth", truth)):
        if values.min() == values.max():
            return f"{what} is {values[0]:g} for all {len(values)} models: it ranks nothing"
    return ""
