"""How far sums over layers are from whole networks, and the correction that brings them nearer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_NETWORKS = 4  # each is predicted from a fit to the others, and two parameters need more than two of them

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Of predictions, as shares of what was measured."""

    mean: float  # of their absolute values
    worst: float
    bias: float  # their mean: below 0 where predictions are too small

    @classmethod
    def of(cls, predicted: Floats, measured: Floats) -> Errors:
        """Both [networks], microseconds."""
        relative = predicted / measured - 1
        return cls(float(np.abs(relative).mean()), float(np.abs(relative).max()), float(relative.mean()))


@dataclass(frozen=True)
class LatencyFit:
    """measured = offset + factor x sum over layers, fitted to whole networks.

    `after` is leave-one-out: each network predicted by the fit to all others. `helps` says whether that is nearer than the
    plain sums are: if not, the plain sums are used.
    """

    offset_us: float
    factor: float
    networks: int
    before: Errors
    after: Errors

    @property
    def helps(self) -> bool:
        return self.after.mean < self.before.mean


def fit_latency(summed: Floats, measured: Floats) -> LatencyFit:
    """Fits the correction and judges it by leaving each network out in turn.

    Args:
        summed: [networks] sums over layers, microseconds.
        measured: [networks] the same networks, whole.

    Raises:
        ValueError: fewer than four networks.
    """
    if len(summed) < MIN_NETWORKS:
        raise ValueError(f"profile: expected at least {MIN_NETWORKS} networks to fit a correction, got {len(summed)}")
    offset, factor = _line(summed, measured)
    rest = [np.arange(len(summed)) != i for i in range(len(summed))]
    lines = [_line(summed[keep], measured[keep]) for keep in rest]
    left_out = np.array([a + b * x for (a, b), x in zip(lines, summed, strict=True)])
    return LatencyFit(offset, factor, len(summed), Errors.of(summed, measured), Errors.of(left_out, measured))


def _line(summed: Floats, measured: Floats) -> tuple[float, float]:
    """(offset, factor) of the least squared relative errors with offset >= 0: candidates' costs may not become negative."""
    with_offset = np.stack([1 / measured, summed / measured], axis=1)
    ones = np.ones(len(summed))
    offset, factor = np.linalg.lstsq(with_offset, ones, rcond=None)[0]
    if offset < 0 or factor <= 0:
        ratio = summed / measured
        return 0.0, float(ratio @ ones / (ratio @ ratio))
    return float(offset), float(factor)
