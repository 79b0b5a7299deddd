"""feature_mse, forward and backward, against eager torch: the loss of one training step of one cell.

Each case is checked against the float64 reference before it is timed. Tensors are larger than the last-level cache where
training's are; whatever the previous round left in it is warm for both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from dna_fast.ops import feature_mse, reference

# [N, C, H, W] of features at block borders, EfficientNet-B7 at 224, batch 64: the largest and the smallest; and the demo's.
SHAPES = {"b7-block0": (64, 48, 56, 56), "b7-block5": (64, 640, 7, 7), "digits": (64, 24, 7, 7)}
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16-float32": (torch.bfloat16, torch.float32),
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": feature_mse,
    "eager": F.mse_loss,  # same dtype only
    "eager-float": lambda student, teacher: F.mse_loss(student.float(), teacher.float()),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient(benchmark: BenchmarkFixture, shape: str, dtypes: str, loss: str) -> None:
    student_dtype, teacher_dtype = DTYPES[dtypes]
    if loss == "eager" and student_dtype != teacher_dtype:
        pytest.skip("F.mse_loss takes no mixture")
    if loss == "eager-float" and dtypes == "float32":
        pytest.skip("the same as eager")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(SHAPES[shape], generator=generator).contiguous(memory_format=torch.channels_last).to(dtype)
        for dtype in (student_dtype, teacher_dtype)
    )
    student.requires_grad_()
    compute = LOSSES[loss]

    def step() -> tuple[Tensor, Tensor]:
        value = compute(student, teacher)
        return value, torch.autograd.grad(value, student)[0]

    value, gradient = step()
    exact = student.detach().double().requires_grad_()
    expected = reference.feature_mse(exact, teacher.double())
    # Eager rounds a bfloat16 loss to bfloat16; gradients are rounded to the student's dtype by all.
    torch.testing.assert_close(value.double(), expected.detach(), rtol=2.0**-7 if loss == "eager" else 1e-5, atol=0)
    expected_gradient = torch.autograd.grad(expected, exact)[0]
    precision = 2.0**-7 if student_dtype == torch.bfloat16 else 2.0**-21
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=precision, atol=precision * scale)

    benchmark.group = f"feature_mse {shape} {dtypes}"
    # Both read and one gradient written, the least that any of them moves.
    benchmark.extra_info["bytes"] = student.numel() * (2 * student.element_size() + teacher.element_size())
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark(step)
