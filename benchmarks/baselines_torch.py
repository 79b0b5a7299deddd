"""How plain PyTorch runs a module on the CPU: the opponents of every layer, teacher and loss.

Channels-last is what oneDNN is fastest with; freezing folds batch norms and lays weights out beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Any]

FLOAT32, BFLOAT16 = (torch.float32,), (torch.bfloat16,)
WAYS = {
    "eager-nchw": FLOAT32,
    "eager": FLOAT32,
    "eager-cast": BFLOAT16,
    "autocast": BFLOAT16,
    "compile": FLOAT32 + BFLOAT16,
}


def mbconv_layer(
    in_channels: int, mid_channels: int, out_channels: int, kernel: int, stride: int, se_channels: int
) -> nn.Module:
    """timm's own InvertedResidual in evaluation mode; random weights from torch's global generator."""
    from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite

    layer = InvertedResidual(
        in_channels,
        out_channels,
        dw_kernel_size=kernel,
        stride=stride,
        exp_ratio=mid_channels / in_channels,
        act_layer=nn.SiLU,
        se_layer=partial(SqueezeExcite, rd_channels=se_channels) if se_channels else None,
    )
    built = (layer.conv_pw.out_channels, layer.conv_pwl.out_channels)
    if built != (mid_channels, out_channels):
        raise ValueError(
            f"mbconv_layer: timm rounds widths to multiples of 8, {(mid_channels, out_channels)} became {built}"
        )
    return layer.eval()


@torch.no_grad()
def settle_norms(module: nn.Module, x: Tensor, *, residual_scale: float = 1.0) -> None:
    """Gives batch norms the statistics of a batch and random scales and shifts, so that values are as in a trained network.

    Args:
        residual_scale: how much smaller scale and shift are in front of a residual sum. In a trained network a layer adds a little
            to what it reads; where random layers add as much again, a deep one amplifies rounding until nothing can be compared.
    """
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # a plain average
            norm.reset_running_stats()
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    for layer in module.modules():
        if getattr(layer, "has_skip", False):  # timm's layers
            last: Any = layer.get_submodule("bn3" if hasattr(layer, "bn3") else "bn2")
            last.weight.mul_(residual_scale)
            last.bias.mul_(residual_scale)
    module.train()
    module(x)
    module.eval()


def exists(way: str, dtype: torch.dtype) -> bool:
    """Whether it is one of WAYS and runs in this dtype."""
    return dtype in WAYS.get(way, ())


def forward_of(module: nn.Module, way: str, dtype: torch.dtype, pieces: int = 0) -> Run:
    """A forward pass of the module, one of WAYS; call it under `torch.inference_mode` (compile: `torch.no_grad`).

    Args:
        module: float32, evaluation mode; left alone.
        way: "eager-nchw" as the images come; "eager" channels-last; "eager-cast" weights and all else bfloat16;
            "autocast" bfloat16; "compile" torch.compile with freezing, under autocast for bfloat16.
        dtype: float32 or bfloat16.
        pieces: images per call; 0: the whole batch at once.

    Raises:
        ValueError: an unknown way, or one that does not exist in this dtype.
    """
    if not exists(way, dtype):
        raise ValueError(f"forward_of: expected one of {', '.join(WAYS)} that runs in {dtype}, got {way!r}")
    model = copy.deepcopy(module)
    if way != "eager-nchw":
        model = model.to(memory_format=torch.channels_last)
    if way == "eager-cast":
        model = model.to(dtype)
    run: Run = model
    if way == "compile":
        run = _compiled(model)
    if way in ("autocast", "compile") and dtype == torch.bfloat16:
        run = partial(_under_autocast, run)
    return run if pieces == 0 else partial(_in_pieces, run, pieces)


def _compiled(model: nn.Module) -> Run:
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.freezing = True
    # One set of kernels per shape, each as good as it gets; and never back to eager unnoticed.
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.suppress_errors = False
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(model, fullgraph=True, dynamic=False)


def _under_autocast(run: Run, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return run(x)


def _in_pieces(run: Run, images: int, x: Tensor) -> Tensor:
    return torch.cat([run(piece) for piece in torch.split(x, images)])
