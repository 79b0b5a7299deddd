"""What ratings cannot say alone: a correction between neighbouring blocks, fitted to assembled networks, that a search can use.

A rating judges a block behind the teacher's block. In an assembled network it stands behind another student block, so what is lost may
depend on the pair. Model: quality = offset + slope x (sum of ratings) + sum over neighbours of term[leaving class, entering class]; few
classes, so that few networks tell them. Terms are shrunk (ridge) and taken only where they predict networks left out beyond chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dna_fast.search import CostSpec
from dna_fast.space import SearchSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choice = Sequence[int]

TWO_SIDED_95 = 1.96
# From terms that are all but free to terms that are all but none, for truths of unit variance.
RIDGES = tuple(10.0**e for e in range(-3, 4))
EXACT = 1e-20  # a share of the variance: below it errors are rounding, and there is nothing to correct


@dataclass(frozen=True, eq=False)
class PairClasses:
    """Per block the class [n_b] of every candidate, towards the block behind it and towards the one before it; from 0 on."""

    leaving: tuple[Ints, ...]
    entering: tuple[Ints, ...]

    @classmethod
    def of_cells(cls, space: SearchSpace) -> PairClasses:
        """A candidate's class is its cell: the pairs are those of widths and depths."""
        cells = tuple(
            np.repeat(np.arange(len(block.cells)), [space.num_paths(cell) for cell in block.cells]).astype(np.int64)
            for block in space.blocks
        )
        return cls(cells, cells)

    def shape(self, block: int) -> tuple[int, int]:
        """Of the terms between a block and the next: leaving x entering classes."""
        return int(self.leaving[block].max()) + 1, int(self.entering[block + 1].max()) + 1


@dataclass(frozen=True, eq=False)
class Correction:
    """Terms to add to summed ratings, in the ratings' unit.

    Args:
        classes: of the candidates.
        terms: between every block and the next, [leaving, entering]; zeros where nothing was taken.
        taken: whether there is anything to correct.
        why: in words.
        error, plain_error: mean squared error of networks left out of the fit, in shares of the truth's variance, with the terms
            and without.
    """

    classes: PairClasses
    terms: tuple[Floats, ...]
    taken: bool
    why: str
    error: float
    plain_error: float

    def of(self, choice: Choice) -> float:
        """What to add to the summed rating of a choice."""
        pairs = zip(self.terms, choice[:-1], choice[1:], strict=True)
        return float(
            sum(
                term[self.classes.leaving[b][left], self.classes.entering[b + 1][right]]
                for b, (term, left, right) in enumerate(pairs)
            )
        )


def fit_correction(choices: Sequence[Choice], ratings: Floats, truth: Floats, classes: PairClasses) -> Correction:
    """Fits the terms to networks whose quality is known.

    The strength of the ridge is the one with the least error on networks left out, one at a time. The terms are taken if their squared
    errors are smaller than those of ratings alone by more than 1.96 standard errors of the difference, and if the slope is positive.

    Args:
        choices: candidate per block of every network.
        ratings: [networks] their summed ratings.
        truth: [networks] how far they are from what is wanted: less is better, as of ratings.
        classes: of the candidates.

    Raises:
        ValueError: fewer than 4 networks, or all of one quality.
    """
    if len(choices) < 4 or truth.std() == 0:
        raise ValueError(f"correction: expected at least 4 networks of different quality, got {len(choices)}")
    none = tuple(np.zeros(classes.shape(b)) for b in range(len(classes.leaving) - 1))
    scale = float(truth.std())
    wanted = (truth - truth.mean()) / scale
    plain = np.column_stack([np.ones(len(ratings)), ratings])
    plain_errors = _left_out_errors(plain, wanted, 0.0, 2)
    plain_error = float(np.mean(plain_errors**2))
    if plain_error < EXACT:
        return Correction(classes, none, False, "summed ratings say it all", plain_error, plain_error)
    design = np.column_stack([plain, _indicators(choices, classes)])
    errors = {ridge: _left_out_errors(design, wanted, ridge, 2) for ridge in RIDGES}
    best = min(RIDGES, key=lambda ridge: float(np.mean(errors[ridge] ** 2)))
    error = float(np.mean(errors[best] ** 2))
    gain = plain_errors**2 - errors[best] ** 2
    fitted = _ridge(design, wanted, best, 2)
    if gain.mean() <= TWO_SIDED_95 * gain.std(ddof=1) / np.sqrt(len(gain)):
        why = "terms predict networks left out no better than summed ratings alone, beyond chance"
        return Correction(classes, none, False, why, error, plain_error)
    if fitted[1] <= 0:
        why = "summed ratings and quality go opposite ways: there is no unit to correct ratings in"
        return Correction(classes, none, False, why, error, plain_error)
    terms, start = [], 2
    for b, empty in enumerate(none):
        terms.append((fitted[start : start + empty.size] / fitted[1]).reshape(classes.shape(b)))
        start += empty.size
    why = f"terms lower the squared error of networks left out to {error / plain_error:.0%}"
    return Correction(classes, tuple(terms), True, why, error, plain_error)


def _indicators(choices: Sequence[Choice], classes: PairClasses) -> Floats:
    """[networks, terms] which pair of classes every network has, neighbours in order."""
    columns = []
    for b in range(len(classes.leaving) - 1):
        rows, cols = classes.shape(b)
        pairs = [classes.leaving[b][c[b]] * cols + classes.entering[b + 1][c[b + 1]] for c in choices]
        columns.append(np.eye(rows * cols)[pairs])
    return np.concatenate(columns, axis=1)


def _gram(design: Floats, ridge: float, free: int) -> Floats:
    penalty = np.full(design.shape[1], ridge)
    penalty[:free] = 0.0
    return np.asarray(design.T @ design + np.diag(penalty))


def _ridge(design: Floats, wanted: Floats, ridge: float, free: int) -> Floats:
    """Coefficients; the first `free` are not shrunk."""
    return np.asarray(np.linalg.lstsq(_gram(design, ridge, free), design.T @ wanted, rcond=None)[0])


def _left_out_errors(design: Floats, wanted: Floats, ridge: float, free: int) -> Floats:
    """[networks] each one's error by the fit to all others, exactly: residual / (1 - leverage)."""
    hat = design @ np.linalg.pinv(_gram(design, ridge, free)) @ design.T
    leverage = np.minimum(np.diag(hat), 1 - 1e-9)  # a network that is the only one of its kind tells nothing of itself
    return np.asarray((wanted - hat @ wanted) / (1 - leverage))


@dataclass(frozen=True)
class CorrectedProblem:
    """What `search.solve` takes: losses and costs by the label of the block before, and the labels."""

    losses: list[Floats]
    costs: dict[str, CostSpec]
    labels: list[Ints]


def corrected_problem(
    losses: Sequence[Floats], costs: dict[str, CostSpec], widths: Sequence[Ints], correction: Correction
) -> CorrectedProblem:
    """The search problem with the terms in it. A label is a width, which costs go by, and a leaving class, which terms go by.

    Args:
        losses: ratings [n_b] per block.
        costs: by the widths' ranks.
        widths: label [n_b] of every candidate, per block, as the cost table has them.
        correction: what to add.
    """
    classes = correction.classes
    labels, by_label = [], []
    for width, leaving in zip(widths, classes.leaving, strict=True):
        ranks = np.unique(width, return_inverse=True)[1]
        count = int(leaving.max()) + 1
        labels.append((ranks * count + leaving).astype(np.int64))
        by_label.append(
            np.stack(np.divmod(np.unique(labels[-1]), count))
        )  # [2, labels]: rank of the width, leaving class
    found = [np.asarray(losses[0], dtype=np.float64)]
    for b in range(1, len(losses)):
        found.append(losses[b][None] + correction.terms[b - 1][by_label[b - 1][1]][:, classes.entering[b]])
    specs = {}
    for name, spec in costs.items():
        arrays = [np.asarray(array) for array in spec.arrays]
        rows = [a[by_label[b - 1][0]] if b and a.ndim == 2 else a for b, a in enumerate(arrays)]
        specs[name] = CostSpec(rows, reduce=spec.reduce)
    return CorrectedProblem(found, specs, labels)
