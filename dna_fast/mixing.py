"""Mixup and CutMix: batches whose images show two labels at once, mixed on the device that trains.

Source: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899. One share per batch, as timm does by default; each image
with its neighbour (timm: its mirror in the batch, as good in a shuffled one), so that ranks that share a batch mix the same pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """Images of two labels: `share` of the first, the rest of the second.

    Attributes:
        images: [N, 3, H, W], the layout and dtype of those that were mixed.
        labels, partners: [N] int64.
        share: of `labels`, in 0..1.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    share: float

    def cross_entropy(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """Against both labels by their shares, float32. logits: [N, classes]."""
        losses = [
            F.cross_entropy(logits.float(), y, label_smoothing=label_smoothing) for y in (self.labels, self.partners)
        ]
        return self.share * losses[0] + (1.0 - self.share) * losses[1]


def mix(images: Tensor, labels: Tensor, *, mixup: float, cutmix: float, rng: np.random.Generator) -> Mixed:
    """Mixes every image with its neighbour: the first with the second, the third with the fourth. The last of an odd number stays.

    Args:
        images: [N, 3, H, W]; not changed.
        labels: [N] int64.
        mixup, cutmix: both parameters of the Beta distribution that a share is drawn from, blended or as a rectangle; 0: never.
            Where both are positive, each batch takes one of them with equal chances.
        rng: where share and rectangle come from.
    """
    if mixup <= 0.0 and cutmix <= 0.0:
        return Mixed(images, labels, labels, 1.0)
    cuts = bool(rng.random() < 0.5) if mixup > 0.0 and cutmix > 0.0 else cutmix > 0.0
    alpha = cutmix if cuts else mixup
    share = float(rng.beta(alpha, alpha))
    order = _neighbours(len(images), images.device)
    partners = torch.index_select(images, 0, order, out=torch.empty_like(images))  # in the images' layout
    if not cuts:
        return Mixed(torch.lerp(partners, images, share), labels, labels[order], share)
    height, width = images.shape[2:]
    top, bottom, left, right = _rectangle(height, width, share, rng)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    kept = 1.0 - (bottom - top) * (right - left) / (height * width)  # a rectangle over the edge is smaller than drawn
    return Mixed(mixed, labels, labels[order], kept)


def _neighbours(count: int, device: torch.device) -> Tensor:
    """1, 0, 3, 2, ...; the last of an odd number is its own."""
    numbers = torch.arange(count, device=device)
    return (numbers ^ 1).clamp_(max=count - 1)


def _rectangle(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """top, bottom, left, right of a rectangle of 1 - share of the area around any pixel, cut off at the edges."""
    rows, columns = int(height * math.sqrt(1.0 - share)), int(width * math.sqrt(1.0 - share))
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, row - rows // 2), min(height, row + (rows + 1) // 2)
    left, right = max(0, column - columns // 2), min(width, column + (columns + 1) // 2)
    return top, bottom, left, right
