"""Which images make up which batch, on which rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dna_fast.data.keyed import Purpose, keys


@dataclass(frozen=True)
class BatchOrder:
    """The order of the images in every epoch.

    Training: all ranks cut the same permutation into global batches of batch_size * world_size images and each takes
    its consecutive slice, so the global batch is the same on one rank of 256 and on four of 64.

    Evaluation: the batches are those of a single process, and each rank takes a consecutive run of whole batches.
    Numbers that are means over batches (relative_l1) therefore do not depend on the number of ranks; the price is that
    ranks may differ by one batch.
    """

    num_images: int
    batch_size: int
    seed: int
    training: bool
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"loader: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"loader: rank must be in 0..{self.world_size - 1}, got {self.rank}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"loader: seed must be in 0..2^64-1, got {self.seed}")

    def __len__(self) -> int:
        first, last = self._batch_range()
        return last - first

    def _batch_range(self) -> tuple[int, int]:
        """This rank's batches, as positions in the epoch."""
        if self.training:
            return 0, self.num_images // (self.batch_size * self.world_size)
        batches = -(-self.num_images // self.batch_size)
        return batches * self.rank // self.world_size, batches * (self.rank + 1) // self.world_size

    def batches(self, epoch: int, start_batch: int) -> Iterator[NDArray[np.int64]]:
        """Image positions of this rank's batches `start_batch`, `start_batch` + 1, ... of an epoch."""
        order = np.arange(self.num_images)
        if self.training:
            order = np.argsort(keys(self.seed, epoch, order, Purpose.ORDER), kind="stable")
        ranks, rank = (self.world_size, self.rank) if self.training else (1, 0)
        first, last = self._batch_range()
        for batch in range(first + start_batch, last):
            start = (batch * ranks + rank) * self.batch_size
            yield order[start : start + self.batch_size]
