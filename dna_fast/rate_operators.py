"""What computes MBConv operators for rating: the fused operators, or plain torch on a device that has none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dna_fast.calibration import Statistics
from dna_fast.ops import reference
from dna_fast.ops.mbconv import (
    KERNELS,
    STRIDES,
    Affine,
    MBConvShape,
    MBConvWeights,
    mbconv,
    mbconv_depthwise,
    mbconv_project,
    mbconv_reduce,
)
from dna_fast.supernet import MBConv, SqueezeExcite

Norms = tuple[Affine, Affine, Affine]
Adapter = tuple[Tensor, Tensor]  # weight [T, K] and bias [T]

EAGER_BYTES = 1 << 30  # of expanded tensors that plain torch has at once, whatever it is asked for


class Operator(ABC):
    """One operator of one layer, prepared once for all prefixes. Its calls take P prefixes with N images each, prefix-major,
    channels-last, and a scale and a shift per prefix for every batch norm; dna_fast.ops.mbconv says what they compute.
    """

    def __init__(self, layer: MBConv) -> None:
        self.in_channels, self.mid_channels = layer.conv_pw.in_channels, layer.conv_pw.out_channels
        self.out_channels, self.stride = layer.conv_pwl.out_channels, layer.conv_dw.stride[0]
        self.has_residual = layer.has_residual
        self.norms = (layer.bn1, layer.bn2, layer.bn3)
        self.pointwise = layer.conv_pw.weight.flatten(1).double()  # [M, C]

    def fold(self, number: int, statistics: Statistics) -> Affine:
        """Batch norm 1, 2 or 3 with statistics per prefix."""
        norm = self.norms[number - 1]
        return Affine.fold(norm.weight, norm.bias, statistics.mean, statistics.var, norm.eps)

    @abstractmethod
    def depthwise(self, x: Tensor, norm1: Affine) -> tuple[Tensor, Tensor]:
        """x [P * N, C, H, W] -> what batch norm 2 reads [P * N, M, Q, R], and its moments [P * N, 2, M]."""

    @abstractmethod
    def project(self, h: Tensor, norm2: Affine) -> tuple[Tensor, Tensor]:
        """That -> what batch norm 3 reads [P * N, K, Q, R], and its moments [P * N, 2, K]."""

    @abstractmethod
    def forward(self, x: Tensor, norms: Norms) -> Tensor:
        """x [P * N, C, H, W] -> the layer's output [P * N, K, Q, R]."""

    @abstractmethod
    def reduce(self, x: Tensor, norms: Norms, target: Tensor, adapter: Adapter | None) -> Tensor:
        """x -> float64 [P, N, 3]: sums of d, |d| and d^2 per image, d = the output (through the adapter) - target [N, T, Q, R]."""


def prepare(layer: MBConv) -> Operator:
    """The fused operator where there is one for the layer's device and shape, else plain torch."""
    convolution = layer.conv_dw
    fits = convolution.kernel_size[0] in KERNELS and convolution.stride[0] in STRIDES
    return Fused(layer) if fits and convolution.weight.device.type == "cpu" else Eager(layer)


class Fused(Operator):
    """The compiled operators. What they make of a prefix does not depend on the others in its batch."""

    def __init__(self, layer: MBConv) -> None:
        super().__init__(layer)
        se = _se_weights(layer)
        shape = MBConvShape(
            in_channels=self.in_channels,
            mid_channels=self.mid_channels,
            out_channels=self.out_channels,
            kernel=layer.conv_dw.kernel_size[0],
            stride=self.stride,
            se_channels=len(se[1]) if se else 0,
            padding="same" if layer.conv_dw.same else "symmetric",
            has_residual=layer.has_residual,
        )
        weights = (layer.conv_pw.weight, layer.conv_dw.weight, layer.conv_pwl.weight)
        self.weights = MBConvWeights.pack(shape, *weights, se)

    def depthwise(self, x: Tensor, norm1: Affine) -> tuple[Tensor, Tensor]:
        return mbconv_depthwise(x, self.weights, norm1, prefixes=len(norm1.scale))

    def project(self, h: Tensor, norm2: Affine) -> tuple[Tensor, Tensor]:
        return mbconv_project(h, self.weights, norm2)

    def forward(self, x: Tensor, norms: Norms) -> Tensor:
        return mbconv(x, self.weights, norms)

    def reduce(self, x: Tensor, norms: Norms, target: Tensor, adapter: Adapter | None) -> Tensor:
        return mbconv_reduce(x, self.weights, norms, target, adapter)


class Eager(Operator):
    """Plain torch.

    Args:
        layer: the student's layer.
        max_bytes: of expanded tensors at once; what needs more is computed in pieces.
    """

    def __init__(self, layer: MBConv, max_bytes: int = EAGER_BYTES) -> None:
        super().__init__(layer)
        self.max_bytes = max_bytes
        weights = (layer.conv_pw.weight, layer.conv_dw.weight, layer.conv_pwl.weight)
        self.plain = reference.MBConvLayer(
            *weights, _se_weights(layer), self.stride, "same" if layer.conv_dw.same else "symmetric", layer.has_residual
        )

    def depthwise(self, x: Tensor, norm1: Affine) -> tuple[Tensor, Tensor]:
        pieces = self._pieces(x, norm1)
        return _joined([reference.mbconv_depthwise(x[p.rows], self.plain, p.of(norm1))[0] for p in pieces])

    def project(self, h: Tensor, norm2: Affine) -> tuple[Tensor, Tensor]:
        pieces = self._pieces(h, norm2)
        return _joined([reference.mbconv_project(h[p.rows], self.plain, p.of(norm2))[0] for p in pieces])

    def forward(self, x: Tensor, norms: Norms) -> Tensor:
        pieces = self._pieces(x, norms[0])
        return torch.cat([reference.mbconv(x[p.rows], self.plain, [p.of(norm) for norm in norms]) for p in pieces])

    def reduce(self, x: Tensor, norms: Norms, target: Tensor, adapter: Adapter | None) -> Tensor:
        sums = [
            reference.mbconv_reduce(x[p.rows], self.plain, [p.of(norm) for norm in norms], target[p.images], adapter)
            for p in self._pieces(x, norms[0])
        ]
        return torch.cat([per_image.flatten(0, 1) for per_image in sums]).double().view(len(norms[0].scale), -1, 3)

    def _pieces(self, x: Tensor, norm: Affine) -> Iterator[_Piece]:
        """Whole prefixes as far as they fit, else images of one."""
        prefixes = len(norm.scale)
        images = len(x) // prefixes
        # The expanded tensor, its normalised, its activated and its padded copy; in float64 what moments are taken of.
        per_image = 6 * self.mid_channels * x[0, 0].numel() * x.element_size()
        at_once = max(1, self.max_bytes // per_image)
        for first in range(0, prefixes, step := max(1, at_once // images)):
            last = min(first + step, prefixes)
            for start in range(0, images, at_once):
                yield _Piece(first, last, start, min(start + at_once, images), images)


@dataclass(frozen=True)
class _Piece:
    """Some prefixes with all their images, or one with some."""

    first: int
    last: int
    start: int
    stop: int
    all_images: int

    @property
    def images(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def rows(self) -> slice:
        return slice(self.first * self.all_images + self.start, (self.last - 1) * self.all_images + self.stop)

    def of(self, norm: Affine) -> tuple[Tensor, Tensor]:
        """Scales and shifts of these prefixes."""
        return norm.scale[self.first : self.last], norm.shift[self.first : self.last]


def _joined(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All pieces, and the moments of each image, in float64 as they are differences of large numbers in the end."""
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return whole, torch.cat([reference.moments(part.double()) for part in parts])


def _se_weights(layer: MBConv) -> tuple[Tensor, ...]:
    se = layer.se
    if not isinstance(se, SqueezeExcite):
        return ()
    bias = (se.conv_reduce.bias, se.conv_expand.bias)
    assert bias[0] is not None
    assert bias[1] is not None
    return se.conv_reduce.weight, bias[0], se.conv_expand.weight, bias[1]
