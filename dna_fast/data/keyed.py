"""Random numbers as a pure function of (seed, epoch, image, purpose).

A counter-based generator has no state to save: an epoch can be entered at any batch, and an image gets the same crop
whatever rank, thread or batch it lands in. The mixing function is SplitMix64's finaliser (Steele, Lea, Flood,
"Fast Splittable Pseudorandom Number Generators", 2014), chained over the fields of the key. It is spelled out here
instead of taken from numpy so that a run repeats under every numpy version.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: SplitMix64's increment
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_DOUBLE_STEP = 2.0**-53


class Purpose(IntEnum):
    """What a number is drawn for. Distinct purposes never share numbers; values are part of a run's identity."""

    ORDER = 0
    WINDOW = 1
    FLIP = 2
    COLOR = 3
    AFFINE = 4
    ERASE = 5
    NOISE = 6
    SPLIT = 7
    REMAINDER = 8
    SUBSTITUTE = 9
    POLICY = 10


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def keys(seed: int, epoch: int, indices: NDArray[np.int64], purpose: Purpose) -> NDArray[np.uint64]:
    """One 64-bit key per image.

    Args:
        seed, epoch: any non-negative integers below 2^64.
        indices: [N] image positions.

    Returns:
        [N] uint64, independent and uniform over the keys' fields.
    """
    state = np.zeros(1, np.uint64)  # an array, not a scalar: numpy warns when scalar arithmetic wraps
    for field in (np.array([seed], np.uint64), np.array([epoch], np.uint64), np.array([int(purpose)], np.uint64)):
        state = _mix((state ^ field) + _GOLDEN)
    return _mix((state ^ np.asarray(indices).astype(np.uint64)) + _GOLDEN)


def uniform(seed: int, epoch: int, indices: NDArray[np.int64], purpose: Purpose, count: int) -> NDArray[np.float64]:
    """[N, count] numbers in [0, 1), row i depending on image indices[i] alone."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(keys(seed, epoch, indices, purpose)[:, None] + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * _DOUBLE_STEP
