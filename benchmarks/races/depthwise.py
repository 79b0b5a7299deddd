"""A depthwise convolution and both of its gradients: ours against torch's own, with both allocators.

Request: layer (channels, size, kernel, stride), batch, dtypes, passes (of PASSES), ways (of WAYS), threads, pace (Pace's fields).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.race import Contestant, Pace, keep_freed_memory, race
from dna_fast.ops import reference

SEED = 0
# A float32 sum's part of 4096 pixels is the longest; errors of random summands grow with the root of their number.
SUM_ERROR = 64 * 2.0**-24
STORAGE = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Problem:
    """x [N, C, H, H], the weight as a training step keeps it (float32), and the gradient of the result."""

    x: Tensor
    weight: Tensor
    gradient: Tensor
    stride: int

    @property
    def half(self) -> int:
        return self.weight.shape[2] // 2

    def as_opponents_take_it(self, memory_format: torch.memory_format, dtype: torch.dtype) -> Problem:
        """In their layout and dtype; torch wants one dtype for all three."""
        x, gradient = (t.to(dtype).contiguous(memory_format=memory_format) for t in (self.x, self.gradient))
        return Problem(x, self.weight.to(dtype), gradient, self.stride)


def _ours(p: Problem, wanted: str) -> Tensor:
    padding = [p.half] * 4
    if wanted == "forward":
        y: Tensor = torch.ops.dna_fast.depthwise_conv2d(p.x, p.weight, p.stride, padding)
        return y
    of_x = wanted == "input"
    gradients: tuple[Tensor, Tensor] = torch.ops.dna_fast.depthwise_conv2d_backward(
        p.gradient, p.x, p.weight, p.stride, padding, of_x, not of_x
    )
    return gradients[not of_x]


def _torch(p: Problem, wanted: str) -> Tensor:
    stride, half, groups = [p.stride] * 2, [p.half] * 2, len(p.weight)
    if wanted == "forward":
        return torch.convolution(p.x, p.weight, None, stride, half, [1, 1], False, [0, 0], groups)
    mask = [wanted == "input", wanted == "weight", False]
    gradients = torch.ops.aten.convolution_backward(
        p.gradient, p.x, p.weight, None, stride, half, [1, 1], False, [0, 0], groups, mask
    )
    answer: Tensor = gradients[wanted == "weight"]
    return answer


PASSES = ("forward", "input", "weight")  # the result, the gradient of x, the gradient of the weight
WAYS: dict[str, tuple[Callable[[Problem, str], Tensor], torch.memory_format]] = {
    "ours": (_ours, torch.channels_last),
    "torch": (_torch, torch.channels_last),
    "torch-nchw": (_torch, torch.contiguous_format),
}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant, which is one pass of one way in one dtype, its times."""
    torch.set_num_threads(request["threads"])
    runs = list(_runs(request))
    entries = []
    for allocator in ("default", "tuned"):
        if allocator == "tuned":
            keep_freed_memory()
        contestants = [Contestant({**fields, "allocator": allocator}, run, check) for fields, run, check in runs]
        entries += race(contestants, Pace(**request["pace"]))
    return {"entries": entries, "facts": {}}


def _runs(request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """(fields, run, check) of every contestant but for the allocator."""
    for name in request["dtypes"]:
        problem = _problem(request["layer"], request["batch"], getattr(torch, name))
        expected, scales = _expected(problem), _expected(_magnitudes(problem))
        for way in request["ways"]:
            run, memory_format = WAYS[way]
            given = problem if way == "ours" else problem.as_opponents_take_it(memory_format, problem.x.dtype)
            for wanted in request["passes"]:
                check = partial(
                    _check, expected=expected[wanted], scale=scales[wanted], storage=STORAGE[problem.x.dtype]
                )
                yield {"way": way, "dtype": name, "pass": wanted}, partial(run, given, wanted), check


def _problem(layer: dict[str, int], batch: int, dtype: torch.dtype) -> Problem:
    generator = torch.Generator().manual_seed(SEED)
    channels, size, kernel, stride = (layer[name] for name in ("channels", "size", "kernel", "stride"))

    def images(side: int) -> Tensor:
        t = torch.randn(batch, channels, side, side, generator=generator)
        return t.to(dtype).contiguous(memory_format=torch.channels_last)

    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    return Problem(images(size), weight, images(-(-size // stride)), stride)


def _magnitudes(p: Problem) -> Problem:
    return Problem(p.x.abs(), p.weight.abs(), p.gradient.abs(), p.stride)


def _expected(p: Problem) -> dict[str, Tensor]:
    """All three passes in float64."""
    x, weight = (t.double().requires_grad_() for t in (p.x, p.weight))
    y = reference.depthwise_conv2d(x, weight, p.stride, (p.half,) * 4)
    gradients = torch.autograd.grad(y, (x, weight), p.gradient.double())
    return dict(zip(PASSES, (y.detach(), *gradients), strict=True))


def _check(answer: Tensor, *, expected: Tensor, scale: Tensor, storage: float) -> dict[str, Any]:
    """Within what summing and storing loses of the summands' magnitudes; torch rounds bfloat16 weights as well."""
    relative = ((answer.double() - expected).abs() / scale.clamp(min=1e-30)).max().item()
    limit = SUM_ERROR + 2 * storage
    assert relative <= limit, f"error {relative:.3g} of the summands' magnitudes, at most {limit:.3g} expected"
    return {"error": relative}
