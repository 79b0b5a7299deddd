"""What surrounds mbconv's arithmetic: weights, folded norms, torch.library and torch.compile, and every refusal."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops.mbconv_cases import Case, channels_last, inputs_of
from torch import Tensor, nn

from dna_fast.ops import (
    Affine,
    MBConvShape,
    MBConvWeights,
    mbconv,
    mbconv_depthwise,
    mbconv_project,
    mbconv_reduce,
    reference,
)

F32, BF16 = torch.float32, torch.bfloat16
LAYERS = {
    "expansion": MBConvShape(5, 52, 5, 3, 1, 4, has_residual=True),
    "none": MBConvShape(17, 17, 24, 5, 2, 0, "same", has_expansion=False),
}

# ---- weights and norms ----------------------------------------------------------------------------------------------


def timm_like(shape: MBConvShape) -> nn.Module:
    """Convolutions under timm's names, and nothing else of the module."""
    mid, module = shape.mid_channels, nn.Module()
    names = ("conv_pw", "conv_dw", "conv_pwl") if shape.has_expansion else (None, "conv_dw", "conv_pw")
    sizes = ((shape.in_channels, mid, 1, 1), (mid, mid, shape.kernel, mid), (mid, shape.out_channels, 1, 1))
    for name, (cin, cout, kernel, groups) in zip(names, sizes, strict=True):
        if name is not None:
            module.add_module(name, nn.Conv2d(cin, cout, kernel, groups=groups, bias=False))
    if shape.se_channels:
        se = nn.Module()
        se.add_module("conv_reduce", nn.Conv2d(mid, shape.se_channels, 1))
        se.add_module("conv_expand", nn.Conv2d(shape.se_channels, mid, 1))
        module.add_module("se", se)
    return module


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_weights_of_a_module_with_timms_names(layer: str, dtype: torch.dtype) -> None:
    shape = LAYERS[layer]
    module: Any = timm_like(shape)
    names = ("conv_pw", "conv_dw", "conv_pwl") if shape.has_expansion else ("conv_dw", "conv_pw")
    plain = [module.get_submodule(name).weight for name in names]
    plain = plain if shape.has_expansion else [None, *plain]
    se = list(module.se.parameters()) if shape.se_channels else []
    packed = MBConvWeights.pack(shape, *plain, se, dtype)
    assert torch.equal(MBConvWeights.of(shape, module, dtype).packed, packed.packed)
    assert torch.equal(MBConvWeights.of(shape, module.double(), dtype).packed, packed.packed)


def test_packed_weights_are_a_copy() -> None:
    i = inputs_of(Case(LAYERS["expansion"], 4, 4, 1, 1, F32))
    module: Any = timm_like(i.weights.shape)
    weights = MBConvWeights.of(i.weights.shape, module)
    before = mbconv(i.x, weights, i.norms)
    nn.init.zeros_(module.conv_pwl.weight)
    assert torch.equal(mbconv(i.x, weights, i.norms), before)
    assert torch.equal(mbconv(i.x, pickle.loads(pickle.dumps(weights)), i.norms), before)


@pytest.mark.parametrize("rows", [(), (3,)], ids=["one", "prefixes"])
def test_folded_norm_is_the_batch_norm(rows: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(6, generator=generator) for _ in range(2))
    mean, var = torch.randn(*rows, 6, generator=generator), torch.rand(*rows, 6, generator=generator)
    x = torch.randn(3, 6, 4, 4, generator=generator, dtype=torch.float64)
    norm = Affine.fold(weight, bias, mean, var, 1e-3)
    assert norm.scale.dtype == norm.shift.dtype == F32
    assert norm.scale.shape == norm.shift.shape == (rows[0] if rows else 1, 6)
    got = reference.normed(x, (norm.scale.double(), norm.shift.double()))
    for image in range(3):
        m, v = (t.reshape(-1, 6)[image if rows else 0].double() for t in (mean, var))
        expected = nn.functional.batch_norm(x[image : image + 1], m, v, weight.double(), bias.double(), eps=1e-3)
        # Scale and shift are rounded once each.
        bound = 2.0**-24 * (x[image].abs() * norm.scale[0 if not rows else image].abs()[:, None, None])
        bound = bound + 2.0**-24 * norm.shift[0 if not rows else image].abs()[:, None, None]
        assert ((got[image] - expected[0]).abs() <= 1.01 * bound + 1e-12).all()
    plain = Affine.fold(None, None, mean, var, 1e-3)
    assert torch.equal(plain.scale, (var.double() + 1e-3).rsqrt().float().reshape(-1, 6))


# ---- torch.library and torch.compile --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_opcheck(layer: str, dtype: torch.dtype) -> None:
    shape = LAYERS[layer]
    i = inputs_of(Case(shape, 6, 5, 2, 2, dtype))
    affine = torch.cat([t for norm in i.norms for t in (norm.scale, norm.shift)], 1)
    sizes = (shape.out_channels, shape.mid_channels, shape.kernel, shape.stride, shape.se_channels)
    full = (i.x, i.weights.packed, affine, *sizes, shape.padding == "same", shape.has_residual)
    first = affine[:, : 2 * shape.mid_channels if shape.has_expansion else 0].contiguous()
    h, _ = torch.ops.dna_fast.mbconv_depthwise(i.x, i.weights.packed, first, *sizes, shape.padding == "same")
    norm2 = torch.cat([i.norms[-2].scale, i.norms[-2].shift], 1)
    rest = (shape.in_channels, shape.out_channels, shape.kernel, shape.se_channels, shape.has_expansion)
    check: Callable[..., Any] = torch.library.opcheck
    check(torch.ops.dna_fast.mbconv.default, full)
    check(torch.ops.dna_fast.mbconv_reduce.default, (*full, i.target, None, None))
    check(torch.ops.dna_fast.mbconv_reduce.default, (*full, i.adapted_target, *i.adapter))
    check(torch.ops.dna_fast.mbconv_depthwise.default, (i.x, i.weights.packed, first, *sizes, shape.padding == "same"))
    check(torch.ops.dna_fast.mbconv_project.default, (h, i.weights.packed, norm2, *rest))
    pw, dw, pwl = (None if t is None else t.float() for t in (i.layer.conv_pw, i.layer.conv_dw, i.layer.conv_pwl))
    check(torch.ops.dna_fast.mbconv_pack.default, (pw, dw, pwl, [t.float() for t in i.layer.se], dtype))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_takes_it_whole(dynamic: bool) -> None:
    i = inputs_of(Case(LAYERS["expansion"], 6, 5, 1, 2, F32))

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = mbconv(x * 2, i.weights, i.norms)
        return y + 1, mbconv_reduce(x, i.weights, i.norms, y)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (6, 9):
        x = channels_last(torch.randn(2, 5, size, size))
        assert all(torch.equal(*pair) for pair in zip(compiled(x), step(x), strict=True))


# ---- refusals -------------------------------------------------------------------------------------------------------

SHAPE = MBConvShape(4, 8, 4, 3, 1, 2, has_residual=True)
INPUTS = inputs_of(Case(SHAPE, 5, 5, 2, 2, F32))
X, WEIGHTS, NORMS, TARGET, ADAPTER = INPUTS.x, INPUTS.weights, INPUTS.norms, INPUTS.target, INPUTS.adapter
NO_EXPANSION = MBConvShape(4, 4, 4, 3, 1, has_expansion=False)
DEPTHWISE = inputs_of(Case(NO_EXPANSION, 5, 5, 1, 2, F32)).weights
NORM1, NORM2 = NORMS[0], NORMS[1]
H = channels_last(torch.zeros(4, 8, 5, 5))
PW, DW, PWL = torch.zeros(8, 4, 1, 1), torch.zeros(8, 1, 3, 3), torch.zeros(4, 8, 1, 1)
SE = (torch.zeros(2, 8, 1, 1), torch.zeros(2), torch.zeros(8, 2, 1, 1), torch.zeros(8))


def shape_with(**changes: Any) -> Callable[[], object]:
    return lambda: dataclasses.replace(SHAPE, **changes)


def grown(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


Refusals = dict[str, tuple[Callable[[], object], type[Exception], str]]
SHAPE_REFUSALS: Refusals = {
    "kernel": (shape_with(kernel=4), ValueError, "MBConvShape: kernel must be one of 3, 5, 7, got 4"),
    "stride": (shape_with(stride=3), ValueError, "stride must be one of 1, 2, got 3"),
    "padding": (shape_with(padding="SAME"), ValueError, "padding must be one of symmetric, same, got 'SAME'"),
    "channels": (shape_with(mid_channels=0), ValueError, r"must be positive and .*, got \(4, 0, 4\) and 2"),
    "se channels": (shape_with(se_channels=-1), ValueError, r"se_channels not negative, got \(4, 8, 4\) and -1"),
    "no expansion": (shape_with(has_expansion=False), ValueError, "mid_channels must be in_channels, got 8 and 4"),
    "residual width": (shape_with(out_channels=5), ValueError, "residual needs .* stride 1, got 4 -> 5, stride 1"),
    "residual stride": (shape_with(stride=2), ValueError, "residual needs .* got 4 -> 4, stride 2"),
}
PACK_REFUSALS: Refusals = {
    "dtype": (
        lambda: MBConvWeights.pack(SHAPE, PW, DW, PWL, SE, torch.float16),
        TypeError,
        "MBConvWeights: dtype must be float32 or bfloat16, got torch.float16",
    ),
    "no conv_pw": (
        lambda: MBConvWeights.pack(SHAPE, None, DW, PWL, SE),
        ValueError,
        r"conv_pw must have shape \(8, 4, 1, 1\), got None; see MBConvShape",
    ),
    "conv_pw": (lambda: MBConvWeights.pack(NO_EXPANSION, PW, DW, PWL), ValueError, "conv_pw must have shape None, got"),
    "conv_dw": (
        lambda: MBConvWeights.pack(SHAPE, PW, DW[:, 0], PWL, SE),
        ValueError,
        r"conv_dw must have shape \(8, 1, 3, 3\), got \(8, 3, 3\)",
    ),
    "conv_pwl": (
        lambda: MBConvWeights.pack(SHAPE, PW, DW, PWL[:3], SE),
        ValueError,
        r"conv_pwl must have shape \(4, 8, 1, 1\), got \(3, 8, 1, 1\)",
    ),
    "se missing": (
        lambda: MBConvWeights.pack(SHAPE, PW, DW, PWL),
        ValueError,
        "se must hold 4 tensors where se_channels is 2, got 0",
    ),
    "se shape": (
        lambda: MBConvWeights.pack(SHAPE, PW, DW, PWL, (SE[0], SE[3], *SE[2:])),
        ValueError,
        r"se.conv_reduce.bias must have shape \(2,\), got \(8,\)",
    ),
}
CALL_REFUSALS: Refusals = {
    "layout": (
        lambda: mbconv(X.contiguous(), WEIGHTS, NORMS),
        ValueError,
        r"mbconv: x must be channels_last \[N, C, H, W\], got strides \[100, 25, 5, 1\]; call .contiguous\(memory_format=",
    ),
    "view": (lambda: mbconv(X[:, :, ::2], WEIGHTS, NORMS), ValueError, "x must be channels_last"),
    "rank": (lambda: mbconv(X[0], WEIGHTS, NORMS), ValueError, r"mbconv: x must be \[N, 4, H, W\], got \(4, 5, 5\)"),
    "width": (
        lambda: mbconv(H, WEIGHTS, NORMS),
        ValueError,
        r"x must be \[N, 4, H, W\], got \(4, 8, 5, 5\); see MBConvS",
    ),
    "no pixels": (lambda: mbconv(X[:, :, :0], WEIGHTS, NORMS), ValueError, "x must have channels and pixels"),
    "dtype": (
        lambda: mbconv(X.bfloat16(), WEIGHTS, NORMS),
        TypeError,
        "x must be torch.float32 as the packed weights, got torch.bfloat16; pack them again or convert x",
    ),
    "prefixes": (
        lambda: mbconv(X[:3], WEIGHTS, NORMS),
        ValueError,
        "x must hold N images for each of 2 prefixes, got 3 images",
    ),
    "norms": (
        lambda: mbconv(X, WEIGHTS, NORMS[1:]),
        ValueError,
        r"mbconv: expected 3 norms, scale and shift of \(2, 8\), \(2, 8\), \(2, 4\) each, got \(2, 8\), \(2, 8\), \(2, 4\)",
    ),
    "norm rows": (
        lambda: mbconv(X, WEIGHTS, (NORM1, NORM2, Affine(NORMS[2].scale[:1], NORMS[2].shift[:1]))),
        ValueError,
        r"expected 3 norms, .* got .*\(1, 4\), \(1, 4\); see MBConvShape",
    ),
    "norm rank": (
        lambda: mbconv(X, WEIGHTS, [Affine(norm.scale[0], norm.shift[0]) for norm in NORMS]),
        ValueError,
        r"expected 3 norms, .* got \(8,\), \(8,\)",
    ),
    "norm dtype": (
        lambda: mbconv(X, WEIGHTS, [Affine(norm.scale.double(), norm.shift) for norm in NORMS]),
        TypeError,
        "affine must be float32, got Double; convert it with .float()",
    ),
    "x gradient": (lambda: mbconv(grown(X), WEIGHTS, NORMS), ValueError, "mbconv: expected inputs without gradient"),
    "norm gradient": (
        lambda: mbconv(X, WEIGHTS, (Affine(grown(NORM1.scale), NORM1.shift), *NORMS[1:])),
        ValueError,
        r"requires_grad=True; the op is for evaluation only, call it under torch.no_grad\(\) or pass detached",
    ),
    "target gradient": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, grown(TARGET)),
        ValueError,
        "mbconv_reduce: expected inputs without gradient",
    ),
    "target shape": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, TARGET[:1]),
        ValueError,
        r"target must have shape \[2, 4, 5, 5\] .*, got \[1, 4, 5, 5\]",
    ),
    "target layout": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, TARGET.contiguous()),
        ValueError,
        "target must be channels_last",
    ),
    "target dtype": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, TARGET.bfloat16()),
        TypeError,
        "target must have x's dtype Float, got BFloat16",
    ),
    "adapter weight": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, INPUTS.adapted_target, (ADAPTER[0].T, ADAPTER[1])),
        ValueError,
        "(target|adapter_weight) must have shape",
    ),
    "adapter bias": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, INPUTS.adapted_target, (ADAPTER[0], ADAPTER[1][1:])),
        ValueError,
        r"adapter_bias must have shape \[7\], got \[6\]",
    ),
    "adapter dtype": (
        lambda: mbconv_reduce(X, WEIGHTS, NORMS, INPUTS.adapted_target, (ADAPTER[0].double(), ADAPTER[1])),
        TypeError,
        "adapter_weight must be float32, got Double",
    ),
    "no norm1": (
        lambda: mbconv_depthwise(X, WEIGHTS, None),
        ValueError,
        "mbconv_depthwise: norm1 must be an Affine where has_expansion is True, got None",
    ),
    "norm1": (
        lambda: mbconv_depthwise(X, DEPTHWISE, NORM1),
        ValueError,
        "norm1 must be None where has_expansion is False, got an Affine",
    ),
    "norm1 rows": (
        lambda: mbconv_depthwise(X, WEIGHTS, NORM1, prefixes=3),
        ValueError,
        "norm1 must have a row for each of 3 prefixes, got 2",
    ),
    "depthwise prefixes": (
        lambda: mbconv_depthwise(X[:3], DEPTHWISE, None, prefixes=2),
        ValueError,
        "x must hold N images for each of 2 prefixes, got 3 images",
    ),
    "h": (
        lambda: mbconv_project(X, WEIGHTS, NORM2),
        ValueError,
        r"mbconv_project: h must be \[N, 8, H, W\], got \(4, 4, 5, 5\)",
    ),
    "h layout": (lambda: mbconv_project(H.contiguous(), WEIGHTS, NORM2), ValueError, "h must be channels_last"),
    "packed": (
        lambda: mbconv(X, dataclasses.replace(WEIGHTS, packed=WEIGHTS.packed[1:]), NORMS),
        ValueError,
        r"expected weights packed for this layer and dtype \(.* bytes\), got shape .* with MBConvWeights.pack",
    ),
}
REFUSALS = {
    f"{where}-{case}": refusal
    for where, table in (("shape", SHAPE_REFUSALS), ("pack", PACK_REFUSALS), ("call", CALL_REFUSALS))
    for case, refusal in table.items()
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_in_words(case: str) -> None:
    call, error, match = REFUSALS[case]
    with pytest.raises(error, match=match):
        call()


def test_what_requires_a_gradient_is_taken_where_gradients_are_off() -> None:
    with torch.no_grad():
        y = mbconv(grown(X), WEIGHTS, NORMS)
    assert torch.equal(y, mbconv(X, WEIGHTS, NORMS))
    assert not y.requires_grad
