"""timm's layers run by dna_fast.ops.mbconv."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.ops.mbconv import Affine, MBConvShape, MBConvWeights, mbconv


def fused_layer(layer: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """timm's InvertedResidual or DepthwiseSeparableConv in evaluation mode as one call; the weights are copied.

    Raises:
        TypeError: another module.
    """
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite

    if type(layer) not in (InvertedResidual, DepthwiseSeparableConv):
        raise TypeError(f"fused_layer: expected InvertedResidual or DepthwiseSeparableConv, got {type(layer).__name__}")
    expands = type(layer) is InvertedResidual
    depthwise, projection = layer.conv_dw, layer.conv_pwl if expands else layer.conv_pw
    parts: list[nn.Conv2d] = [layer.se.conv_reduce, layer.se.conv_expand] if type(layer.se) is SqueezeExcite else []
    shape = MBConvShape(
        in_channels=layer.conv_pw.in_channels if expands else depthwise.in_channels,
        mid_channels=depthwise.in_channels,
        out_channels=projection.out_channels,
        kernel=depthwise.kernel_size[0],
        stride=depthwise.stride[0],
        se_channels=parts[0].out_channels if parts else 0,
        padding="same" if type(depthwise) is not nn.Conv2d else "symmetric",  # Conv2dSame
        has_expansion=expands,
        has_residual=layer.has_skip,
    )
    gates = [plain for part in parts for plain in (_plain(part.weight), _plain(part.bias))]
    expansion = _plain(layer.conv_pw.weight) if expands else None
    weights = MBConvWeights.pack(
        shape, expansion, _plain(depthwise.weight), _plain(projection.weight), gates, dtype=dtype
    )
    norms = [_fold(norm) for norm in (layer.bn1, layer.bn2, *((layer.bn3,) if expands else ()))]
    return lambda x: mbconv(x, weights, norms)


def fused_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a timm EfficientNet whose layers are fused, channels-last; what is left of it in `dtype`."""

    class Fused(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.run = fused_layer(layer, dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    model = copy.deepcopy(model)
    stages: Any = model.get_submodule("blocks")
    for stage in stages:
        for number, layer in enumerate(stage):
            stage[number] = Fused(layer)
    return model.to(dtype).to(memory_format=torch.channels_last)


def _plain(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight.detach().contiguous()


def _fold(norm: Any) -> Affine:
    return Affine.fold(norm.weight.detach(), norm.bias.detach(), norm.running_mean, norm.running_var, norm.eps)
