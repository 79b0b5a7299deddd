"""One MBConv layer in evaluation mode on a batch of prefixes: written, compared with a target, or in halves to calibrate.

    a1 = silu(conv_pw(x) * scale1 + shift1)          1x1, C -> M; without expansion conv_dw reads x itself
    a2 = silu(conv_dw(a1) * scale2 + shift2)         k x k depthwise, padded with zeros
    a2 = a2 * sigmoid(conv_expand(silu(conv_reduce(mean over pixels of a2))))        per image, if se_channels > 0
    y  = conv_pwl(a2) * scale3 + shift3              1x1, M -> K; plus x with a residual

A prefix is one way through the layers before this one. Weights are shared by the prefixes; scales and shifts, which are
folded batch norms, belong to one prefix each. Images are prefix-major: all N of prefix 0 first. With one prefix this is
the layer of a network as usual.

x is float32 or bfloat16, on a GPU also float16, and channels-last. Sums are float32. With the 2-byte types, convolution
weights and activated tensors are rounded to them as well; scales, shifts, squeeze-excite weights, means and gates are
float32. On the CPU the bits do not depend on the number of threads or the other images of a batch; they do depend on the
instruction set. On a GPU they are the same in every run of the same call, but a batch of another size may be cut otherwise
and be added in another order. There is no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.ops import _library  # noqa: F401  (registers the operators that everything below extends)

KERNELS = (3, 5, 7)
STRIDES = (1, 2)
PADDINGS = ("symmetric", "same")
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}


# ---- problem and weights --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MBConvShape:
    """What a layer is, without its weights.

    Attributes:
        in_channels, mid_channels, out_channels: C, M, K.
        kernel, stride: of conv_dw: 3, 5 or 7; 1 or 2.
        se_channels: reduced width of squeeze-excite, 0 without.
        padding: "symmetric" (kernel // 2 on every side) or "same" (TensorFlow's; differs at stride 2 only).
        has_expansion: without, mid_channels is in_channels and there is neither conv_pw nor the batch norm behind it.
        has_residual: x is added to the output; needs as many channels out as in, and stride 1.

    Raises:
        ValueError: anything else.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    stride: int
    se_channels: int = 0
    padding: str = "symmetric"
    has_expansion: bool = True
    has_residual: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("kernel", KERNELS), ("stride", STRIDES), ("padding", PADDINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"MBConvShape: {name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}"
                )
        channels = (self.in_channels, self.mid_channels, self.out_channels)
        if min(channels) < 1 or self.se_channels < 0:
            raise ValueError(
                "MBConvShape: in_, mid_ and out_channels must be positive and se_channels not negative, got "
                f"{channels} and {self.se_channels}"
            )
        if not self.has_expansion and self.in_channels != self.mid_channels:
            raise ValueError(
                "MBConvShape: without expansion mid_channels must be in_channels, got "
                f"{self.mid_channels} and {self.in_channels}"
            )
        if self.has_residual and (self.in_channels != self.out_channels or self.stride != 1):
            raise ValueError(
                "MBConvShape: a residual needs as many channels out as in and stride 1, got "
                f"{self.in_channels} -> {self.out_channels}, stride {self.stride}"
            )

    def norm_channels(self) -> tuple[int, ...]:
        """Channels of each batch norm, in order."""
        return (self.mid_channels,) * (1 + self.has_expansion) + (self.out_channels,)

    def out_size(self, size: int) -> int:
        """Pixels per side that the layer makes of `size`."""
        return -(-size // self.stride)


@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class MBConvWeights:
    """Convolution weights of a layer as the kernels read them; made by `pack` or `of`.

    Attributes:
        shape: the layer.
        packed: opaque bytes.
        dtype: of the tensors that the layer is for.
    """

    shape: MBConvShape
    packed: Tensor
    dtype: torch.dtype

    @classmethod
    def pack(
        cls,
        shape: MBConvShape,
        conv_pw: Tensor | None,
        conv_dw: Tensor,
        conv_pwl: Tensor,
        se: Sequence[Tensor] = (),
        dtype: torch.dtype = torch.float32,
    ) -> MBConvWeights:
        """Lays weights out for the kernels; the originals are not referred to afterwards.

        Args:
            shape: the layer.
            conv_pw: [M, C, 1, 1], or None without expansion.
            conv_dw: [M, 1, kernel, kernel].
            conv_pwl: [K, M, 1, 1].
            se: conv_reduce.weight [S, M, 1, 1], conv_reduce.bias [S], conv_expand.weight [M, S, 1, 1],
                conv_expand.bias [M]; empty without squeeze-excite.
            dtype: of x: float32, bfloat16, on a GPU also float16.

        All weights may have any float dtype and are read as float32. They are packed for the device that conv_dw is on, the
        CPU or a GPU, and cannot be used on the other.

        Raises:
            ValueError: a weight of another shape, one too many or too few, another device.
            TypeError: another dtype.
        """
        device = conv_dw.device
        if device.type not in DTYPES:
            raise ValueError(f"MBConvWeights: conv_dw must be on the CPU or a GPU, got {device}; move it with .cpu()")
        if dtype not in DTYPES[device.type]:
            names = " or ".join(str(d).removeprefix("torch.") for d in DTYPES[device.type])
            raise TypeError(f"MBConvWeights: dtype must be {names}, got {dtype}; choose one of them")
        mid, squeezed = shape.mid_channels, shape.se_channels
        expected: dict[str, tuple[int, ...] | None] = {
            "conv_pw": (mid, shape.in_channels, 1, 1) if shape.has_expansion else None,
            "conv_dw": (mid, 1, shape.kernel, shape.kernel),
            "conv_pwl": (shape.out_channels, mid, 1, 1),
        }
        if squeezed:
            expected |= {"se.conv_reduce.weight": (squeezed, mid, 1, 1), "se.conv_reduce.bias": (squeezed,)}
            expected |= {"se.conv_expand.weight": (mid, squeezed, 1, 1), "se.conv_expand.bias": (mid,)}
        given = (conv_pw, conv_dw, conv_pwl, *se)
        if len(given) != len(expected):
            raise ValueError(
                f"MBConvWeights: se must hold {len(expected) - 3} tensors where se_channels is {squeezed}, got {len(se)}"
            )
        for (name, wanted), tensor in zip(expected.items(), given, strict=True):
            got = None if tensor is None else tuple(tensor.shape)
            if got != wanted:
                raise ValueError(f"MBConvWeights: {name} must have shape {wanted}, got {got}; see {shape}")
        pw, dw, pwl, *rest = (None if t is None else t.detach().to(device, torch.float32) for t in given)
        return cls(shape, torch.ops.dna_fast.mbconv_pack(pw, dw, pwl, rest, dtype), dtype)

    @classmethod
    def of(cls, shape: MBConvShape, module: nn.Module, dtype: torch.dtype = torch.float32) -> MBConvWeights:
        """Packs the weights of a module with timm's field names, as InvertedResidual or DepthwiseSeparableConv has them.

        Args:
            shape: the layer; padding and residual are not read from the module.
            module: conv_pw, conv_dw, conv_pwl; without expansion conv_dw, conv_pw. With squeeze-excite also
                se.conv_reduce and se.conv_expand.
            dtype: as `pack`.

        Raises:
            ValueError: weights of another shape.
        """
        names = ("conv_pw", "conv_dw", "conv_pwl") if shape.has_expansion else ("conv_dw", "conv_pw")
        convs: list[Any] = [module.get_submodule(name) for name in names]
        *conv_pw, conv_dw, conv_pwl = (conv.weight for conv in convs)
        squeeze = [module.get_submodule(f"se.{name}") for name in ("conv_reduce", "conv_expand") if shape.se_channels]
        se: list[Any] = [t for conv in squeeze for t in (conv.weight, conv.bias)]
        return cls.pack(shape, conv_pw[0] if conv_pw else None, conv_dw, conv_pwl, se, dtype)


@dataclass(frozen=True, eq=False)
class Affine:
    """One folded batch norm: x * scale + shift, with a row per prefix.

    Attributes:
        scale, shift: float32 [P, channels].
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def fold(cls, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> Affine:
        """Folds a batch norm in evaluation mode, in float64, rounded once.

        Args:
            weight, bias: [channels] or [P, channels]; None: 1 and 0.
            mean, var: [channels] or [P, channels].
            eps: added to the variance.

        Returns:
            One row per prefix; one row for [channels].
        """
        scale = (var.detach().double() + eps).rsqrt()
        if weight is not None:
            scale = weight.detach().double() * scale
        shift = -mean.detach().double() * scale
        if bias is not None:
            shift = bias.detach().double() + shift
        channels = scale.shape[-1]
        shape = (max(scale.numel(), shift.numel()) // channels, channels)
        return cls(scale.expand(shape).float(), shift.expand(shape).float())


# ---- public functions -----------------------------------------------------------------------------------------------


def mbconv(x: Tensor, weights: MBConvWeights, norms: Sequence[Affine]) -> Tensor:
    """The layer's output.

    Args:
        x: [P * N, C, H, W], the dtype and device that `weights` were packed for, channels-last.
        weights: packed for x's dtype.
        norms: (bn1, bn2, bn3), without expansion (bn2, bn3); P rows each.

    Returns:
        [P * N, K, ceil(H / stride), ceil(W / stride)], x's dtype, channels-last.

    Raises:
        ValueError: a shape, layout or device that does not fit; anything that requires a gradient while gradients are on.
        TypeError: a dtype that does not fit.
    """
    affine = _joined("mbconv", weights, norms, weights.shape.norm_channels())
    _check("mbconv", weights, x, affine)
    y: Tensor = torch.ops.dna_fast.mbconv(x, weights.packed, affine, *_layer(weights.shape))
    return y


def mbconv_reduce(
    x: Tensor,
    weights: MBConvWeights,
    norms: Sequence[Affine],
    target: Tensor,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sums over d = output - target, image by image; the output itself is not kept.

    Args:
        x, weights, norms: as `mbconv` takes them.
        target: [N, T, Q, R], x's dtype, channels-last; shared by the prefixes. T is K without an adapter.
        adapter: weight [T, K] and bias [T], float32: a 1x1 convolution that the output goes through first.

    Returns:
        float64 [P, N, 3]: sums of d, |d| and d^2 over T, Q, R. d is float32, whatever the dtype of x.

    Raises:
        ValueError, TypeError: as `mbconv`.
    """
    affine = _joined("mbconv_reduce", weights, norms, weights.shape.norm_channels())
    weight, bias = (None, None) if adapter is None else adapter
    _check("mbconv_reduce", weights, x, affine, target, weight, bias)
    layer = _layer(weights.shape)
    sums: Tensor = torch.ops.dna_fast.mbconv_reduce(x, weights.packed, affine, *layer, target, weight, bias)
    return sums.reshape(len(affine), len(x) // len(affine), 3)


def mbconv_depthwise(
    x: Tensor, weights: MBConvWeights, norm1: Affine | None, *, prefixes: int = 1
) -> tuple[Tensor, Tensor]:
    """The layer as far as conv_dw, and what calibrates batch norm 2: the first half of calibration.

    Args:
        x, weights: as `mbconv` takes them.
        norm1: batch norm 1, P rows; None without expansion.
        prefixes: P, where norm1 does not tell.

    Returns:
        conv_dw's result [P * N, M, Q, R] before batch norm 2, x's dtype, channels-last; and float64 [P * N, 2, M], its
        sums and sums of squares over Q, R (of the values before they are rounded to x's dtype).

    Raises:
        ValueError, TypeError: as `mbconv`; a norm1 where there is no expansion, or none where there is.
    """
    shape = weights.shape
    if (norm1 is not None) != shape.has_expansion:
        raise ValueError(
            f"mbconv_depthwise: norm1 must be {'an Affine' if shape.has_expansion else 'None'} where has_expansion is "
            f"{shape.has_expansion}, got {'None' if norm1 is None else 'an Affine'}"
        )
    if norm1 is None:
        affine = torch.empty((prefixes, 0), dtype=torch.float32, device=x.device)
    else:
        affine = _joined("mbconv_depthwise", weights, (norm1,), (shape.mid_channels,))
        if prefixes not in (1, len(affine)):
            raise ValueError(
                f"mbconv_depthwise: norm1 must have a row for each of {prefixes} prefixes, got {len(affine)}"
            )
    _check("mbconv_depthwise", weights, x, affine)
    out: tuple[Tensor, Tensor] = torch.ops.dna_fast.mbconv_depthwise(
        x, weights.packed, affine, *_layer(shape)[:5], shape.padding == "same"
    )
    return out


def mbconv_project(h: Tensor, weights: MBConvWeights, norm2: Affine) -> tuple[Tensor, Tensor]:
    """The layer from conv_dw's result on as far as conv_pwl, and what calibrates batch norm 3: the second half.

    Args:
        h: [P * N, M, Q, R] as `mbconv_depthwise` returns it.
        weights: as `mbconv` takes them.
        norm2: batch norm 2, P rows.

    Returns:
        conv_pwl's result [P * N, K, Q, R] before batch norm 3, h's dtype, channels-last; and float64 [P * N, 2, K], its
        sums and sums of squares over Q, R (of the rounded values).

    Raises:
        ValueError, TypeError: as `mbconv`.
    """
    shape = weights.shape
    affine = _joined("mbconv_project", weights, (norm2,), (shape.mid_channels,))
    _check("mbconv_project", weights, h, affine)
    out: tuple[Tensor, Tensor] = torch.ops.dna_fast.mbconv_project(
        h,
        weights.packed,
        affine,
        shape.in_channels,
        shape.out_channels,
        shape.kernel,
        shape.se_channels,
        shape.has_expansion,
    )
    return out


def _layer(shape: MBConvShape) -> tuple[int, int, int, int, int, bool, bool]:
    sizes = (shape.out_channels, shape.mid_channels, shape.kernel, shape.stride, shape.se_channels)
    return *sizes, shape.padding == "same", shape.has_residual


def _joined(op: str, weights: MBConvWeights, norms: Sequence[Affine], channels: Sequence[int]) -> Tensor:
    """scale | shift of one norm behind the other, [P, columns], as the kernels read them."""
    got = [tuple(t.shape) for norm in norms for t in (norm.scale, norm.shift)]
    rows = got[0][0] if got and len(got[0]) == 2 else 1
    expected = [(rows, c) for c in channels for _ in range(2)]
    if got != expected:
        raise ValueError(
            f"{op}: expected {len(channels)} norms, scale and shift of {', '.join(map(str, expected[::2]))} each, got "
            f"{', '.join(map(str, got))}; see {weights.shape}"
        )
    return torch.cat([t for norm in norms for t in (norm.scale, norm.shift)], 1)


def _check(op: str, weights: MBConvWeights, x: Tensor, *others: Tensor | None) -> None:
    """What the C++ border cannot see: gradients, and for which dtype and width weights were packed."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *others)):
        raise ValueError(
            f"{op}: expected inputs without gradient, got requires_grad=True; the op is for evaluation only, call it "
            "under torch.no_grad() or pass detached tensors"
        )
    shape = weights.shape
    name, channels = ("h", shape.mid_channels) if op == "mbconv_project" else ("x", shape.in_channels)
    if x.dtype != weights.dtype:
        raise TypeError(
            f"{op}: {name} must be {weights.dtype} as the packed weights, got {x.dtype}; pack them again or convert x"
        )
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"{op}: {name} must be [N, {channels}, H, W], got {tuple(x.shape)}; see {shape}")


# ---- fakes ----------------------------------------------------------------------------------------------------------


def _images(like: Tensor, channels: int, stride: int) -> Tensor:
    n, _, height, width = like.shape
    size = (n, channels, (height + stride - 1) // stride, (width + stride - 1) // stride)
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


@torch.library.register_fake("dna_fast::mbconv_pack")  # type: ignore[untyped-decorator]
def _fake_pack(
    conv_pw: Tensor | None, conv_dw: Tensor, conv_pwl: Tensor, se: list[Tensor], dtype: torch.dtype
) -> Tensor:
    return conv_dw.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


@torch.library.register_fake("dna_fast::mbconv")  # type: ignore[untyped-decorator]
def _fake_mbconv(
    x: Tensor, packed: Tensor, affine: Tensor, out_channels: int, mid_channels: int, kernel: int, stride: int, *_: Any
) -> Tensor:
    return _images(x, out_channels, stride)


@torch.library.register_fake("dna_fast::mbconv_reduce")  # type: ignore[untyped-decorator]
def _fake_reduce(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((x.shape[0], 3), dtype=torch.float64)


@torch.library.register_fake("dna_fast::mbconv_depthwise")  # type: ignore[untyped-decorator]
def _fake_depthwise(
    x: Tensor, packed: Tensor, affine: Tensor, out_channels: int, mid_channels: int, kernel: int, stride: int, *_: Any
) -> tuple[Tensor, Tensor]:
    return _images(x, mid_channels, stride), x.new_empty((x.shape[0], 2, mid_channels), dtype=torch.float64)


@torch.library.register_fake("dna_fast::mbconv_project")  # type: ignore[untyped-decorator]
def _fake_project(
    h: Tensor, packed: Tensor, affine: Tensor, in_channels: int, out_channels: int, *_: Any
) -> tuple[Tensor, Tensor]:
    return _images(h, out_channels, 1), h.new_empty((h.shape[0], 2, out_channels), dtype=torch.float64)
