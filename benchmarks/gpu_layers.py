"""The CUDA kernels against plain PyTorch and torch.compile on one GPU, each answer checked before it is timed.

    python -m benchmarks.gpu_layers FILE [SECONDS]

Writes FILE after every case, so that a run that is cut off has what it got. Layers are those of docs/benchmarks.md's table: the
16-cell space at both ends of its operators, 1,024 images, bfloat16; then feature_mse. Times are medians over turns of the time
between two events around many calls; caches are as the call before left them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.ops import Affine, MBConvShape, MBConvWeights, feature_mse, mbconv, reference

IMAGES = 1024
LAYERS = ((16, 24, 2, 112), (24, 24, 1, 56), (40, 40, 1, 28), (80, 80, 1, 14), (112, 112, 1, 14), (192, 192, 1, 7))
OPERATORS = ((3, 3), (6, 7))  # expansion, kernel
FEATURES = ((256, 24, 56, 56), (256, 80, 14, 14), (1024, 192, 7, 7))
DTYPES = ((torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32))
TURNS, TURN_S = 7, 0.05
MOST_ERROR = 0.05  # of an opponent: some roundings to 8 bits, added up


def main(path: Path, seconds: float) -> int:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    deadline = time.monotonic() + seconds
    record: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy": _copy_speed(),
        "cases": [],
    }
    # What costs little first: compiling takes most of the time, and may not find any.
    cases = [*_feature_cases(), *_layer_cases(compiled=False), *_layer_cases(compiled=True)]
    for case in cases:
        if time.monotonic() > deadline:
            record["left_out"] = "cases behind the time limit"
            break
        try:
            record["cases"].append(case())
        except Exception as error:
            record["cases"].append({"error": f"{type(error).__name__}: {error}"})
        path.write_text(json.dumps(record, indent=1) + "\n")
    return int(any("error" in case for case in record["cases"]))


# ---- layers ---------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The layer in plain PyTorch: convolutions with batch norm folded in, as an inference engine would have it."""

    def __init__(self, layer: reference.MBConvLayer, norms: list[tuple[Tensor, Tensor]], kernel: int) -> None:
        super().__init__()
        assert layer.conv_pw is not None
        weights = (layer.conv_pw, layer.conv_dw, layer.conv_pwl)
        self.convs = nn.ModuleList()
        for weight, (scale, shift) in zip(weights, norms, strict=True):
            is_depthwise = weight is layer.conv_dw
            conv = nn.Conv2d(
                len(weight) if is_depthwise else weight.shape[1],
                len(weight),
                kernel if is_depthwise else 1,
                layer.stride if is_depthwise else 1,
                kernel // 2 if is_depthwise else 0,
                groups=len(weight) if is_depthwise else 1,
            )
            conv.weight.data = weight * scale[0][:, None, None, None]
            assert conv.bias is not None
            conv.bias.data = shift[0]
            self.convs.append(conv)
        self.se = nn.ModuleList()
        for weight, bias in zip(layer.se[::2], layer.se[1::2], strict=True):
            conv = nn.Conv2d(weight.shape[1], len(weight), 1)
            conv.weight.data, conv.bias = weight, nn.Parameter(bias)
            self.se.append(conv)
        self.has_residual = layer.has_residual

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        h = silu(self.convs[1](silu(self.convs[0](x))))
        h = h * self.se[1](silu(self.se[0](h.mean((2, 3), keepdim=True)))).sigmoid()
        y: Tensor = self.convs[2](h)
        return y + x if self.has_residual else y


def _layer_cases(*, compiled: bool) -> Iterator[Callable[[], dict[str, Any]]]:
    for sizes in LAYERS:
        for operator in OPERATORS:
            yield partial(layer_case, sizes, operator, IMAGES, torch.device("cuda"), compiled=compiled)


@torch.no_grad()
def layer_case(
    sizes: tuple[int, int, int, int], operator: tuple[int, int], images: int, device: torch.device, *, compiled: bool
) -> dict[str, Any]:
    """One layer in bfloat16: checked, then timed against plain PyTorch or against torch.compile.

    Args:
        sizes: channels in and out, stride, rows and columns.
        operator: expansion, kernel.

    Raises:
        ValueError: our answer is further from float64 than twice the opponent's.
    """
    (inputs, outputs, stride, size), (expansion, kernel) = sizes, operator
    mid, squeezed = inputs * expansion, max(inputs // 4, 1)
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    conv_pw, conv_dw = randn(mid, inputs, 1, 1) / inputs**0.5, randn(mid, 1, kernel, kernel) / kernel
    conv_pwl = randn(outputs, mid, 1, 1) / mid**0.5
    se = (randn(squeezed, mid, 1, 1) / mid**0.5, randn(squeezed), randn(mid, squeezed, 1, 1), randn(mid))
    has_residual = inputs == outputs and stride == 1
    layer = reference.MBConvLayer(conv_pw, conv_dw, conv_pwl, se, stride, has_residual=has_residual)
    norms = [(1 + 0.1 * randn(1, c), 0.1 * randn(1, c)) for c in (mid, mid, outputs)]
    shape = MBConvShape(inputs, mid, outputs, kernel, stride, squeezed, has_residual=has_residual)
    dtype = torch.bfloat16
    x = randn(images, inputs, size, size).to(device, dtype).contiguous(memory_format=torch.channels_last)
    convs = (conv_pw.to(device), conv_dw.to(device), conv_pwl.to(device))
    weights = MBConvWeights.pack(shape, *convs, [w.to(device) for w in se], dtype)
    affine = [Affine(scale.to(device), shift.to(device)) for scale, shift in norms]
    plain = Plain(layer, norms, kernel).to(device, dtype).to(memory_format=torch.channels_last).eval()

    exact_norms = [(scale.double(), shift.double()) for scale, shift in norms]
    fast: Callable[[Tensor], Tensor] = torch.compile(plain, mode="max-autotune") if compiled else plain
    rival = "compile" if compiled else "eager"
    ways: dict[str, Callable[[], Tensor]] = {"ours": lambda: mbconv(x, weights, affine), rival: lambda: fast(x)}
    # Of the very calls that are timed, images at both ends, where slices may meet, and some between.
    picks = sorted({round(i * (images - 1) / 8) for i in range(9)})
    exact = reference.mbconv(x[picks].double().cpu(), _double(layer), exact_norms)
    errors = {name: _error(way()[picks], exact) for name, way in ways.items()}
    if not errors["ours"] <= 2 * errors[rival] or not errors[rival] < MOST_ERROR:
        raise ValueError(f"wrong: error {errors['ours']:.3g} where {rival} has {errors[rival]:.3g}")
    return {
        "case": f"mbconv {inputs}->{outputs} s{stride} @{size} e{expansion}k{kernel}, {images} images, bfloat16",
        "errors": errors,
        "us": {name: 1e6 * seconds for name, seconds in _race(ways, device).items()},
    }


def _double(layer: reference.MBConvLayer) -> reference.MBConvLayer:
    assert layer.conv_pw is not None
    weights = (layer.conv_pw.double(), layer.conv_dw.double(), layer.conv_pwl.double())
    return reference.MBConvLayer(
        *weights, [w.double() for w in layer.se], layer.stride, has_residual=layer.has_residual
    )


def _error(y: Tensor, exact: Tensor) -> float:
    return float((y.double().cpu() - exact).norm() / exact.norm())


# ---- the training loss ----------------------------------------------------------------------------------------------


def _feature_cases() -> Iterator[Callable[[], dict[str, Any]]]:
    for size in FEATURES:
        for dtypes in DTYPES:
            yield partial(feature_case, size, dtypes, torch.device("cuda"))


def feature_case(
    size: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], device: torch.device
) -> dict[str, Any]:
    """The loss of a student's features against a teacher's, forward and backward, checked and then timed.

    Raises:
        ValueError: a wrong value.
    """
    student_dtype, teacher_dtype = dtypes
    student = torch.randn(size, device=device).to(student_dtype).contiguous(memory_format=torch.channels_last)
    teacher = torch.randn(size, device=device).to(teacher_dtype).contiguous(memory_format=torch.channels_last)
    student.requires_grad_(True)
    exact = (student.detach().double() - teacher.double()).square().mean()

    def run(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        student.grad = None
        value = loss(student, teacher)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def eager(s: Tensor, t: Tensor) -> Tensor:
        return nn.functional.mse_loss(s.float(), t.float())

    error = float((run(feature_mse).double() - exact).abs() / exact)
    if not error < 1e-4:
        raise ValueError(f"wrong: relative error {error:.3g}")
    moved = student.numel() * (2 * student.element_size() + teacher.element_size())
    seconds = _race({"ours": lambda: run(feature_mse), "eager": lambda: run(eager)}, device)
    return {
        "case": f"feature_mse {size} {student_dtype} against {teacher_dtype}, forward and backward",
        "errors": {"ours": error},
        "us": {name: 1e6 * s for name, s in seconds.items()},
        "bytes": moved,
        "bytes_per_s": {name: moved / s for name, s in seconds.items()},
    }


# ---- time -----------------------------------------------------------------------------------------------------------


def _race(ways: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Median seconds of a call, in turns."""
    counts = {}
    for name, way in ways.items():
        for _ in range(3):  # tunes, compiles, captures
            way()
        counts[name] = max(1, int(TURN_S / _seconds(way, 3, device)))
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            samples[name].append(_seconds(way, counts[name], device))
    return {name: statistics.median(values) for name, values in samples.items()}


def _seconds(way: Callable[[], Any], count: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            way()
        return (time.perf_counter() - start) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        way()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / count


def _copy_speed() -> float:
    """Bytes read and written per second by a copy of 1 GiB."""
    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.numel() / _race({"copy": lambda: y.copy_(x)}, x.device)["copy"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 300.0))
