"""Disjoint class-balanced subsets of a labelled set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dna_fast.data.keyed import Purpose, keys

REST = "rest"


def class_balanced_split(labels: NDArray[np.int64], counts: dict[str, int], seed: int) -> dict[str, NDArray[np.int64]]:
    """Draws disjoint subsets in which every class appears equally often, and returns what is left as "rest".

    The result depends on labels, counts and their order, and the seed, on nothing else. Within a subset the counts of
    two classes differ by at most one, unless a class has run out of images; the others then make up for it.

    Args:
        labels: [N] class of each image.
        counts: name -> number of images; subsets are drawn in this order.
        seed: non-negative.

    Returns:
        name -> positions in `labels`, int64, sorted; the names of `counts` and "rest".

    Raises:
        ValueError: labels not 1-D, a negative count, the name "rest", a negative seed, or more images asked for
            than there are.
    """
    labels = np.asarray(labels)
    _check(labels, counts, seed)
    classes, inverse = np.unique(labels, return_inverse=True)
    shuffled = np.argsort(keys(seed, 0, np.arange(len(labels)), Purpose.SPLIT), kind="stable")
    queues = [shuffled[inverse[shuffled] == k] for k in range(len(classes))]  # each class in its random order
    taken = np.zeros(len(classes), np.int64)
    subsets: dict[str, NDArray[np.int64]] = {}
    for position, (name, count) in enumerate(counts.items()):
        available = np.array([len(queue) for queue in queues], np.int64) - taken
        # Another order of the classes per subset, or the same classes would get the odd image every time.
        favour = keys(seed, position, np.arange(len(classes)), Purpose.REMAINDER)
        share = _shares(available, count, favour)
        chosen = [queue[t : t + s] for queue, t, s in zip(queues, taken, share, strict=True)]
        subsets[name] = np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
        taken += share
    left = [queue[t:] for queue, t in zip(queues, taken, strict=True)]
    subsets[REST] = np.sort(np.concatenate([np.empty(0, np.int64), *left]))
    return subsets


def _check(labels: NDArray[np.int64], counts: dict[str, int], seed: int) -> None:
    if labels.ndim != 1:
        raise ValueError(f"split: labels must be 1-D, got shape {labels.shape}")
    if seed < 0:
        raise ValueError(f"split: seed must not be negative, got {seed}")
    if REST in counts:
        raise ValueError(f"split: the name {REST!r} is kept for the images left over; choose another")
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"split: the count of {name!r} must not be negative, got {count}")
    if sum(counts.values()) > len(labels):
        wanted = " + ".join(f"{count} ({name})" for name, count in counts.items())
        raise ValueError(
            f"split: asked for {wanted} = {sum(counts.values())} images, but there are {len(labels)}; "
            "lower the counts or add images"
        )


def _shares(available: NDArray[np.int64], count: int, favour: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Images per class that sum to `count`, as level as `available` allows; the odd ones go by `favour`.

    Fills like water: the highest level L with sum(min(available, L)) <= count, then one more for some classes that
    still have images.
    """
    low, high = 0, int(available.max(initial=0))
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(available, level).sum() <= count else (low, level - 1)
    share = np.minimum(available, low)
    open_classes = np.flatnonzero(available > low)
    odd = open_classes[np.argsort(favour[open_classes], kind="stable")][: count - int(share.sum())]
    share[odd] += 1
    return share
