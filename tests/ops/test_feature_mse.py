"""feature_mse against the float64 reference: every dtype, layout and instruction set; determinism; every refusal."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from ops.cpu_isas import isas_without_bf16
from torch import Tensor

from dna_fast.ops import _library, feature_mse, reference

LOW = (torch.float32, torch.bfloat16, torch.float16)
MIXTURES = [*itertools.product(LOW, LOW), (torch.float64, torch.float64)]
# One element, around the 32 accumulators, around a chunk of 8192, and several chunks with a rest.
SIZES = (1, 31, 32, 33, 8191, 8192, 8193, 3 * 8192 + 77)
DEPTH = 8192 // 32 + 5  # additions that one summand goes through: its accumulator's, then the tree over 32 of them
CAST = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float64: 2.0**-53}


def pair(shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtypes[0]).requires_grad_(), teacher.to(dtypes[1])


def run(student: Tensor, teacher: Tensor, grad_loss: float = 1.0) -> tuple[Tensor, Tensor]:
    loss = feature_mse(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student, torch.full_like(loss, grad_loss))
    return loss.detach(), gradient


def assert_close_to_reference(student: Tensor, teacher: Tensor, grad_loss: float = 1.0) -> None:
    loss, gradient = run(student, teacher, grad_loss)
    exact_student = student.detach().double().requires_grad_()
    expected = reference.feature_mse(exact_student, teacher.double())
    (expected_gradient,) = torch.autograd.grad(expected, exact_student)
    assert loss.dtype == (torch.float64 if student.dtype == torch.float64 else torch.float32)
    assert gradient.dtype == student.dtype
    unit = CAST[loss.dtype]
    # Summands are not negative, so errors stay relative: two roundings of the difference (squared), one of the square,
    # DEPTH additions (all of them for float64, which is compared with itself), one of the result.
    depth = DEPTH + student.numel() * (loss.dtype == torch.float64)
    assert abs(loss.item() - expected.item()) <= (depth + 4) * unit * expected.item()
    # Difference, 2 / numel, their product, grad_loss, its product; and up to two roundings to storage. Below float16's
    # smallest normal a rounding is absolute.
    bound = (5 * unit + 2 * CAST[student.dtype]) * (expected_gradient * grad_loss).abs()
    bound += 2.0**-25 if student.dtype == torch.float16 else torch.finfo(student.dtype).tiny
    assert ((gradient.double() - expected_gradient * grad_loss).abs() <= bound).all()


def name(value: object) -> str:
    return "-".join(str(d).removeprefix("torch.") for d in value) if isinstance(value, tuple) else str(value)


# ---- values and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient(size: int, dtypes: tuple[torch.dtype, torch.dtype], isa: str) -> None:
    assert_close_to_reference(*pair((size,), dtypes, seed=size))


@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
def test_gradient_follows_what_the_loss_is_used_for(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    assert_close_to_reference(*pair((3, 5, 7), dtypes), grad_loss=0.25)


@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
def test_every_instruction_set_gives_the_same_bits(
    dtypes: tuple[torch.dtype, torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair((2 * 8192 + 45,), dtypes)
    results = []
    for forced in isas_without_bf16():
        monkeypatch.setenv("DNA_FAST_FORCE_ISA", forced)
        results.append(run(student, teacher))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
def test_every_low_precision_number_is_read_and_written_as_torch_does(dtype: torch.dtype, isa: str) -> None:
    """All 65536 patterns: student - 0, stored with the factor 2 / 65536 (a power of two) or, float16, bare."""
    student = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    student = torch.where(student.isfinite(), student, torch.zeros_like(student))
    factor = 1.0 if dtype == torch.float16 else 2.0 / 65536
    _, gradient = torch.ops.dna_fast.feature_mse(student, torch.zeros_like(student), True)
    assert torch.equal(gradient, (student.float() * factor).to(dtype))


def test_rounding_to_float16_is_to_nearest_even_with_infinities(isa: str) -> None:
    """A difference between float16 and float32 hits every case of rounding: ties, subnormals, overflow, zero."""
    bits = torch.arange(0, 2**31 - 1, 65537 * 7, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    values = torch.cat([values, -values, torch.tensor([65519.0, 65520.0, 2.0**-25, 1.5 * 2.0**-24, 2049.0, 2051.0])])
    for dtype in (torch.float16, torch.bfloat16):
        student = torch.zeros(values.numel(), dtype=dtype)
        _, gradient = torch.ops.dna_fast.feature_mse(student, -values, True)
        scaled = values if dtype == torch.float16 else values * torch.tensor(2.0 / values.numel())
        assert torch.equal(gradient.nan_to_num(1.0), scaled.to(dtype).nan_to_num(1.0))


@pytest.mark.parametrize("dtype", [*LOW, torch.float64], ids=name)
def test_what_is_not_finite_shows(dtype: torch.dtype, isa: str) -> None:
    student, teacher = pair((100,), (dtype, dtype))
    bad = student.detach().clone()
    bad[40] = float("nan")
    loss, gradient = run(bad.requires_grad_(), teacher)
    assert loss.isnan()
    assert gradient.isnan().nonzero().flatten().tolist() == [40]


def test_small_float16_gradients_are_scaled_before_they_are_rounded() -> None:
    """2 / numel alone would push these below float16's smallest number; a loss scale is there to prevent that."""
    student, teacher = pair((1 << 18,), (torch.float16, torch.float16))
    _, gradient = run(student, teacher, grad_loss=2.0**16)
    expected = (student.detach().double() - teacher.double()) * (2.0 / (1 << 18)) * 2.0**16
    assert ((gradient.double() - expected).abs() <= 2.0**-9 * expected.abs() + 2.0**-25).all()


# ---- layouts ---------------------------------------------------------------------------------------------------------


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "permuted": lambda x: x.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "cropped": lambda x: torch.nn.functional.pad(x, (1, 2, 1, 0))[..., 1:, 1:-2],
}


@pytest.mark.parametrize("student_layout", LAYOUTS)
@pytest.mark.parametrize("teacher_layout", LAYOUTS)
def test_layouts(student_layout: str, teacher_layout: str) -> None:
    student, teacher = pair((2, 3, 5, 7), (torch.float32, torch.bfloat16))
    student = LAYOUTS[student_layout](student.detach()).requires_grad_()
    assert_close_to_reference(student, LAYOUTS[teacher_layout](teacher))
    if student_layout in ("contiguous", "channels_last", "permuted"):
        assert run(student, teacher)[1].stride() == student.stride()


def test_expanded_teacher() -> None:
    student, _ = pair((4, 6), (torch.float32, torch.float32))
    assert_close_to_reference(student, torch.randn(6).expand(4, 6))


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1), (2, 1, 4, 4), (2, 8, 1, 1)], ids=str)
def test_shapes_with_ambiguous_strides(shape: tuple[int, ...]) -> None:
    student, teacher = pair(shape, (torch.float32, torch.float32))
    assert_close_to_reference(student, channels_last(teacher) if len(shape) == 4 else teacher)


def test_one_layout_is_read_in_place() -> None:
    student, teacher = (channels_last(x.detach()) for x in pair((2, 64, 32, 32), (torch.float32, torch.bfloat16)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        feature_mse(student, teacher)
    assert not {"aten::copy_", "aten::to", "aten::contiguous", "aten::clone"} & {
        event.key for event in profile.key_averages()
    }


# ---- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
def test_threads_change_nothing(dtypes: tuple[torch.dtype, torch.dtype], threads: None) -> None:
    student, teacher = pair((40 * 8192 + 5,), dtypes)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(student, teacher))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


# ---- autograd and torch.compile --------------------------------------------------------------------------------------


def test_gradcheck() -> None:
    student, teacher = pair((3, 4, 5), (torch.float64, torch.float64))
    assert torch.autograd.gradcheck(lambda s: feature_mse(s, teacher), (student,))
    assert torch.autograd.gradcheck(lambda s: 3.0 * feature_mse(s * s, teacher).exp(), (student,))


@pytest.mark.parametrize("dtypes", [MIXTURES[0], MIXTURES[1], MIXTURES[-1]], ids=name)
@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck looks at .grad of its own copies
def test_opcheck(dtypes: tuple[torch.dtype, torch.dtype], with_gradient: bool) -> None:
    student, teacher = pair((2, 3, 5, 5), dtypes)
    for format in (torch.contiguous_format, torch.channels_last):
        s = student.detach().contiguous(memory_format=format).requires_grad_(with_gradient)
        t = teacher.contiguous(memory_format=format)
        torch.library.opcheck(torch.ops.dna_fast.feature_mse.default, (s, t, with_gradient))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_takes_it_whole(dynamic: bool) -> None:
    compiled = torch.compile(
        lambda s, t: feature_mse(s * 2, t) * 3, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for size in (50, 70):
        student, teacher = pair((size,), (torch.float32, torch.bfloat16))
        loss, expected = compiled(student, teacher), feature_mse(student * 2, teacher) * 3
        assert torch.equal(loss, expected)
        assert torch.equal(*(torch.autograd.grad(x, student)[0] for x in (loss, expected)))


def test_a_kept_graph_gives_the_same_gradient_every_time() -> None:
    """The stored gradient is handed over only with the last use; accumulating into it must not change the next."""
    student, teacher = pair((100,), (torch.float32, torch.float32))
    loss = feature_mse(student, teacher)
    for _ in range(3):
        loss.backward(retain_graph=True)
    loss.backward()
    assert student.grad is not None
    expected = run(student, teacher)[1]
    assert torch.equal(student.grad, ((expected + expected) + expected) + expected)


def test_batched_gradients() -> None:
    student, teacher = pair((10,), (torch.float32, torch.float32))
    factors = torch.tensor([1.0, 2.0])
    (batched,) = torch.autograd.grad(feature_mse(student, teacher), student, factors, is_grads_batched=True)
    assert torch.equal(batched, factors[:, None] * run(student, teacher)[1])


def test_no_gradient_is_stored_where_nobody_wants_it() -> None:
    student, teacher = pair((10,), (torch.float32, torch.float32))
    with torch.no_grad():
        assert not feature_mse(student, teacher).requires_grad
    assert not feature_mse(student.detach(), teacher).requires_grad
    assert torch.ops.dna_fast.feature_mse(student.detach(), teacher, False)[1].shape == (0,)


def test_second_derivatives_are_refused() -> None:
    student, teacher = pair((10,), (torch.float32, torch.float32))
    with pytest.raises(RuntimeError, match=r"got create_graph=True; use ops\.reference\.feature_mse"):
        torch.autograd.grad(feature_mse(student, teacher), student, create_graph=True)


def test_backward_without_a_stored_gradient_says_so() -> None:
    student, teacher = pair((10,), (torch.float32, torch.float32))
    loss, _ = torch.ops.dna_fast.feature_mse(student, teacher, False)
    with pytest.raises(
        RuntimeError, match=r"no gradient was stored, with_gradient was False; call dna_fast\.ops\.feature"
    ):
        loss.backward()


# ---- CUDA ------------------------------------------------------------------------------------------------------------


def run_on_cuda(student: Tensor, teacher: Tensor, grad_loss: float = 1.0) -> tuple[Tensor, Tensor]:
    return run(student.detach().cuda().requires_grad_(), teacher.cuda(), grad_loss)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
@pytest.mark.parametrize("numel", SIZES)
def test_cuda_agrees_with_the_cpu(numel: int, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    student, teacher = pair((numel,), dtypes)
    assert_close_to_reference(student.detach().cuda().requires_grad_(), teacher.cuda(), grad_loss=0.37)
    _, gradient = run(student, teacher)
    _, gradient_cuda = run_on_cuda(student, teacher)
    # One difference, one product, one rounding to storage on both sides; float16 is scaled afterwards.
    if dtypes[0] != torch.float16:
        assert torch.equal(gradient_cuda.cpu(), gradient)
    with pytest.raises(ValueError, match=r"one device, got cuda:0 and cpu; call teacher\.to"):
        feature_mse(student.detach().cuda(), teacher)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", MIXTURES, ids=name)
def test_cuda_gives_the_same_bits_wherever_the_memory_begins(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """At an odd element no 16-byte access is possible; twice the same, as no addition depends on who comes first."""
    student, teacher = (x.detach().cuda() for x in pair((40 * 8192 + 5,), dtypes))
    results = [run(student.clone().requires_grad_(), teacher) for _ in range(2)]
    moved = [torch.cat([x[:1], x])[1:] for x in (student, teacher)]
    assert moved[0].data_ptr() % 16 != 0
    results.append(run(moved[0].requires_grad_(), moved[1]))
    results.append(run(student.requires_grad_(), moved[1]))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.gpu
@pytest.mark.parametrize("student_layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("teacher_layout", ["contiguous", "channels_last", "cropped"])
def test_cuda_layouts(student_layout: str, teacher_layout: str) -> None:
    student, teacher = (x.detach().cuda() for x in pair((2, 3, 5, 7), (torch.float32, torch.bfloat16)))
    assert_close_to_reference(LAYOUTS[student_layout](student).requires_grad_(), LAYOUTS[teacher_layout](teacher))


@pytest.mark.gpu
def test_cuda_works_on_the_current_stream() -> None:
    """The operands are made on a stream that is busy; read on another, they would be zeros still."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        student, teacher = torch.zeros(2, 1 << 20, device="cuda")
        torch.cuda._sleep(100_000_000)
        student += 3.0
        teacher += 1.0
        loss, _ = run(student.requires_grad_(), teacher)
    stream.synchronize()
    assert loss.item() == 4.0


# ---- refusals --------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 3)
REFUSED = {
    "shape": (X, torch.zeros(3, 2), ValueError, r"one shape, got \[2, 3\] and \[3, 2\]; nothing is broadcast"),
    "broadcast": (X, torch.zeros(3), ValueError, r"one shape, got \[2, 3\] and \[3\]"),
    "empty": (X[:0], X[:0], ValueError, r"at least one element, got shape \[0, 3\]; .* leave empty batches out"),
    "student dtype": (X.long(), X, TypeError, r"expected float32, .* got Long \(student\); convert it"),
    "teacher dtype": (X, X.to(torch.complex64), TypeError, r"got ComplexFloat \(teacher\); convert it"),
    "float64 teacher": (X, X.double(), TypeError, r"mixes with no other dtype, got student Float and teacher Double"),
    "float64 student": (X.double(), X.half(), TypeError, r"got student Double and teacher Half; convert one"),
    "device": (X, X.to("meta"), ValueError, r"one device, got cpu and meta; call teacher\.to\(student\.device\)"),
    "teacher gradient": (
        X,
        torch.zeros(2, 3, requires_grad=True),
        ValueError,
        r"got requires_grad=True; pass .*detach",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_in_words(case: str) -> None:
    student, teacher, error, match = REFUSED[case]
    with pytest.raises(error, match=f"feature_mse: .*{match}"):
        feature_mse(student, teacher)


def test_tracing_refuses_other_shapes_in_words() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \[2, 3\] and \[3\]"):
        feature_mse(X.to("meta"), torch.zeros(3, device="meta"))


@pytest.mark.parametrize("forced", ["sse9", "AVX2"])
def test_unknown_instruction_set_is_refused_in_words(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", forced)
    with pytest.raises(
        RuntimeError, match=rf'DNA_FAST_FORCE_ISA: expected one of .*scalar on this CPU, got "{forced}"; unset'
    ):
        feature_mse(X, X)


# ---- the compiled module ---------------------------------------------------------------------------------------------


def test_the_module_says_which_torch_it_was_built_with() -> None:
    assert _library.built_with(_library.find()) == torch.__version__


def test_the_module_says_what_it_was_built_for() -> None:
    path = _library.find()
    assert set(isas_without_bf16()) <= set(_library.cpu_kernels(path))
    assert _library.cuda_kernels(path).startswith(("built with nvcc ", "not built, "))


def test_another_torch_is_refused_in_words() -> None:
    _library.check_version(Path("_C.so"), "2.15.0+cu132", "2.15.1+cpu")
    with pytest.raises(
        RuntimeError, match=r"_C\.so: expected a build for torch 2\.16\.0, got one for torch 2\.15\.0; build it again"
    ):
        _library.check_version(Path("_C.so"), "2.15.0", "2.16.0")


def test_a_missing_module_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match=r"dna_fast\._C: expected the compiled torch ops .* --no-build-isolation"):
        _library.find()


def test_a_file_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "_C.so"
    path.write_bytes(b"no library")
    with pytest.raises(
        RuntimeError, match="expected the torch version that it was built with, found none; build it again"
    ):
        _library.built_with(path)
    with pytest.raises(RuntimeError, match="expected the instruction sets that it was built for, found none; build"):
        _library.cpu_kernels(path)
    with pytest.raises(RuntimeError, match="expected whether it was built with CUDA kernels, found none; build"):
        _library.cuda_kernels(path)


def test_a_library_that_does_not_load_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "_C.so"
    path.write_bytes(f"dna_fast._C built with torch {torch.__version__}\0".encode())
    monkeypatch.setattr(_library, "find", lambda: path)
    with pytest.raises(RuntimeError, match=r"expected a library that torch .* loads: .*build it again"):
        _library.load()
