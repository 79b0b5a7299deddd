"""Distillation of features: a network in training also reproduces the teacher's feature behind every block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dna_fast.teacher import Teacher

BeginVariances = Callable[[Sequence[Tensor]], Callable[[], Sequence[Tensor]]]


class FeatureDistiller(nn.Module):
    """The distance between the network's features and the teacher's, of other widths: a 1x1 projection per block stands between.

    The projections train with the network, and are no part of it. They are fresh for every network, so that all are treated alike.

    Args:
        widths: of the network's blocks, first to last.
        teacher: cut into as many blocks.
        seed: of the projections' initial weights.

    Attributes:
        begin_variances: begins to compute the variances of the teacher's features; what it returns gives them. On one of many ranks
            these are of all ranks' images.

    Raises:
        ValueError: another number of blocks.
    """

    def __init__(self, widths: tuple[int, ...], teacher: Teacher, *, seed: int) -> None:
        super().__init__()
        channels = teacher.plan.channels
        if len(widths) != len(channels):
            raise ValueError(
                f"feature distillation: the teacher is cut into {len(channels)} blocks, the network has {len(widths)}; "
                "choose as many cuts, or retrain.feature_weight: 0"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.projections = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip(widths, channels, strict=True))
        self._teacher: Callable[[Tensor], tuple[tuple[Tensor, ...], Tensor]] = teacher.forward_with_logits
        self.begin_variances: BeginVariances = _own_variances
        self._targets: tuple[Tensor, ...] = ()
        self._variances: Callable[[], Sequence[Tensor]] = tuple
        self._features: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def attach(self, model: nn.Module) -> None:
        """Listens to a network's blocks, `model.blocks[1:]`, until `detach`."""
        stages: Any = model.blocks

        def listen(block: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def keep(_: nn.Module, args: Any, feature: Tensor) -> None:
                self._features[block] = feature

            return keep

        self._hooks = [stage.register_forward_hook(listen(block)) for block, stage in enumerate(stages[1:])]

    def detach(self) -> None:
        """Leaves the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._features, self._targets, self._variances = {}, (), tuple
        self.begin_variances = _own_variances

    def look(self, images: Tensor) -> Tensor:
        """Runs the teacher on a batch [N, 3, H, W]; keeps its features for `loss`, returns its logits [N, classes]."""
        self._targets, logits = self._teacher(images)
        self._variances = self.begin_variances(self._targets)
        return logits

    def loss(self) -> Tensor:
        """Mean over blocks of mse / var(teacher), float32, of the last batch that network and teacher have both seen.

        Raises:
            ValueError: features of other sizes than the teacher's.
        """
        losses = []
        for block, (target, variance) in enumerate(zip(self._targets, self._variances(), strict=True)):
            got = self.projections[block](self._features[block].float())
            if got.shape != target.shape:
                raise ValueError(
                    f"feature distillation: block {block} gives {list(got.shape)}, the teacher {list(target.shape)}; choose cuts where "
                    "the resolutions are the same, or retrain.feature_weight: 0"
                )
            losses.append(F.mse_loss(got, target.float()) / variance)
        return torch.stack(losses).mean()


def _own_variances(targets: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
    variances = [target.float().var() for target in targets]
    return lambda: variances
