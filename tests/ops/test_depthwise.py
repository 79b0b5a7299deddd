"""depthwise_conv2d against the float64 reference: result and both gradients, borders, tails, layouts, instruction sets,
threads; what torch's own operators compute; every refusal."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dna_fast.ops import depthwise_conv2d, reference

F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
UNIT = {F32: 2.0**-24, BF16: 2.0**-24, F64: 2.0**-53}  # of what is summed in
CAST = {F32: 2.0**-24, BF16: 2.0**-8, F64: 2.0**-53}  # of storage
PART = 4096  # pixels that a weight's gradient sums in float32: kPartPixels in depthwise_cpu.cpp


@dataclass(frozen=True)
class Case:
    """One problem; padding is (top, bottom, left, right)."""

    images: int
    channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: tuple[int, int, int, int]

    def __str__(self) -> str:
        sizes = f"{self.images}x{self.channels}x{self.height}x{self.width}"
        return f"{sizes}-k{self.kernel}-s{self.stride}-p{''.join(map(str, self.padding))}"


# Images, channels, height, width: one pixel, channels around the vectors of 4, 8 and 16; widths around the block of 7 pixels;
# several images side by side with a rest; rows and columns that even kernels of 7 do not fit without padding; more than a part.
SIZES = ((1, 1, 1, 1), (3, 5, 9, 12), (2, 33, 14, 15), (11, 20, 7, 7), (2, 24, 8, 29), (1, 16, 2, 40), (1, 18, 130, 70))


def paddings(kernel: int) -> list[tuple[int, int, int, int]]:
    """Symmetric; TensorFlow's SAME at stride 2; none; wider than the kernel, so that borders of the result see nothing of x."""
    half = kernel // 2
    return [(half,) * 4, (half - 1, half, half - 1, half), (0, 0, 0, 0), (kernel + 1, 2, 1, 2 * kernel)]


CASES = [
    Case(*size, kernel, stride, padding)
    for size, kernel, stride in itertools.product(SIZES, (3, 5, 7), (1, 2))
    for padding in paddings(kernel)
    if size[2] + padding[0] + padding[1] >= kernel and size[3] + padding[2] + padding[3] >= kernel
]
LARGE = [case for case in CASES if case.height > 100]


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def inputs(case: Case, dtype: torch.dtype = F32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x in channels-last, and the weight: float32, or float64 with x."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.images, case.channels, case.height, case.width, generator=generator, dtype=F64)
    weight = torch.randn(case.channels, 1, case.kernel, case.kernel, generator=generator, dtype=F64)
    x = channels_last(x.to(dtype))
    return x.requires_grad_(), weight.to(F64 if dtype == F64 else F32).requires_grad_()


def gradient_for(y: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return channels_last(torch.randn(y.shape, generator=generator, dtype=F64).to(y.dtype))


def run(x: Tensor, weight: Tensor, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The result and the gradients of x and weight."""
    y = depthwise_conv2d(x, weight, case.stride, case.padding)
    dx, dw = torch.autograd.grad(y, (x, weight), gradient_for(y))
    return y.detach(), dx, dw


def exactly(x: Tensor, weight: Tensor, gradient: Tensor, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    y = reference.depthwise_conv2d(x, weight, case.stride, case.padding)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), gradient.double()))


def assert_right(x: Tensor, weight: Tensor, case: Case) -> None:
    """Every sum of n products is off by at most n + 1 roundings of its summands' magnitudes, and by that of storage."""
    got = run(x, weight, case)
    gradient = gradient_for(got[0])
    expected = exactly(x, weight, gradient, case)
    magnitudes = exactly(x.detach().abs(), weight.detach().abs(), gradient.abs(), case)
    taps = case.kernel**2
    pixels = got[0][:, 0].numel()
    # Parts are added in float64; float64 itself is compared with itself, all pixels in one sum.
    depths = (taps, taps, pixels if x.dtype == F64 else min(pixels, PART))
    for what, ours, exact, magnitude, depth in zip(("y", "dx", "dw"), got, expected, magnitudes, depths, strict=True):
        assert ours.shape == exact.shape
        assert ours.dtype == (weight.dtype if what == "dw" else x.dtype)
        bound = (depth + 1) * UNIT[x.dtype] * magnitude + CAST[ours.dtype] * exact.abs()
        wrong = (ours.double() - exact).abs() - bound
        assert (wrong <= 0).all(), f"{what}: beyond its bound by {wrong.max().item():.3g}"


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16], ids=name)
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_result_and_gradients(kernel: int, stride: int, dtype: torch.dtype, isa: str) -> None:
    for case in CASES:
        if (case.kernel, case.stride) == (kernel, stride) and case not in LARGE:
            try:
                assert_right(*inputs(case, dtype), case)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("dtype", [F32, BF16], ids=name)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_weight_gradients_of_several_parts(case: Case, dtype: torch.dtype) -> None:
    assert_right(*inputs(case, dtype), case)


def test_many_pixels_of_one_sign_do_not_wear_the_sum_out() -> None:
    """65536 products of 1 + 2^-12 in one float32 sum would lose most of their last bits: parts are added in float64."""
    case = Case(16, 16, 64, 64, 3, 1, (0, 0, 0, 0))
    x = torch.full((16, 16, 66, 66), 1.0 + 2.0**-12).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(16, 1, 3, 3, requires_grad=True)
    y = depthwise_conv2d(x, weight, 1, case.padding)
    (dw,) = torch.autograd.grad(y, weight, torch.ones_like(y))
    exact = 16 * 64 * 64 * (1.0 + 2.0**-12)
    # A part's sums stay exact: 4096 (1 + 2^-12) needs 13 + 12 bits, of which at most the last is rounded away at the end.
    assert ((dw.double() - exact).abs() <= 2.0**-22 * exact).all()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=name)
def test_what_is_not_finite_shows(dtype: torch.dtype, isa: str) -> None:
    case = Case(1, 20, 9, 9, 5, 1, (2, 2, 2, 2))
    x, weight = inputs(case, dtype)
    bad = x.detach().clone()
    bad[0, 17, 4, 4] = float("nan")
    y, _, dw = run(bad.requires_grad_(), weight, case)
    assert y.isnan().nonzero()[:, 1].unique().tolist() == [17]
    assert y.isnan().sum() == 25
    assert dw.isnan().nonzero()[:, 0].unique().tolist() == [17]


# ---- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, BF16], ids=name)
@pytest.mark.parametrize(
    "case",
    [
        Case(5, 40, 14, 14, 7, 1, (3,) * 4),
        Case(1, 18, 130, 70, 5, 2, (1, 2, 1, 2)),
        Case(3, 16, 28, 28, 3, 1, (1,) * 4),
    ],
    ids=str,
)
def test_threads_change_nothing(case: Case, dtype: torch.dtype, threads: None) -> None:
    x, weight = inputs(case, dtype)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(x, weight, case))
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            assert torch.equal(ours, first)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    case = Case(5, 20, 7, 7, 5, 1, (2,) * 4)
    x, weight = inputs(case)
    y, dx, _ = run(x, weight, case)
    for i in range(5):
        alone = x.detach()[i : i + 1].requires_grad_()
        single = depthwise_conv2d(alone, weight, 1, case.padding)
        (of_single,) = torch.autograd.grad(single, alone, gradient_for(y)[i : i + 1])
        assert torch.equal(single, y[i : i + 1])
        assert torch.equal(of_single, dx[i : i + 1])


# ---- layouts, dtypes, what torch computes ----------------------------------------------------------------------------

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": channels_last,
    "permuted": lambda x: x.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "cropped": lambda x: torch.nn.functional.pad(x, (1, 2, 1, 0))[..., 1:, 1:-2],
}


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 2, 1)], ids=["symmetric", "sides"])
def test_layouts(layout: str, padding: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    case = Case(2, 19, 8, 9, 3, 2, padding)
    x, weight = inputs(case, dtype)
    laid = LAYOUTS[layout](x.detach()).requires_grad_()
    assert_right(laid, weight, case)
    format = torch.contiguous_format if layout == "contiguous" else torch.channels_last
    y, dx, dw = run(laid, weight, case)
    assert y.is_contiguous(memory_format=format)
    assert dx.is_contiguous(memory_format=format)
    assert dw.is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_layout(layout: str) -> None:
    case = Case(2, 19, 8, 9, 5, 1, (2, 2, 2, 2))
    x, weight = inputs(case)
    y = depthwise_conv2d(x, weight, case.stride, case.padding)
    given = torch.autograd.grad(y, (x, weight), LAYOUTS[layout](gradient_for(y)))
    for ours, expected in zip(given, run(x, weight, case)[1:], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 6, 9, 9, 1, 1, (0, 0, 0, 0)),
        Case(2, 6, 9, 9, 3, 3, (1, 1, 1, 1)),
        Case(2, 6, 12, 13, 9, 2, (4, 3, 4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=name)
def test_other_kernels_and_strides(case: Case, dtype: torch.dtype) -> None:
    assert_right(*inputs(case, dtype), case)


def test_a_bfloat16_weight_has_a_bfloat16_gradient() -> None:
    case = Case(2, 19, 8, 9, 3, 1, (1, 1, 1, 1))
    x, weight = inputs(case, BF16)
    assert_right(x, weight.detach().bfloat16().requires_grad_(), case)


def test_empty_batch() -> None:
    case = Case(0, 19, 8, 9, 3, 1, (1, 1, 1, 1))
    y, dx, dw = run(*inputs(case), case)
    assert (y.shape, dx.shape) == ((0, 19, 8, 9), (0, 19, 8, 9))
    assert torch.equal(dw, torch.zeros(19, 1, 3, 3))


def test_only_what_is_wanted_is_computed() -> None:
    case = Case(2, 19, 8, 9, 3, 1, (1, 1, 1, 1))
    x, weight = inputs(case)
    y, *gradients = run(x, weight, case)
    for wanted, expected in zip((x, weight), gradients, strict=True):
        given = [t if t is wanted else t.detach() for t in (x, weight)]
        (got,) = torch.autograd.grad(depthwise_conv2d(*given, case.stride, case.padding), wanted, gradient_for(y))
        assert torch.equal(got, expected)
    for of_x, of_weight in itertools.product((False, True), repeat=2):
        for layout in ("channels_last", "contiguous"):
            given = (gradient_for(y), LAYOUTS[layout](x.detach()), weight.detach(), 1, list(case.padding))
            got = torch.ops.dna_fast.depthwise_conv2d_backward(*given, of_x, of_weight)
            assert [t.numel() for t in got] == [x.numel() * of_x, weight.numel() * of_weight]


def test_channels_last_is_read_in_place() -> None:
    case = Case(2, 64, 16, 16, 3, 1, (1, 1, 1, 1))
    x, weight = inputs(case)
    gradient = gradient_for(x.detach())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        depthwise_conv2d(x, weight, case.stride, case.padding).backward(gradient)
    keys = {event.key for event in profile.key_averages()}
    assert "dna_fast::depthwise_conv2d_backward" in keys
    assert not {"aten::copy_", "aten::clone", "aten::convolution", "aten::constant_pad_nd"} & keys


# ---- autograd and torch.compile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(stride: int) -> None:
    case = Case(2, 3, 5, 6, 3, stride, (1, 0, 2, 1))
    x, weight = inputs(case, F64)
    assert torch.autograd.gradcheck(lambda a, b: depthwise_conv2d(a, b, stride, case.padding), (x, weight))


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=name)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck looks at .grad of its own copies
def test_opcheck(dtype: torch.dtype) -> None:
    case = Case(2, 5, 8, 9, 3, 2, (0, 1, 1, 1))
    x, weight = inputs(case, dtype)
    for layout in ("channels_last", "contiguous", "cropped"):
        laid = LAYOUTS[layout](x.detach()).requires_grad_()
        arguments = (laid, weight, case.stride, list(case.padding))
        torch.library.opcheck(torch.ops.dna_fast.depthwise_conv2d.default, arguments)
        gradient = gradient_for(depthwise_conv2d(*arguments)).detach()
        for of_x, of_weight in ((True, True), (True, False), (False, True)):
            torch.library.opcheck(
                torch.ops.dna_fast.depthwise_conv2d_backward.default,
                (gradient, laid.detach(), weight.detach(), *arguments[2:], of_x, of_weight),
            )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_takes_it_whole(dynamic: bool) -> None:
    compiled = torch.compile(
        lambda x, w: depthwise_conv2d(x * 2, w, 2, (0, 1, 0, 1)) * 3,
        fullgraph=True,
        backend="aot_eager",
        dynamic=dynamic,
    )
    for images in (2, 3):
        x, weight = inputs(Case(images, 8, 6, 6, 3, 2, (0, 1, 0, 1)))
        y, expected = compiled(x, weight), depthwise_conv2d(x * 2, weight, 2, (0, 1, 0, 1)) * 3
        assert torch.equal(y, expected)
        for ours, eager in zip(*(torch.autograd.grad(t.sum(), (x, weight)) for t in (y, expected)), strict=True):
            assert torch.equal(ours, eager)


def test_second_derivatives_are_refused() -> None:
    x, weight = inputs(Case(1, 4, 5, 5, 3, 1, (1,) * 4))
    y = depthwise_conv2d(x, weight, 1, (1,) * 4)
    with pytest.raises(RuntimeError, match=r"got create_graph=True; use ops\.reference\.depthwise_conv2d"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


# ---- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (1, 2, 1, 2)], ids=["symmetric", "sides"])
def test_cuda_computes_the_same(padding: tuple[int, int, int, int]) -> None:
    case = Case(3, 20, 15, 14, 5, 2, padding)
    x, weight = inputs(case, F64)
    on_gpu = run(*(t.detach().cuda().requires_grad_() for t in (x, weight)), case)
    for ours, expected in zip(on_gpu, run(x, weight, case), strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-12, atol=1e-12)


# ---- refusals --------------------------------------------------------------------------------------------------------

X, W, SIDES = torch.zeros(2, 4, 6, 6), torch.zeros(4, 1, 3, 3), [1, 1, 1, 1]
REFUSED = {
    "dimensions": (X[0], W, 1, SIDES, ValueError, r"x must be \[N, C, H, W\], got \[4, 6, 6\]; add the missing"),
    "channels": (
        X,
        W[:3],
        1,
        SIDES,
        ValueError,
        r"weight must be \[C, 1, k, k\] with C = 4 and k odd, got \[3, 1, 3, 3\]",
    ),
    "groups": (
        X,
        torch.zeros(4, 2, 3, 3),
        1,
        SIDES,
        ValueError,
        r"got \[4, 2, 3, 3\]; use torch\.nn\.functional\.conv2d",
    ),
    "even kernel": (X, torch.zeros(4, 1, 4, 4), 1, SIDES, ValueError, r"k odd, got \[4, 1, 4, 4\]"),
    "oblong kernel": (X, torch.zeros(4, 1, 3, 5), 1, SIDES, ValueError, r"k odd, got \[4, 1, 3, 5\]"),
    "integers": (X.long(), W.long(), 1, SIDES, TypeError, r"expected a floating dtype, got x Long; convert it"),
    "weight dtype": (X, W.double(), 1, SIDES, TypeError, r"got x Float and weight Double; call weight\.to\(x\.dtype\)"),
    "device": (X, W.to("meta"), 1, SIDES, ValueError, r"one device, got cpu and meta; call weight\.to\(x\.device\)"),
    "stride": (X, W, 0, SIDES, ValueError, r"stride must be positive, got 0"),
    "padding": (X, W, 1, [1, 1], ValueError, r"padding must be 4 sizes from 0 on .*, got \[1, 1\]; cut x"),
    "negative padding": (X, W, 1, [1, 1, -1, 1], ValueError, r"got \[1, 1, -1, 1\]; cut x"),
    "too small": (X[..., :2], W, 1, [0, 0, 0, 0], ValueError, r"kernel of 3x3 must fit the padded image, got 6x2; pad"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_in_words(case: str) -> None:
    x, weight, stride, padding, error, match = REFUSED[case]
    with pytest.raises(error, match=f"depthwise_conv2d: .*{match}"):
        depthwise_conv2d(x, weight, stride, padding)


@pytest.mark.parametrize(
    ("gradient", "error", "match"),
    [
        (torch.zeros(2, 4, 5, 6), ValueError, r"gradient must be \[2, 4, 6, 6\] on cpu, got \[2, 4, 5, 6\] on cpu"),
        (torch.zeros(2, 4, 6, 6, dtype=F64), TypeError, r"the dtype of x, Float, got Double; convert it"),
    ],
    ids=["shape", "dtype"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_that_do_not_fit_are_refused(
    layout: str, gradient: Tensor, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=f"depthwise_conv2d: .*{match}"):
        torch.ops.dna_fast.depthwise_conv2d_backward(gradient, LAYOUTS[layout](X), W, 1, SIDES, True, True)
