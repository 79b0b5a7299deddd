"""mbconv's CUDA kernels on a GPU, against the float64 reference; what a GPU adds to the contract; refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ops.mbconv_answers import assert_within, endings, expected_endings
from ops.mbconv_cases import Case, Inputs, drawn_cases, inputs_of
from torch import Tensor

from dna_fast.ops import Affine, MBConvShape, MBConvWeights, mbconv, mbconv_reduce

pytestmark = pytest.mark.gpu

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
LAYER = MBConvShape(24, 144, 24, 5, 1, 6, has_residual=True)


def on_gpu(i: Inputs) -> Inputs:
    """The same call on the GPU."""
    s, layer = i.weights.shape, i.layer
    convs = (None if w is None else w.cuda() for w in (layer.conv_pw, layer.conv_dw, layer.conv_pwl))
    return dataclasses.replace(
        i,
        x=i.x.cuda(),
        weights=MBConvWeights.pack(s, *convs, [w.cuda() for w in layer.se], i.x.dtype),  # type: ignore[arg-type]
        norms=tuple(Affine(norm.scale.cuda(), norm.shift.cuda()) for norm in i.norms),
        target=i.target.cuda(),
        adapter=(i.adapter[0].cuda(), i.adapter[1].cuda()),
        adapted_target=i.adapted_target.cuda(),
    )


def assert_right(case: Case) -> None:
    i = inputs_of(case)
    expected = expected_endings(i)
    for name, got in endings(on_gpu(i)).items():
        assert got.is_cuda
        assert_within(got.cpu(), *expected[name], name)


def in_float16(case: Case) -> Case:
    return dataclasses.replace(case, dtype=F16)


@pytest.mark.parametrize("case", drawn_cases(60, seed=11), ids=str)
def test_every_ending(case: Case) -> None:
    assert_right(case)


@pytest.mark.parametrize("case", [in_float16(case) for case in drawn_cases(20, seed=12)], ids=str)
def test_every_ending_in_float16(case: Case) -> None:
    assert_right(case)


# Cells of the paper's space: tiles of columns, steps of rows, several images a block, channels that are no multiple of 16.
REAL = {
    "112": Case(MBConvShape(16, 96, 24, 7, 2, 4), 112, 112, 1, 2, BF16),
    "56": Case(MBConvShape(24, 144, 24, 7, 1, 6, has_residual=True), 56, 56, 1, 3, BF16),
    "28": Case(MBConvShape(40, 120, 40, 5, 1, 10, has_residual=True), 28, 28, 2, 2, BF16),
    "14": Case(MBConvShape(112, 672, 112, 7, 1, 28, has_residual=True), 14, 14, 1, 5, BF16),
    "7": Case(MBConvShape(192, 1152, 320, 3, 1, 48), 7, 7, 3, 3, BF16),
    "wide": Case(MBConvShape(32, 32, 16, 3, 1, 8, "same", has_expansion=False), 20, 300, 1, 1, BF16),
}


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("layer", REAL)
def test_layers_of_real_size(layer: str, dtype: torch.dtype) -> None:
    assert_right(dataclasses.replace(REAL[layer], dtype=dtype))


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_the_same_bits_every_time(dtype: torch.dtype) -> None:
    i = on_gpu(inputs_of(Case(LAYER, 28, 28, 2, 8, dtype)))
    first = endings(i)
    for _ in range(3):
        for name, got in endings(i).items():
            assert torch.equal(got, first[name]), name


def test_slices_of_a_large_batch_are_those_of_a_small_one() -> None:
    """More planes than there may be at once: the call goes through its images in slices, prefixes included."""
    i = on_gpu(inputs_of(Case(LAYER, 56, 56, 1, 1, BF16)))
    x = i.x.repeat(600, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    x[300:] *= 0.5
    norms = tuple(Affine(torch.cat([n.scale, n.scale * 1.5]), torch.cat([n.shift, n.shift])) for n in i.norms)
    y = mbconv(x, i.weights, norms)
    for image in (0, 299, 300, 599):
        own = tuple(Affine(n.scale[image // 300][None], n.shift[image // 300][None]) for n in norms)
        alone = mbconv(x[image : image + 1], i.weights, own)
        torch.testing.assert_close(y[image : image + 1], alone, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_empty_batch(dtype: torch.dtype) -> None:
    for got in endings(on_gpu(inputs_of(Case(LAYER, 7, 6, 3, 0, dtype)))).values():
        assert got.numel() == 0


def test_in_a_cuda_graph() -> None:
    """Nothing waits for the GPU, so a call can be captured; the graph computes on what x holds when it is replayed."""
    i = on_gpu(inputs_of(Case(LAYER, 14, 14, 1, 4, BF16)))
    x = i.x.clone(memory_format=torch.channels_last)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        mbconv(x, i.weights, i.norms)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = mbconv(x, i.weights, i.norms)
        sums = mbconv_reduce(x, i.weights, i.norms, i.target)
    x.mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, mbconv(x, i.weights, i.norms))
    assert torch.equal(sums, mbconv_reduce(x, i.weights, i.norms, i.target))


def test_out_of_memory_leaves_the_callers_tensors_alone() -> None:
    i = on_gpu(inputs_of(Case(LAYER, 56, 56, 1, 4, BF16)))
    before = i.x.clone(memory_format=torch.channels_last)
    expected = mbconv(i.x, i.weights, i.norms)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 1024) / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(torch.OutOfMemoryError):
            mbconv(i.x, i.weights, i.norms)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(i.x, before)
    assert torch.equal(mbconv(i.x, i.weights, i.norms), expected)


def not_channels_last(i: Inputs) -> Tensor:
    return mbconv(i.x.contiguous(), i.weights, i.norms)


def cpu_weights(i: Inputs) -> Tensor:
    return mbconv(i.x, dataclasses.replace(i.weights, packed=i.weights.packed.cpu()), i.norms)


def cpu_norms(i: Inputs) -> Tensor:
    return mbconv(i.x, i.weights, [Affine(n.scale.cpu(), n.shift.cpu()) for n in i.norms])


def cpu_target(i: Inputs) -> Tensor:
    return mbconv_reduce(i.x, i.weights, i.norms, i.target.cpu())


def other_dtype(i: Inputs) -> Tensor:
    return mbconv(i.x.half(), i.weights, i.norms)


REFUSED = {
    "layout": (not_channels_last, ValueError, "x must be channels_last"),
    "weights elsewhere": (cpu_weights, ValueError, "packed weights must be on cuda:0 as x is, got cpu"),
    "norms elsewhere": (cpu_norms, ValueError, "affine must be on cuda:0 as x is, got cpu"),
    "target elsewhere": (cpu_target, ValueError, "target must be on cuda:0 as x is, got cpu"),
    "dtype": (other_dtype, TypeError, "x must be torch.bfloat16 as the packed weights, got torch.float16"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    call, error, message = REFUSED[what]
    i = on_gpu(inputs_of(Case(LAYER, 7, 7, 1, 2, BF16)))
    with pytest.raises(error, match=message):
        call(i)
