"""The student: parallel cells of MBConv operators with shared weights, one group of cells per block.

Module and parameter names follow timm's EfficientNet, so that weights move between the two by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dna_fast.ops import depthwise_conv2d
from dna_fast.space import Cell, Frame, Layer, MBConvSpec, SearchSpace

BOUNDARIES = ("adapter", "wide")

# One step of a layer: what computes a batch norm's input, and that batch norm.
Step = tuple[Callable[[Tensor], Tensor], nn.BatchNorm2d]


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises consecutive groups of images in training, so that statistics do not depend on how a batch is
    spread over processes. It keeps no running statistics: rating writes calibrated ones, which evaluation mode uses.

    Args:
        num_features: channels.
        eps: added to the variance.
        group: images per group; a batch is a whole number of groups, or smaller than one.
    """

    def __init__(self, num_features: int, eps: float, group: int) -> None:
        super().__init__(num_features, eps=eps)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W]
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if len(x) <= self.group:  # not split: even of a single part split's backward pass makes a copy
            return self._normed(x)
        if len(x) % self.group:
            raise ValueError(f"batch norm: a batch must be a multiple of bn_group = {self.group} images, got {len(x)}")
        return torch.cat([self._normed(group) for group in torch.split(x, self.group)])

    def _normed(self, group: Tensor) -> Tensor:
        return F.batch_norm(group, None, None, self.weight, self.bias, True, 0.0, self.eps)


class PaddedConv2d(nn.Conv2d):
    """Convolution without bias, padded symmetrically by k // 2 or as TensorFlow's SAME."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, *, padding: str) -> None:
        self.same = padding == "same" and stride > 1  # at stride 1 both paddings are the same
        super().__init__(cin, cout, kernel, stride, 0 if self.same else kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        depthwise_on_cpu = self.groups > 1 and x.device.type == "cpu"
        if depthwise_on_cpu and torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            # oneDNN's gradients take up to 19 times as long as its forward pass, some in bfloat16 much longer (docs/benchmarks.md).
            return depthwise_conv2d(x, self.weight, self.stride[0], self._sides(x))
        if self.same:
            top, bottom, left, right = self._sides(x)
            x = F.pad(x, (left, right, top, bottom))
        if depthwise_on_cpu and torch.is_autocast_enabled("cpu"):
            # In bfloat16 oneDNN's depthwise convolutions are slow.
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        return super().forward(x)

    def _sides(self, x: Tensor) -> tuple[int, int, int, int]:
        """Rows above and below, columns left and right."""
        if not self.same:
            return (self.kernel_size[0] // 2,) * 4
        return *self._pads(x.shape[2]), *self._pads(x.shape[3])

    def _pads(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class SqueezeExcite(nn.Module):
    """Gate per channel: average pool, 1x1, SiLU, 1x1, sigmoid."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.conv_expand(F.silu(self.conv_reduce(pooled))).sigmoid()


class SteppedModule(nn.Module):
    """A chain of (convolution, batch norm) steps; calibration walks the same steps as the forward pass."""

    has_residual = False

    def steps(self) -> tuple[Step, ...]:
        """The steps in order; each computes a batch norm's input from the previous batch norm's output."""
        raise TypeError(f"{type(self).__name__} defines no steps")

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for compute, norm in self.steps():
            h = norm(compute(h))
        return h + x if self.has_residual else h


class MBConv(SteppedModule):
    """timm's InvertedResidual with every width given.

    Args:
        spec: the layer's shape.
        frame: padding and BN epsilon.
        bn_group: images per batch-norm group in training.
    """

    def __init__(self, spec: MBConvSpec, frame: Frame, bn_group: int) -> None:
        super().__init__()
        mid, padding = spec.mid_channels, frame.padding
        self.has_residual = spec.has_residual
        self.conv_pw = PaddedConv2d(spec.in_channels, mid, 1, padding=padding)
        self.bn1 = GroupBatchNorm2d(mid, frame.bn_eps, bn_group)
        self.conv_dw = PaddedConv2d(mid, mid, spec.kernel, spec.stride, groups=mid, padding=padding)
        self.bn2 = GroupBatchNorm2d(mid, frame.bn_eps, bn_group)
        self.se = SqueezeExcite(mid, spec.se_channels) if spec.se_channels else nn.Identity()
        self.conv_pwl = PaddedConv2d(mid, spec.out_channels, 1, padding=padding)
        self.bn3 = GroupBatchNorm2d(spec.out_channels, frame.bn_eps, bn_group)

    def steps(self) -> tuple[Step, ...]:
        return (
            (self.conv_pw, self.bn1),
            (lambda h: self.conv_dw(F.silu(h)), self.bn2),
            (lambda h: self.conv_pwl(self.se(F.silu(h))), self.bn3),
        )


class DepthwiseSeparable(SteppedModule):
    """timm's DepthwiseSeparableConv 3x3, stride 1: the stem's second layer. Its input is not yet activated."""

    def __init__(self, frame: Frame, bn_group: int) -> None:
        super().__init__()
        cin, cout = frame.stem_channels, frame.stem_width
        self.has_residual = cin == cout
        self.conv_dw = PaddedConv2d(cin, cin, 3, groups=cin, padding=frame.padding)
        self.bn1 = GroupBatchNorm2d(cin, frame.bn_eps, bn_group)
        self.se = SqueezeExcite(cin, frame.stem_se_channels) if frame.stem_se_channels else nn.Identity()
        self.conv_pw = PaddedConv2d(cin, cout, 1, padding=frame.padding)
        self.bn2 = GroupBatchNorm2d(cout, frame.bn_eps, bn_group)

    def steps(self) -> tuple[Step, ...]:
        return (self.conv_dw, self.bn1), (lambda h: self.conv_pw(self.se(F.silu(h))), self.bn2)


class ConvStem(SteppedModule):
    """3x3 convolution of the image, batch norm, SiLU."""

    def __init__(self, frame: Frame, bn_group: int) -> None:
        super().__init__()
        self.conv_stem = PaddedConv2d(3, frame.stem_channels, 3, frame.stem_stride, padding=frame.padding)
        self.bn1 = GroupBatchNorm2d(frame.stem_channels, frame.bn_eps, bn_group)

    def steps(self) -> tuple[Step, ...]:
        return ((self.conv_stem, self.bn1),)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Stem(nn.Module):
    """Image [N, 3, H, W] -> [N, stem_width, H / stem_stride, W / stem_stride]; shared by the cells of block 0."""

    def __init__(self, frame: Frame, bn_group: int) -> None:
        super().__init__()
        self.conv = ConvStem(frame, bn_group)
        self.ds = DepthwiseSeparable(frame, bn_group)

    def forward(self, x: Tensor) -> Tensor:
        return self.ds(self.conv(x))


class StudentCell(nn.Module):
    """One cell: every operator of every layer, and the adapters at its ends."""

    def __init__(
        self,
        layers: Sequence[Layer],
        space: SearchSpace,
        in_adapter: nn.Module,
        out_adapter: nn.Module,
        bn_group: int,
    ) -> None:
        super().__init__()
        self.in_adapter, self.out_adapter = in_adapter, out_adapter
        self.layers = nn.ModuleList(
            nn.ModuleList(MBConv(space.mbconv(layer, c), space.frame, bn_group) for c in range(len(space.choices)))
            for layer in layers
        )

    def operator(self, layer: int, choice: int) -> MBConv:
        """The module of one operator of one layer."""
        return self.layers[layer][choice]  # type: ignore[index]

    def forward(self, x: Tensor, path: Sequence[int]) -> Tensor:
        """Block input [N, C, H, W] -> [N, teacher width, H', W'] along `path`, one operator number per layer."""
        h = self.in_adapter(x)
        for layer, choice in enumerate(path):
            h = self.operator(layer, choice)(h)
        return self.out_adapter(h)


class StudentBlock(nn.Module):
    """All cells of a block; block 0 also holds the stem."""

    def __init__(self, cells: Sequence[StudentCell], stem: Stem | None) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.stem: nn.Module = stem if stem is not None else nn.Identity()

    def cell(self, index: int) -> StudentCell:
        return self.cells[index]  # type: ignore[return-value]

    def forward(self, x: Tensor, paths: Sequence[Sequence[int]]) -> list[Tensor]:
        """Block input (block 0: images) -> one output [N, teacher width, H', W'] per cell along its path."""
        root = self.stem(x)
        return [self.cell(c)(root, path) for c, path in enumerate(paths)]


class Supernet(nn.Module):
    """All student blocks.

    Args:
        space: what they offer.
        teacher_channels: width of the teacher's feature behind each block.
        boundary: "adapter" or "wide" (docs/semantics.md).
        bn_group: images per batch-norm group in training.
        seed: initial weights; a block's weights depend on the seed and its number only.
        held: the blocks to build; None: all. The others are empty modules.

    Raises:
        ValueError: unknown boundary, a wrong number of teacher widths, a space whose adapters cannot be folded.
    """

    def __init__(
        self,
        space: SearchSpace,
        teacher_channels: Sequence[int],
        *,
        boundary: str = "adapter",
        bn_group: int = 64,
        seed: int = 0,
        held: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")
        if len(teacher_channels) != len(space.blocks):
            raise ValueError(
                f"supernet: {len(space.blocks)} blocks need as many teacher widths, got {tuple(teacher_channels)}"
            )
        if boundary == "adapter" and (problems := space.fold_problems()):
            raise ValueError(
                "boundary: adapter needs first layers without residual, or use boundary: wide; " + "; ".join(problems)
            )
        self.space, self.boundary, self.bn_group = space, boundary, bn_group
        self.teacher_channels = tuple(teacher_channels)
        self.held = tuple(b for b in range(len(space.blocks)) if held is None or b in held)
        self.blocks = nn.ModuleList(
            self._build_block(b, seed) if b in self.held else nn.Module() for b in range(len(space.blocks))
        )

    def block(self, index: int) -> StudentBlock:
        return self.blocks[index]  # type: ignore[return-value]

    def _build_block(self, block: int, seed: int) -> StudentBlock:
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the GPUs, too, and fork_rng restores none of them here.
            torch.default_generator.manual_seed(_derived_seed(seed, block))
            cells = [self._build_cell(block, c, cell) for c, cell in enumerate(self.space.blocks[block].cells)]
            built = StudentBlock(cells, Stem(self.space.frame, self.bn_group) if block == 0 else None)
            _initialise(built)
        return built.to(memory_format=torch.channels_last)

    def _build_cell(self, block: int, index: int, cell: Cell) -> StudentCell:
        space, layers = self.space, list(self.space.layers(block, index))
        in_adapter: nn.Module = nn.Identity()
        out_adapter: nn.Module = nn.Identity()
        if self.boundary == "adapter":
            out_adapter = nn.Conv2d(cell.width, self.teacher_channels[block], 1)
            if block > 0:
                in_adapter = nn.Conv2d(self.teacher_channels[block - 1], space.nominal_width(block), 1)
        else:
            if block > 0:
                wide = self.teacher_channels[block - 1]
                layers[0] = replace(layers[0], in_channels=wide, nominal_channels=wide)
            layers[-1] = replace(layers[-1], out_channels=self.teacher_channels[block])
        return StudentCell(layers, space, in_adapter, out_adapter, self.bn_group)


def sample_paths(space: SearchSpace, *, seed: int, step: int, block: int) -> list[tuple[int, ...]]:
    """One uniform path per cell of a block; depends on the arguments only, so every process draws the same."""
    paths = []
    for index, cell in enumerate(space.blocks[block].cells):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, block, index))))
        paths.append(tuple(int(c) for c in rng.integers(len(space.choices), size=cell.depth)))
    return paths


def _derived_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _initialise(module: nn.Module) -> None:
    """timm's EfficientNet initialisation: normal with variance 2 / fan-out; adapters (biased 1x1) the same, biases zero."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            fan_out = child.kernel_size[0] * child.kernel_size[1] * child.out_channels // child.groups
            nn.init.normal_(child.weight, 0.0, (2.0 / fan_out) ** 0.5)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
