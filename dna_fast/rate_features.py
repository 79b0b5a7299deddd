"""What rating reads, images and the teacher's features, and how differences from those become ratings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dna_fast._loop import Loader
from dna_fast.tables import METRICS
from dna_fast.teacher import Teacher


@dataclass(frozen=True)
class Features:
    """Images and the teacher's features behind every block; kept on the device for the whole rating. All channels-last."""

    images: Tensor  # [N, 3, H, W]
    blocks: list[Tensor]  # per block [N, C, H, W]
    batch_size: int  # of the loader they came from

    def inputs(self, block: int) -> Tensor:
        """A block's input."""
        return self.images if block == 0 else self.blocks[block - 1]


def collect(teacher: Teacher, loader: Loader, device: torch.device, *, whole_batches: bool) -> Features:
    """Runs the teacher once over a loader.

    Args:
        whole_batches: drop a last batch that is smaller than the others.

    Raises:
        ValueError: no batch at all.
    """
    batches: list[list[Tensor]] = []  # per batch its images and the feature behind each block
    for batch in loader.epoch(0):
        if whole_batches and len(batch.images) < loader.batch_size:
            continue
        images = batch.images.to(device)
        batches.append([images, *teacher(images)])
    if not batches:
        raise ValueError(f"rating: no batch of {loader.batch_size} images; use more images or a smaller batch")
    stacked = []
    for _ in range(len(batches[0])):
        # Popped, so that no more than one feature is there twice.
        whole = torch.cat([per_batch.pop(0) for per_batch in batches])
        stacked.append(whole.contiguous(memory_format=torch.channels_last))
    return Features(stacked[0], stacked[1:], loader.batch_size)


@dataclass(frozen=True)
class Target:
    """A teacher feature, in whole batches, and the statistics that ratings divide by."""

    feature: Tensor  # [N, C, H, W]
    batch_size: int
    block: int  # whose output it is; for messages

    @property
    def batches(self) -> list[Tensor]:
        """Per batch [batch_size, C, H, W]."""
        return list(torch.split(self.feature, self.batch_size))

    @property
    def batch_elements(self) -> int:
        """How many differences a batch's means are taken over."""
        return self.batch_size * self.feature[0].numel()

    @cached_property
    def _statistics(self) -> NDArray[np.float64]:
        """[batches, 2]: unbiased variance and mean magnitude over all of a batch's elements."""
        rows = []
        for feature in self.batches:
            values = feature.double().flatten()
            var = float(torch.var_mean(values, correction=1)[0])
            if not var > 0:
                raise ValueError(
                    f"rate: the teacher's feature behind block {self.block} is constant over a batch (variance {var}); "
                    "check its weights and cuts"
                )
            rows.append((var, float(values.abs().mean())))
        return np.array(rows)

    def check(self) -> None:
        """Raises ValueError where a batch of the feature is constant."""
        _ = self._statistics

    def ratings(self, mean_abs: NDArray[np.float64], mse: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ratings from the means of |d| and d^2 of every batch, d = student - teacher.

        Args:
            mean_abs, mse: float64 [..., batches].

        Returns:
            float64 [..., batches, metrics], in METRICS order.
        """
        var, magnitude = self._statistics.T
        values = {
            "mse": mse,
            "relative_mse": mse / var,
            "relative_l1": mean_abs / np.sqrt(var),
            "mean_relative_l1": mean_abs / magnitude,
        }
        return np.stack([values[name] for name in METRICS], axis=-1)
