"""How many threads and how much prefetching suit a loader here: found by a short measurement."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dna_fast.data.loader import Loader

LOG = logging.getLogger(__name__)
MEASURE_SECONDS = 1.0  # per setting: some 1 % of scatter where decoding takes milliseconds
WORTH_IT = 1.03  # a larger setting must be so much faster: the model wants the cores and the memory, too
DEFAULT_THREADS, DEFAULT_PREFETCH = 2, 2
PREFETCHES = (2, 4)
LEAST_IMAGES = 20_000  # an epoch of fewer passes before a measurement pays


@dataclass(frozen=True)
class Settings:
    """What a loader runs with, and how fast it was measured to be; None where it was not."""

    threads: int = DEFAULT_THREADS
    prefetch: int = DEFAULT_PREFETCH
    images_per_s: float | None = None

    def __str__(self) -> str:
        speed = "" if self.images_per_s is None else f", {self.images_per_s:,.0f} images/s"
        return f"{self.threads} threads, {self.prefetch} batches ahead{speed}"


Make = Callable[[int, int], "Loader"]  # threads, prefetch -> a loader


def tune(
    make: Make,
    *,
    threads: int | None = None,
    prefetch: int | None = None,
    most_threads: int | None = None,
    measure: Callable[[Loader], float] | None = None,
) -> Settings:
    """Finds the smallest settings beyond which a loader hardly gets faster.

    Args:
        make: builds the loader to measure.
        threads, prefetch: given ones are not varied.
        most_threads: never more than this; None: the cores that the process may use.
        measure: images per second of a loader; None: `images_per_s`.
    """
    measure = images_per_s if measure is None else measure
    cores = len(os.sched_getaffinity(0)) if most_threads is None else most_threads
    best = Settings(0, 0, 0.0)
    ahead = DEFAULT_PREFETCH if prefetch is None else prefetch
    for count in _doubling(cores) if threads is None else [threads]:
        found = Settings(count, ahead, measure(make(count, ahead)))
        if not _is_faster(found, best):
            break  # twice the threads did not help: more of them will not
        best = found
    for depth in PREFETCHES if prefetch is None else ():
        if depth > best.prefetch:
            found = Settings(best.threads, depth, measure(make(best.threads, depth)))
            best = found if _is_faster(found, best) else best
    LOG.info("loader: %s (measured)", best)
    return best


def images_per_s(loader: Loader, seconds: float = MEASURE_SECONDS) -> float:
    """Images per second, from the second batch on: a pipeline's first one includes its start.

    0 where an epoch has fewer than two batches.
    """
    images, start, epoch = 0, None, 0
    while start is None or time.perf_counter() - start < seconds:
        batches = 0
        for batch in loader.epoch(epoch):
            batches += 1
            if start is None:
                start = time.perf_counter()
                continue
            images += len(batch.images)
            if time.perf_counter() - start >= seconds:
                return images / (time.perf_counter() - start)
        if batches < 2:
            return 0.0
        epoch += 1
    return images / (time.perf_counter() - start)


def _is_faster(found: Settings, best: Settings) -> bool:
    return (found.images_per_s or 0.0) > WORTH_IT * (best.images_per_s or 0.0) or best.threads == 0


def _doubling(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    counts = [1 << k for k in range(most.bit_length()) if 1 << k < most]
    return [*counts, most]
