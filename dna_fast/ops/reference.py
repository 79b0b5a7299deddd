"""What each operator computes, in plain torch: for reading and for tests. Any float dtype; differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of (student - teacher)^2 over all elements, in the dtype that torch promotes both to.

    For an exact answer pass both as float64.
    """
    return (student - teacher).square().mean()


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: Sequence[int] = (0, 0, 0, 0)) -> Tensor:
    """x [N, C, H, W], weight [C, 1, k, k], padding (top, bottom, left, right) -> [N, C, Q, R]."""
    top, bottom, left, right = padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=len(weight))


# ---- mbconv ---------------------------------------------------------------------------------------------------------

# A folded batch norm: scale and shift, [P, channels] each.
ScaleShift = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MBConvLayer:
    """One MBConv layer: plain convolution weights and what they cannot tell.

    Attributes:
        conv_pw: [M, C, 1, 1], or None without expansion.
        conv_dw: [M, 1, k, k].
        conv_pwl: [K, M, 1, 1].
        se: weight and bias of conv_reduce [S, M, 1, 1], [S] and of conv_expand [M, S, 1, 1], [M]; or empty.
        stride: of conv_dw.
        padding: "symmetric" or "same".
        has_residual: whether x is added to the output.
    """

    conv_pw: Tensor | None
    conv_dw: Tensor
    conv_pwl: Tensor
    se: Sequence[Tensor] = ()
    stride: int = 1
    padding: str = "symmetric"
    has_residual: bool = False


def mbconv(x: Tensor, layer: MBConvLayer, norms: Sequence[ScaleShift]) -> Tensor:
    """x [P * N, C, H, W], prefix-major -> [P * N, K, Q, R]; norms: (bn1, bn2, bn3), without expansion (bn2, bn3)."""
    *norm1, norm2, norm3 = norms
    h, _ = mbconv_depthwise(x, layer, norm1[0] if norm1 else None)
    y, _ = mbconv_project(h, layer, norm2)
    y = normed(y, norm3)
    return y + x if layer.has_residual else y


def mbconv_reduce(
    x: Tensor,
    layer: MBConvLayer,
    norms: Sequence[ScaleShift],
    target: Tensor,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sums of d, |d| and d^2 with d = output - target, [P, N, 3]; target [N, T, Q, R], adapter [T, K] and [T]."""
    y = mbconv(x, layer, norms)
    if adapter is not None:
        weight, bias = adapter
        y = F.conv2d(y, weight[:, :, None, None], bias)
    d = y.reshape(len(norms[0][0]), *target.shape) - target  # [P, N, T, Q, R]
    return torch.stack([d.sum((2, 3, 4)), d.abs().sum((2, 3, 4)), d.square().sum((2, 3, 4))], dim=2)


def mbconv_depthwise(x: Tensor, layer: MBConvLayer, norm1: ScaleShift | None) -> tuple[Tensor, Tensor]:
    """conv_dw's result [P * N, M, Q, R] before batch norm 2, and its moments [P * N, 2, M]."""
    a1 = x
    if layer.conv_pw is not None and norm1 is not None:
        a1 = F.silu(normed(F.conv2d(x, layer.conv_pw), norm1))
    a1 = F.pad(a1, pads(a1, layer))
    h = F.conv2d(a1, layer.conv_dw, stride=layer.stride, groups=len(layer.conv_dw))
    return h, moments(h)


def mbconv_project(h: Tensor, layer: MBConvLayer, norm2: ScaleShift) -> tuple[Tensor, Tensor]:
    """From conv_dw's result on: conv_pwl's result [P * N, K, Q, R] before batch norm 3, and its moments [P * N, 2, K]."""
    a2 = F.silu(normed(h, norm2))
    if layer.se:
        a2 = a2 * gate(a2, layer.se)
    y = F.conv2d(a2, layer.conv_pwl)
    return y, moments(y)


def gate(a2: Tensor, se: Sequence[Tensor]) -> Tensor:
    """Squeeze-excite's factor for every image and channel, [N, M, 1, 1]."""
    reduce_weight, reduce_bias, expand_weight, expand_bias = se
    squeezed = F.silu(F.conv2d(a2.mean((2, 3), keepdim=True), reduce_weight, reduce_bias))
    return F.conv2d(squeezed, expand_weight, expand_bias).sigmoid()


def normed(h: Tensor, norm: ScaleShift) -> Tensor:
    """h * scale + shift, with every image's own prefix."""
    scale, shift = (t.repeat_interleave(len(h) // len(t), 0)[:, :, None, None] for t in norm)
    return h * scale + shift


def pads(x: Tensor, layer: MBConvLayer) -> tuple[int, int, int, int]:
    """Columns left and right, rows above and below, as F.pad takes them."""
    kernel = layer.conv_dw.shape[-1]
    sides: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // layer.stride) - 1) * layer.stride + kernel - size, 0)
        before = total // 2 if layer.padding == "same" else kernel // 2
        sides += [before, total - before if layer.padding == "same" else kernel // 2]
    return sides[0], sides[1], sides[2], sides[3]


def moments(h: Tensor) -> Tensor:
    """Sum and sum of squares over pixels, [N, 2, channels]."""
    return torch.stack([h.sum((2, 3)), h.square().sum((2, 3))], dim=1)
