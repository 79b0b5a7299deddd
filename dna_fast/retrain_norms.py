"""Batch norms that normalise the batch of all ranks (SyncBatchNorm): timm's and torch's on a GPU, plain operators on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from dna_fast.parallel import Grid


def share_norms(model: nn.Module) -> nn.Module:
    """Replaces every batch norm of a model by torch's SyncBatchNorm, with the same tensors under the same names.

    In evaluation mode, and in a single process, they compute what they did.
    """
    shared: nn.Module = convert_sync_batchnorm(model)
    return shared


def attach(model: nn.Module, grid: Grid) -> None:
    """Lets the batch norms train on the CPU, too, which torch's own do not, until `detach`. Copy a model before this, not after."""
    for norm in model.modules():
        if isinstance(norm, nn.SyncBatchNorm):
            norm.forward = partial(_forward, norm, grid)  # type: ignore[method-assign]


def detach(model: nn.Module) -> None:
    """Takes back what `attach` did."""
    for norm in model.modules():
        norm.__dict__.pop("forward", None)


def _forward(norm: Any, grid: Grid, x: Tensor) -> Tensor:
    """Of x [N, C, H, W]; torch's, but on the CPU in training."""
    if x.device.type != "cpu" or not norm.training:
        found: Tensor = type(norm).forward(norm, x)
        return found
    x = _normalised(norm, grid, x)
    return norm.act(norm.drop(x)) if hasattr(norm, "act") else x  # timm's batch norms activate


def _normalised(norm: Any, grid: Grid, x: Tensor) -> Tensor:
    """Two passes, mean and then squares about it: exact where the mean is large beside the deviation; at least in float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _Averaged.apply(x.mean((0, 2, 3)), grid)
    centred = x - mean[:, None, None]
    var = _Averaged.apply(centred.square().mean((0, 2, 3)), grid)
    count = x.numel() // x.shape[1] * grid.replicas
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    scale = torch.rsqrt(var + norm.eps) * norm.weight
    return centred * scale[:, None, None] + norm.bias[:, None, None]


class _Averaged(torch.autograd.Function):
    """The mean over ranks; every rank's result depends on every rank's input, and so do the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        ctx.grid = grid
        mean = x.clone()
        grid.begin_average([mean])()
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        mean = gradient.clone()
        ctx.grid.begin_average([mean])()
        return mean, None
