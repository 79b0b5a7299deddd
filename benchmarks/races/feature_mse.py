"""feature_mse, forward and backward: ours against eager torch and torch.compile, with both allocators.

Request: shape ([N, C, H, W]), student and teacher (dtypes), ways, threads, pace (Pace's fields).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.race import Contestant, Pace, keep_freed_memory, race
from benchmarks.roofs import copy_bytes_per_s
from dna_fast.ops import feature_mse, reference

SEED = 0
Step = tuple[Tensor, Tensor]  # loss, the student's gradient


def _in_float(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student.float(), teacher.float())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": feature_mse,
    "eager": F.mse_loss,  # one dtype only
    "eager-float": _in_float,
    "compile": _in_float,
}


def exists(way: str, student: str, teacher: str) -> bool:
    """Whether the way takes these dtypes and is not the same as another."""
    if way == "eager":
        return student == teacher
    return way != "eager-float" or (student, teacher) != ("float32", "float32")


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant its times; the least bytes that any of them moves, and what a copy moves per second."""
    torch.set_num_threads(request["threads"])
    dtypes = request["student"], request["teacher"]
    generator = torch.Generator().manual_seed(SEED)
    student, teacher = (
        torch.randn(request["shape"], generator=generator)
        .contiguous(memory_format=torch.channels_last)
        .to(getattr(torch, name))
        for name in dtypes
    )
    student.requires_grad_()
    entrants = []
    for way in request["ways"]:
        if exists(way, *dtypes):
            loss = torch.compile(LOSSES[way], fullgraph=True, dynamic=False) if way == "compile" else LOSSES[way]
            check = partial(_check, student=student, teacher=teacher, rounds_loss=way == "eager")
            entrants.append((way, partial(_step, loss, student, teacher), check))
    entries = []
    for allocator in ("default", "tuned"):
        if allocator == "tuned":
            keep_freed_memory()
        fields = {"dtype": dtypes[0], "allocator": allocator}
        contestants = [Contestant({"way": way, **fields}, run, check) for way, run, check in entrants]
        entries += race(contestants, Pace(**request["pace"]))
    least_bytes = student.numel() * (2 * student.element_size() + teacher.element_size())
    return {"entries": entries, "facts": {"least_bytes": least_bytes, "copy_bytes_per_s": copy_bytes_per_s()}}


def _step(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Step:
    value = loss(student, teacher)
    return value, torch.autograd.grad(value, student)[0]


def _check(answer: Step, *, student: Tensor, teacher: Tensor, rounds_loss: bool) -> dict[str, Any]:
    """Against float64. Eager rounds a bfloat16 loss to bfloat16; gradients are rounded to the student's dtype by all."""
    value, gradient = answer
    exact = student.detach().double().requires_grad_()
    expected = reference.feature_mse(exact, teacher.double())
    expected_gradient = torch.autograd.grad(expected, exact)[0]
    low = student.dtype == torch.bfloat16
    torch.testing.assert_close(value.double(), expected.detach(), rtol=2.0**-7 if rounds_loss and low else 1e-5, atol=0)
    precision = 2.0**-7 if low else 2.0**-21
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=precision, atol=precision * scale)
    return {"error": (gradient.double() - expected_gradient).abs().max().item() / scale}
