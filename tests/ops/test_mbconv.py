"""mbconv against the float64 reference: shapes, dtypes, instruction sets and endings; determinism; every refusal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from ops.cpu_isas import isas
from ops.mbconv_answers import assert_within, endings, expected_endings
from ops.mbconv_cases import STORAGE, Case, drawn_cases, inputs_of, output_bound, product_cases

from dna_fast.ops import (
    Affine,
    MBConvShape,
    _library,
    mbconv,
    mbconv_depthwise,
    mbconv_project,
    mbconv_reduce,
    reference,
)

F32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture(autouse=True)
def dead_memory() -> Iterator[None]:
    """torch fills what is allocated with NaN (bytes: 255, a NaN read as floats), scratch memory included."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def assert_right(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    i = inputs_of(case)
    expected = expected_endings(i)
    for isa in isas():
        monkeypatch.setenv("DNA_FAST_FORCE_ISA", isa)
        assert _library.isa() == isa
        for name, got in endings(i).items():
            assert_within(got, *expected[name], f"{isa}: {name}")
            if got.dim() == 4:
                assert got.dtype == case.dtype
                assert got.is_contiguous(memory_format=torch.channels_last)
            else:
                assert got.dtype == torch.float64


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", drawn_cases(100, seed=1), ids=str)
def test_every_ending_on_every_instruction_set(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(case, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_whole_product(kernel: int, stride: int, padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in product_cases(kernel, stride, padding):
        try:
            assert_right(case, monkeypatch)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


# Wider than one group of channels, larger than one tile of pixels, and as many squeezed channels as fit no register.
WIDE = MBConvShape(40, 240, 40, 5, 1, 10, has_residual=True)
DEEP = MBConvShape(112, 672, 192, 5, 2, 28, "same")


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("shape", [WIDE, DEEP], ids=["wide", "deep"])
def test_layers_of_real_size(shape: MBConvShape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(Case(shape, 21, 19, 1, 2, dtype), monkeypatch)


def many_outputs(case: Case) -> bool:
    s = case.shape
    size = s.out_size(case.height) * s.out_size(case.width)
    return case.dtype == BF16 and case.prefixes * case.images * s.out_channels * size >= 1000


TYPICAL = [*filter(many_outputs, drawn_cases(100, seed=3)), *(Case(s, 14, 14, 1, 2, BF16) for s in (WIDE, DEEP))]


@pytest.mark.parametrize("case", TYPICAL, ids=str)
def test_bfloat16_loses_less_than_operators_one_by_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worst cases leave room for mistakes that typical errors show: those of torch, which rounds at every step."""
    i = inputs_of(case)
    expected = reference.mbconv(i.exact_x, i.layer, i.exact_norms)
    low = dataclasses.replace(
        i.layer,
        conv_pw=None if i.layer.conv_pw is None else i.layer.conv_pw.bfloat16(),
        conv_dw=i.layer.conv_dw.bfloat16(),
        conv_pwl=i.layer.conv_pwl.bfloat16(),
        se=[t.bfloat16() for t in i.layer.se],
    )
    theirs = reference.mbconv(i.x, low, [(norm.scale.bfloat16(), norm.shift.bfloat16()) for norm in i.norms])
    for isa in isas():
        monkeypatch.setenv("DNA_FAST_FORCE_ISA", isa)
        ours = mbconv(i.x, i.weights, i.norms)
        assert (ours.double() - expected).norm() <= (theirs.double() - expected).norm(), isa


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_saturated_activations_stay_finite(dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """exp overflows on the way for all of these; bounds hold as elsewhere."""
    i = inputs_of(Case(MBConvShape(5, 30, 5, 3, 1, 4, has_residual=True), 6, 5, 1, 2, dtype))
    norm1 = Affine(i.norms[0].scale * 1e4, i.norms[0].shift)
    i = dataclasses.replace(i, norms=(norm1, Affine(i.norms[1].scale * 1e3, i.norms[1].shift), i.norms[2]))
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", isa)
    y = mbconv(i.x, i.weights, i.norms)
    assert y.isfinite().all()
    expected = reference.mbconv(i.exact_x, i.layer, i.exact_norms)
    assert_within(y, expected, output_bound(i).rounded(STORAGE[dtype]).error, isa)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_what_is_not_finite_shows_in_its_image_only(
    dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    i = inputs_of(Case(MBConvShape(3, 18, 7, 3, 1, 4), 5, 5, 1, 3, dtype))
    x = i.x.clone()
    x[1, 2, 3, 3] = float("nan")
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", isa)
    assert mbconv(x, i.weights, i.norms).isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert mbconv_reduce(x, i.weights, i.norms, i.target).isnan().all(2).tolist() == [[False, True, False]]
    _, moments = mbconv_depthwise(x, i.weights, i.norms[0])
    assert moments.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_the_second_half_continues_the_first() -> None:
    """From conv_dw's stored result on, within one rounding of batch norm 3: in float32 nothing is rounded between the halves."""
    i = inputs_of(Case(MBConvShape(5, 30, 17, 5, 2, 4), 9, 8, 3, 2, F32))
    h, _ = mbconv_depthwise(i.x, i.weights, i.norms[0])
    y, _ = mbconv_project(h, i.weights, i.norms[1])
    normed = reference.normed(y, (i.norms[2].scale, i.norms[2].shift))
    torch.testing.assert_close(mbconv(i.x, i.weights, i.norms), normed, rtol=2.0**-22, atol=2.0**-22)


# ---- prefixes, batches, determinism ---------------------------------------------------------------------------------

LAYERS = {
    "expansion": MBConvShape(5, 52, 5, 3, 1, 4, has_residual=True),
    "none": MBConvShape(17, 17, 24, 5, 2, 0, "same", has_expansion=False),
}


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_each_prefix_has_its_own_norms_and_the_shared_target(layer: str, dtype: torch.dtype) -> None:
    case = Case(LAYERS[layer], 7, 6, 3, 2, dtype)
    i = inputs_of(case)
    together = endings(i)
    for p in range(3):
        own = tuple(Affine(norm.scale[p : p + 1], norm.shift[p : p + 1]) for norm in i.norms)
        alone = endings(dataclasses.replace(i, x=i.x[2 * p : 2 * p + 2], norms=own))
        for name, got in alone.items():
            whole = together[name].flatten(0, 1) if name in ("reduced", "adapted") else together[name]
            assert torch.equal(got.reshape(-1, *whole.shape[1:]), whole[2 * p : 2 * p + 2]), name


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_an_image_does_not_depend_on_its_batch(layer: str, dtype: torch.dtype) -> None:
    i = inputs_of(Case(LAYERS[layer], 9, 9, 1, 5, dtype))
    whole = mbconv(i.x, i.weights, i.norms)
    for n in range(5):
        assert torch.equal(mbconv(i.x[n : n + 1], i.weights, i.norms), whole[n : n + 1])


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("images", [1, 5, 17])
@pytest.mark.parametrize("size", [9, 20])  # 20 x 20: two tiles of pixels
def test_threads_change_nothing(size: int, images: int, dtype: torch.dtype, threads: None) -> None:
    i = inputs_of(Case(MBConvShape(17, 102, 50, 3, 1, 4), size, size, 1, images, dtype))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(endings(i))
    for other in results[1:]:
        assert all(torch.equal(other[name], got) for name, got in results[0].items())


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_empty_batch(layer: str, dtype: torch.dtype) -> None:
    i = inputs_of(Case(LAYERS[layer], 7, 6, 3, 0, dtype))
    one = endings(inputs_of(Case(LAYERS[layer], 7, 6, 3, 1, dtype)))
    for name, got in endings(i).items():
        empty = one[name][:, :0] if name in ("reduced", "adapted") else one[name][:0]
        assert got.shape == empty.shape
        assert got.dtype == empty.dtype
