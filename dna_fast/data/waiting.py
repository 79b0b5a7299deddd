"""How long a loader keeps its model waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 30.0  # shorter stretches say little: a pipeline starts, a checkpoint is written
STARVED_SHARE = 0.2  # of the time spent waiting for images is worth a word
T = TypeVar("T")


class Waiting:
    """Measures which share of a loop's time passes inside its loader, and says once when the model starves.

    Attributes:
        waited_s, total_s: since the first batch of every epoch, whose wait is the pipeline's start.
        images: in batches after those.
    """

    def __init__(self, advice: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._advice, self._clock = advice, clock
        self._told = False
        self.waited_s = self.total_s = 0.0
        self.images = 0

    @property
    def share(self) -> float:
        """Waited of total; 0 before there is anything to go by."""
        return self.waited_s / self.total_s if self.total_s > 0 else 0.0

    def watch(self, batches: Iterator[T], size: Callable[[T], int]) -> Iterator[T]:
        """Passes batches on; `size` tells their images."""
        last = None
        for batch in _timed(batches, self._clock):
            value, asked, got = batch
            if last is not None:
                self.waited_s += got - asked
                self.total_s += got - last
                self.images += size(value)
                self._judge()
            last = got
            yield value

    def _judge(self) -> None:
        if self._told or self.total_s < LOOK_SECONDS or self.share < STARVED_SHARE:
            return
        self._told = True
        LOG.warning(
            "the model waits for images %.0f %% of the time (%.0f images/s come); %s",
            100 * self.share,
            self.images / self.total_s,
            self._advice,
        )


def _timed(batches: Iterator[T], clock: Callable[[], float]) -> Iterator[tuple[T, float, float]]:
    """Every batch with when it was asked for and when it came."""
    while True:
        asked = clock()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch, asked, clock()
