"""The released training recipe in plain PyTorch, the opponent of our step: one cell at a time, each behind its own teacher pass.

Its teacher runs from the image to the block's end for every cell; student layers are timm's, with batch norms that keep running
statistics; the loss and Adam are torch's own. What it computes for a cell and a path is what we compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.baselines_torch import mbconv_layer
from dna_fast.space import MBConvSpec
from dna_fast.supernet import StudentCell, Supernet


class PlainTeacher(nn.Module):
    """A timm EfficientNet of which as much runs as a block needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = model.conv_stem, model.bn1, model.blocks

    @torch.no_grad()
    def forward(self, images: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """(input, output) of the stage that teaches a block; stage 0 is in front of all of them."""
        x = self.bn1(self.conv_stem(images))
        for stage in self.blocks[: block + 1]:  # type: ignore[index]
            x = stage(x)
        return x, self.blocks[block + 1](x)  # type: ignore[index]


class PlainCell(nn.Module):
    """One cell of a student block, with the stem in block 0; starts from our weights.

    Args:
        supernet: ours.
        block, cell: which.
    """

    def __init__(self, supernet: Supernet, block: int, cell: int) -> None:
        super().__init__()
        ours = supernet.block(block).cell(cell)
        self.layers = nn.ModuleList(nn.ModuleList(map(_operator, specs)) for specs in specs_of(ours))
        self.in_adapter, self.out_adapter = _plain_adapter(ours.in_adapter), _plain_adapter(ours.out_adapter)
        self.load_state_dict(ours.state_dict())
        self.stem = _stem(supernet) if block == 0 else nn.Identity()
        self.train()

    def forward(self, x: Tensor, path: Sequence[int]) -> Tensor:
        h = self.in_adapter(self.stem(x))
        for layer, choice in zip(self.layers, path, strict=True):
            h = layer[choice](h)  # type: ignore[index]
        out: Tensor = self.out_adapter(h)
        return out


class PlainTraining:
    """Trains one cell as released.

    Args:
        teacher, cell: on one device, in one memory format.
        block: of the cell.
        lr, weight_decay: Adam's; none of the latter on biases and norms.
        amp: dtype of autocast; None: float32.
    """

    def __init__(
        self,
        teacher: PlainTeacher,
        cell: PlainCell,
        block: int,
        lr: float,
        weight_decay: float,
        amp: torch.dtype | None = None,
    ) -> None:
        self.teacher, self.cell, self.block, self.amp = teacher, cell, block, amp
        groups = [
            {"params": [p for p in cell.parameters() if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in cell.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=lr)

    def step(self, images: Tensor, path: Sequence[int]) -> Tensor:
        """One update behind a teacher pass of its own; returns the loss before it."""
        with torch.autocast(images.device.type, self.amp, enabled=self.amp is not None):
            x, target = self.teacher(images, self.block)
        return self.learn(images if self.block == 0 else x, target, path)

    def learn(self, x: Tensor, target: Tensor, path: Sequence[int]) -> Tensor:
        """The same from given features."""
        with torch.autocast(x.device.type, self.amp, enabled=self.amp is not None):
            out = self.cell(x, path)
        loss = F.mse_loss(out.float(), target.float())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


def specs_of(cell: StudentCell) -> list[list[MBConvSpec]]:
    """Of every operator of every layer as they were built, which depends on the boundary."""
    return [[_spec(operator) for operator in layer] for layer in cell.layers]  # type: ignore[attr-defined]


def _spec(layer: Any) -> MBConvSpec:
    depthwise = layer.conv_dw
    se = layer.se.conv_reduce.out_channels if hasattr(layer.se, "conv_reduce") else 0
    widths = layer.conv_pw.in_channels, depthwise.in_channels, layer.conv_pwl.out_channels
    return MBConvSpec(*widths, depthwise.kernel_size[0], depthwise.stride[0], se)


def _operator(spec: MBConvSpec) -> nn.Module:
    widths = spec.in_channels, spec.mid_channels, spec.out_channels
    return mbconv_layer(*widths, spec.kernel, spec.stride, spec.se_channels)


def _plain_adapter(ours: nn.Module) -> nn.Module:
    return nn.Conv2d(ours.in_channels, ours.out_channels, 1) if isinstance(ours, nn.Conv2d) else nn.Identity()


def _stem(supernet: Supernet) -> nn.Module:
    """3x3 convolution, batch norm, SiLU, depthwise-separable layer."""
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, SqueezeExcite

    frame = supernet.space.frame
    ours: Any = supernet.block(0).stem
    conv = nn.Conv2d(3, frame.stem_channels, 3, frame.stem_stride, 1, bias=False)
    norm = nn.BatchNorm2d(frame.stem_channels, frame.bn_eps)
    ds = DepthwiseSeparableConv(
        frame.stem_channels,
        frame.stem_width,
        3,
        act_layer=nn.SiLU,
        se_layer=partial(SqueezeExcite, rd_channels=frame.stem_se_channels),
    )
    conv.load_state_dict(ours.conv.conv_stem.state_dict())
    norm.load_state_dict(ours.conv.bn1.state_dict())
    ds.load_state_dict(ours.ds.state_dict())
    return nn.Sequential(conv, norm, nn.SiLU(), ds)
