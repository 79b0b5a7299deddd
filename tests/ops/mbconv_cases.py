"""MBConv layers to test with, and how far float32 sums and the named roundings may take an answer from the exact one.

The analysis walks the layer as the kernels do, in float64, with a bound on the error beside every value (Higham, Accuracy
and Stability of Numerical Algorithms, 3.1): a sum of n terms of unit roundoff u is off by at most n u sum |terms|.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dna_fast.ops import Affine, MBConvShape, MBConvWeights
from dna_fast.ops.reference import MBConvLayer, ScaleShift, pads

UNIT = 2.0**-24
STORAGE = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}  # what one rounding to storage loses, relative
WEIGHTS = {torch.float32: UNIT, torch.bfloat16: 2.0**-8}  # the same for weights, which packing scales before
FIXED = 2.0**-120  # below it numbers are flushed or clamped; for any sum here
BLOCK = 48  # terms of one float32 sum of differences: a register block of 4 pixels x 12 vectors, or 8 x 3
RUN = 32  # terms of one float32 sum of outputs in calibration

CHANNELS = (1, 3, 5, 16, 17, 24, 48, 50)
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 28)
EXPANSIONS = (None, 1.0, 3.0, 4.5, 6.0, 8.0)  # None: no conv_pw at all


@dataclass(frozen=True)
class Case:
    """One call of the op."""

    shape: MBConvShape
    height: int
    width: int
    prefixes: int
    images: int  # per prefix
    dtype: torch.dtype

    def __str__(self) -> str:
        s = self.shape
        mid = "" if s.has_expansion else "none"
        parts = [f"{s.in_channels}-{mid or s.mid_channels}-{s.out_channels}", f"k{s.kernel}s{s.stride}", s.padding[:4]]
        parts += [f"se{s.se_channels}"] * bool(s.se_channels) + ["res"] * s.has_residual
        parts += [f"{self.height}x{self.width}", f"P{self.prefixes}N{self.images}", str(self.dtype)[6:]]
        return "-".join(parts)


def drawn_cases(count: int, seed: int) -> list[Case]:
    """Every property drawn on its own; half of the layers that can have a residual have one."""
    rng = random.Random(seed)
    return [drawn_case(rng) for _ in range(count)]


def drawn_case(rng: random.Random) -> Case:
    expansion, inputs = rng.choice(EXPANSIONS), rng.choice(CHANNELS)
    mid = inputs if expansion is None else max(1, int(inputs * expansion))
    stride = rng.choice((1, 2))
    has_residual = stride == 1 and rng.random() < 0.4
    shape = MBConvShape(
        inputs,
        mid,
        inputs if has_residual else rng.choice(CHANNELS),
        rng.choice((3, 5, 7)),
        stride,
        rng.choice((0, 1, 4, 13)),
        rng.choice(("symmetric", "same")),
        expansion is not None,
        has_residual,
    )
    size = (rng.choice(SIZES), rng.choice(SIZES))
    return Case(shape, *size, rng.choice((1, 3)), rng.choice((1, 5)), rng.choice((torch.float32, torch.bfloat16)))


def product_cases(kernel: int, stride: int, padding: str) -> Iterator[Case]:
    """Residual x expansion x squeeze-excite x dtype, three sizes each; the rest is drawn."""
    rng = random.Random(f"{kernel} {stride} {padding}")
    dtypes = (torch.float32, torch.bfloat16)
    for has_residual, expansion, squeezed, dtype, _ in itertools.product(
        (False, True) if stride == 1 else (False,), EXPANSIONS, (0, 4), dtypes, range(3)
    ):
        case = drawn_case(rng)
        inputs = case.shape.in_channels
        mid = inputs if expansion is None else max(1, int(inputs * expansion))
        outputs = inputs if has_residual else case.shape.out_channels
        shape = MBConvShape(
            inputs, mid, outputs, kernel, stride, squeezed, padding, expansion is not None, has_residual
        )
        yield replace(case, shape=shape, dtype=dtype)


# ---- tensors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a call takes, and the same for the reference in float64."""

    x: Tensor
    weights: MBConvWeights
    norms: tuple[Affine, ...]
    target: Tensor  # [N, K, Q, R]
    adapter: tuple[Tensor, Tensor]  # K -> T
    adapted_target: Tensor  # [N, T, Q, R]
    layer: MBConvLayer

    @property
    def exact_x(self) -> Tensor:
        return self.x.double()

    @property
    def exact_norms(self) -> list[ScaleShift]:
        return [(norm.scale.double(), norm.shift.double()) for norm in self.norms]

    @property
    def exact_adapter(self) -> tuple[Tensor, Tensor]:
        return self.adapter[0].double(), self.adapter[1].double()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    """Values of the size that trained layers have: batch norm 1 and 2 hand on values of about unit variance."""
    shape, dtype = case.shape, case.dtype
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    mid, squeezed, outputs = shape.mid_channels, shape.se_channels, shape.out_channels
    conv_pw = randn(mid, shape.in_channels, 1, 1) / shape.in_channels**0.5 if shape.has_expansion else None
    conv_dw = randn(mid, 1, shape.kernel, shape.kernel) / shape.kernel
    conv_pwl = randn(outputs, mid, 1, 1) / mid**0.5
    reduce, expand = randn(squeezed, mid, 1, 1) / mid**0.5, randn(mid, squeezed, 1, 1) / max(squeezed, 1) ** 0.5
    se = [reduce, randn(squeezed), expand, randn(mid)] if squeezed else []
    norms = tuple(Affine(randn(case.prefixes, c) + 1.0, randn(case.prefixes, c)) for c in shape.norm_channels())
    x = randn(case.prefixes * case.images, shape.in_channels, case.height, case.width)
    size, adapted = (shape.out_size(case.height), shape.out_size(case.width)), outputs + 3
    target, adapted_target = (channels_last(randn(case.images, c, *size).to(dtype)) for c in (outputs, adapted))
    layer = MBConvLayer(
        None if conv_pw is None else conv_pw.double(),
        conv_dw.double(),
        conv_pwl.double(),
        [t.double() for t in se],
        shape.stride,
        shape.padding,
        shape.has_residual,
    )
    weights = MBConvWeights.pack(shape, conv_pw, conv_dw, conv_pwl, se, dtype)
    adapter = (randn(adapted, outputs) / outputs**0.5, randn(adapted))
    return Inputs(channels_last(x.to(dtype)), weights, norms, target, adapter, adapted_target, layer)


# ---- error analysis -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounded:
    """A value computed exactly and a bound on what a kernel's differs from it, elementwise."""

    value: Tensor
    error: Tensor

    @property
    def size(self) -> Tensor:
        return self.value.abs() + self.error

    def rounded(self, unit: float) -> Bounded:
        return Bounded(self.value, self.error + unit * self.size + FIXED)

    def convolved(
        self, weight: Tensor, *, unit: float = UNIT, stride: int = 1, groups: int = 1, bias: Tensor | None = None
    ) -> Bounded:
        """`unit`: what packing rounds the weights to."""

        def through(t: Tensor, w: Tensor) -> Tensor:
            return F.conv2d(t, w, None, stride, groups=groups)

        depth = weight[0].numel() + (bias is not None)
        value, sizes = through(self.value, weight), (1 + unit) * through(self.size, weight.abs())
        if bias is not None:
            value, sizes = value + bias[:, None, None], sizes + bias.abs()[:, None, None]
        # Packing scales by a float32 constant before it rounds: two roundings more.
        error = through(self.error, weight.abs()) + (unit + (depth + 2) * UNIT) * sizes
        return Bounded(value, error + FIXED)

    def normed(self, norm: ScaleShift) -> Bounded:
        """A product and a sum, of a scale and a shift that may be in other units: three roundings at most."""
        scale, shift = (t.repeat_interleave(len(self.value) // len(t), 0)[:, :, None, None] for t in norm)
        rounding = 3 * UNIT * (scale.abs() * self.size + shift.abs())
        return Bounded(self.value * scale + shift, scale.abs() * self.error + rounding)

    def silu(self, accuracy: float) -> Bounded:
        """Slope at most 1.1."""
        value = F.silu(self.value)
        return Bounded(value, 1.1 * self.error + _exp_error(self, accuracy) * value.abs() + FIXED * self.size)

    def sigmoid(self) -> Bounded:
        """Slope at most a quarter."""
        value = self.value.sigmoid()
        return Bounded(value, self.error / 4 + _exp_error(self, 0.0) * value + FIXED)

    def times(self, other: Bounded) -> Bounded:
        value = self.value * other.value
        return Bounded(value, self.size * other.size - value.abs()).rounded(UNIT)


def _exp_error(x: Bounded, accuracy: float) -> Tensor:
    """1 / (1 + exp(-x)), relative: the exponent x * log2(e) carries two roundings, which exp multiplies by |x|; the
    polynomial (1.3 units), the sum, the quotient, the product and the units of the result one each."""
    return accuracy + (2 * x.size + 6) * UNIT


def _accuracy(dtype: torch.dtype) -> float:
    """In bfloat16 kernels may take a polynomial of 7.5e-5 and a reciprocal of 2^-14 (csrc/ops/mbconv/simd.h)."""
    return 7.5e-5 + 2.0**-14 if dtype == torch.bfloat16 else 0.0


def depthwise_bound(inputs: Inputs) -> Bounded:
    """conv_dw's result as float32, not yet rounded to storage."""
    layer, dtype = inputs.layer, inputs.x.dtype
    a1 = Bounded(inputs.exact_x, torch.zeros_like(inputs.exact_x))
    if layer.conv_pw is not None:
        h1 = a1.convolved(layer.conv_pw, unit=WEIGHTS[dtype])
        a1 = h1.normed(inputs.exact_norms[0]).silu(_accuracy(dtype)).rounded(STORAGE[dtype])
    sides = pads(a1.value, layer)
    a1 = Bounded(F.pad(a1.value, sides), F.pad(a1.error, sides))
    return a1.convolved(layer.conv_dw, unit=WEIGHTS[dtype], stride=layer.stride, groups=len(layer.conv_dw))


def project_bound(h: Bounded, inputs: Inputs) -> Bounded:
    """conv_pwl's result as float32, from conv_dw's."""
    layer, dtype = inputs.layer, inputs.x.dtype
    activated = h.normed(inputs.exact_norms[-2]).silu(_accuracy(dtype))
    a2 = activated.rounded(STORAGE[dtype])
    if layer.se:
        # The gate goes into conv_pwl's weights or into a2: one more rounding to storage.
        a2 = a2.times(_gate_bound(activated, layer.se)).rounded(STORAGE[dtype])
    return a2.convolved(layer.conv_pwl, unit=WEIGHTS[dtype])


def _gate_bound(a2: Bounded, se: Sequence[Tensor]) -> Bounded:
    """Means are sums over rows and then over them, so that no sum has more than rows + columns terms."""
    depth = a2.value.shape[2] + a2.value.shape[3] + 1
    value, error, size = (t.mean((2, 3), keepdim=True) for t in (a2.value, a2.error, a2.size))
    pooled = Bounded(value, error + depth * UNIT * size)
    squeezed = pooled.convolved(se[0], bias=se[1]).silu(0.0)
    return squeezed.convolved(se[2], bias=se[3]).sigmoid()


def output_bound(inputs: Inputs) -> Bounded:
    """The layer's output as float32, not yet rounded to storage."""
    y = project_bound(depthwise_bound(inputs), inputs).normed(inputs.exact_norms[-1])
    if inputs.layer.has_residual:
        y = Bounded(y.value + inputs.exact_x, y.error).rounded(UNIT)
    return y


def adapted_bound(inputs: Inputs) -> Bounded:
    """The output behind the adapter; what enters the adapter may be rounded to storage."""
    weight, bias = inputs.exact_adapter
    unit = STORAGE[inputs.x.dtype]
    return (
        output_bound(inputs).rounded(unit).convolved(weight[:, :, None, None], unit=WEIGHTS[inputs.x.dtype], bias=bias)
    )


def sums_bound(y: Bounded, target: Tensor) -> Tensor:
    """Of the sums of d, |d|, d^2 of every image, [P, N, 3]."""
    value, error = (t.reshape(len(y.value) // len(target), *target.shape) for t in (y.value, y.error))
    d = Bounded(value - target.double(), error).rounded(UNIT)
    plain = (d.error + BLOCK * UNIT * d.size).sum((2, 3, 4))
    return torch.stack([plain, plain, _squares_error(d, BLOCK).sum((2, 3, 4))], 2)


def moments_bound(h: Bounded, terms: int) -> Tensor:
    """Of the sums and sums of squares over pixels, [P * N, 2, channels]; `terms`: of one float32 sum."""
    plain = (h.error + terms * UNIT * h.size).sum((2, 3))
    return torch.stack([plain, _squares_error(h, terms).sum((2, 3))], 1)


def _squares_error(d: Bounded, terms: int) -> Tensor:
    return 2 * d.value.abs() * d.error + d.error.square() + (terms + 1) * UNIT * d.size.square()
