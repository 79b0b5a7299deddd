"""Statistics that batch norms are calibrated with: of a whole set of images, unbiased, in float64.

What many prefixes share in one tensor is merged in an order that depends on the number of images alone: the same bits however prefixes
are grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dna_fast.supernet import Step

PIECE_BYTES = 1 << 22  # of the float64 copy that a covariance is accumulated from: it stays in a core's cache


@dataclass(frozen=True)
class Statistics:
    """Mean and unbiased variance per channel of every prefix."""

    mean: Tensor  # [P, C] float64
    var: Tensor  # [P, C] float64


@dataclass(frozen=True)
class Covariance:
    """Mean and scatter of one prefix's features over images and pixels."""

    mean: Tensor  # [C] float64
    scatter: Tensor  # [C, C] float64: sum of (x - mean) (x - mean)^T
    count: int

    @classmethod
    def of(cls, x: Tensor) -> Covariance:
        """Accumulates in float64, in pieces of a size that depends on the channels only.

        Args:
            x: [N, C, H, W] channels-last.

        Raises:
            ValueError: a single value per channel.
        """
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # a view: channels lie innermost
        count, channels = rows.shape
        _check_count(count)
        # Deviations from one piece's mean: nothing cancels where a mean is large beside its deviation.
        pieces = torch.split(rows, max(1, PIECE_BYTES // (8 * channels)))
        around = pieces[0].double().mean(0)
        total = torch.zeros(channels, dtype=torch.float64, device=x.device)
        scatter = torch.zeros(channels, channels, dtype=torch.float64, device=x.device)
        for piece in pieces:
            deviations = piece.double().sub_(around)
            total += deviations.sum(0)
            scatter.addmm_(deviations.T, deviations)
        offset = total / count
        return cls(around + offset, scatter.sub_(count * torch.outer(offset, offset)), count)

    def through(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance [M] of `weight @ x`, for a float64 `weight` [M, C]: exact, as both are linear in x."""
        var = ((weight @ self.scatter) * weight).sum(1) / (self.count - 1)
        return weight @ self.mean, var.clamp_(min=0)  # rounding can leave a constant channel below zero


def pointwise_statistics(weight: Tensor, inputs: Sequence[Covariance]) -> Statistics:
    """What a 1x1 convolution's output has, from its input's covariances, one per prefix.

    Args:
        weight: [M, C] float64.
    """
    # One product per prefix: a batched one may round differently for other numbers of prefixes.
    mean, var = zip(*(x.through(weight) for x in inputs), strict=True)
    return Statistics(torch.stack(mean), torch.stack(var))


def image_statistics(moments: Tensor, prefixes: int, pixels: int) -> Statistics:
    """Statistics per prefix from sums and sums of squares per image.

    Args:
        moments: [P * N, 2, C] float64, prefix-major; overwritten.
        pixels: that each of them was taken over.

    Raises:
        ValueError: a single value per channel.
    """
    images = len(moments) // prefixes
    count = images * pixels
    _check_count(count)
    total, squares = tree_sum(moments.view(prefixes, images, *moments.shape[1:]), 1).unbind(1)
    mean = total / count
    var = (squares - total * mean).clamp_(min=0) / (count - 1)
    return Statistics(mean, var)


def tree_sum(x: Tensor, dim: int) -> Tensor:
    """The sum over a dimension by halving it again and again: the order of additions depends on its length alone, where torch's
    sum goes by the whole shape and the threads. Overwrites x.
    """
    length = x.shape[dim]
    while length > 1:
        half = (length + 1) // 2
        x.narrow(dim, 0, length - half).add_(x.narrow(dim, half, length - half))
        length = half
    return x.select(dim, 0)


def calibrate(steps: Sequence[Step], batches: Sequence[Tensor]) -> None:
    """Sets every BN of a chain to the statistics of its input over all batches, one convolution after the other.

    For every BN the chain is computed again, so that no more than a batch of its tensors is alive.

    Args:
        steps: the chain; its BN statistics are overwritten.
        batches: the calibration set at its input, per batch [N, C, H, W].

    Raises:
        ValueError: a single value per channel.
    """
    for number, (compute, norm) in enumerate(steps):
        # On the features' device: a copy to the host would wait for the device after every batch.
        mean = torch.zeros(norm.num_features, dtype=torch.float64, device=batches[0].device)
        count, m2 = 0, torch.zeros_like(mean)
        for x in batches:
            h = x
            for before, its_norm in steps[:number]:
                h = its_norm(before(h))
            h = compute(h)
            var, batch_mean = torch.var_mean(h, dim=(0, 2, 3), correction=0)
            n = h.numel() // h.shape[1]
            # Chan, Golub and LeVeque's pairwise update.
            delta = batch_mean.double() - mean
            mean = mean + delta * (n / (count + n))
            m2 = m2 + var.double() * n + delta.square() * (count * n / (count + n))
            count += n
        write_statistics(norm, mean, m2, count)


def write_statistics(norm: nn.BatchNorm2d, mean: Tensor, m2: Tensor, count: int) -> None:
    """Gives a BN the mean and the unbiased variance of `count` values per channel with the sum of squared deviations `m2`."""
    _check_count(count)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(m2 / (count - 1))


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"calibration: a batch norm saw {count} value per channel; use more calibration images")
