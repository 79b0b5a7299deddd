"""The depthwise convolution with gradients of its own, for training on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dna_fast.ops import _library  # noqa: F401  (registers the operators that everything below extends)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: Sequence[int] = (0, 0, 0, 0)) -> Tensor:
    """Convolves every channel with its own k x k weights; x and weight take gradients.

    Args:
        x: [N, C, H, W], any float dtype and device; see below for what is fast.
        weight: [C, 1, k, k], k odd; x's dtype or float32.
        stride: in both directions.
        padding: rows of zeros above and below, columns left and right.

    Returns:
        [N, C, Q, R] in x's dtype; contiguous where x is that and not channels-last, channels-last elsewhere.

    Kernels of ours compute the result and both gradients on the CPU for float32 and bfloat16 that is not contiguous (neither
    layout: x is copied), k of 3, 5 or 7 and stride 1 or 2; torch's own convolution does all else. They sum in float32, the
    weights' gradient over at most 4096 pixels and in float64 above, in an order that depends on the shape only: the bits do
    not depend on the number of threads, but on whether the instruction set multiplies and adds in one step. The gradient of
    a float32 weight is float32, whatever x is. Where gradients or x are not finite, more taps than the affected ones may
    become NaN. The backward pass cannot be differentiated.

    Raises:
        ValueError: a shape, stride or padding that does not fit, two devices.
        TypeError: an integer dtype, a weight of another one.
    """
    y: Tensor = torch.ops.dna_fast.depthwise_conv2d.default(x, weight, stride, list(padding))
    return y


def _format(x: Tensor) -> torch.memory_format:
    """format_of() in depthwise_torch.cpp."""
    only_contiguous = x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if only_contiguous else torch.channels_last


@torch.library.register_fake("dna_fast::depthwise_conv2d")  # type: ignore[untyped-decorator]
def _fake(x: Tensor, weight: Tensor, stride: int, padding: list[int]) -> Tensor:
    if x.device != weight.device:
        raise ValueError(
            f"depthwise_conv2d: x and weight must be on one device, got {x.device} and {weight.device}; "
            "call weight.to(x.device)"
        )
    n, channels, height, width = x.shape
    kernel = weight.shape[-1]
    rows = (height + padding[0] + padding[1] - kernel) // stride + 1
    cols = (width + padding[2] + padding[3] - kernel) // stride + 1
    return torch.empty((n, channels, rows, cols), dtype=x.dtype, device=x.device, memory_format=_format(x))


@torch.library.register_fake("dna_fast::depthwise_conv2d_backward")  # type: ignore[untyped-decorator]
def _fake_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: list[int], of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_format(x)) if of_x else x.new_empty(0)
    dw = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if of_weight else weight.new_empty(0)
    return dx, dw


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, list[int]], output: Tensor) -> None:
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    if torch.is_grad_enabled():  # create_graph
        raise RuntimeError(
            "depthwise_conv2d: expected a first derivative, got create_graph=True; use ops.reference.depthwise_conv2d"
        )
    x, weight = ctx.saved_tensors
    of_x, of_weight, *_ = ctx.needs_input_grad
    dx, dw = torch.ops.dna_fast.depthwise_conv2d_backward.default(
        gradient, x, weight, ctx.stride, ctx.padding, of_x, of_weight
    )
    return dx if of_x else None, dw if of_weight else None, None, None


torch.library.register_autograd("dna_fast::depthwise_conv2d", _backward, setup_context=_setup_context)
