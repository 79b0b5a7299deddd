"""Mean squared error between features, the supernet's training loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dna_fast.ops import _library  # noqa: F401  (registers the operator that everything below extends)


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of (student - teacher)^2; the student's gradient is computed from the same read of both.

    Args:
        student: any shape; float32, bfloat16, float16 (in any mixture with the teacher's) or float64.
        teacher: the same shape and device; takes no gradient; float64 if and only if the student is.

    Returns:
        A scalar, float32 (float64 for float64).

    Both are read as they lie where they have one dense layout (contiguous, channels-last, any permutation). Elsewhere the
    student's layout wins and the teacher is copied into it; a student with gaps is copied, too.

    On the CPU sums are float32 over 8192 elements and float64 above (all float64 for float64), in an order that depends on
    the number of elements only: the bits depend neither on the number of threads nor on the instruction set. The difference
    is kept in the student's dtype for the backward pass, which can be taken once, not differentiated. On CUDA a kernel
    computes the same in another fixed order; in a build without CUDA kernels, torch's own operators do (`dna-fast info`).

    Raises:
        ValueError: shapes or devices differ, no elements, a teacher that requires a gradient.
        TypeError: another dtype, float64 on one side only.
    """
    recording = torch.is_grad_enabled()
    if recording and teacher.requires_grad:
        raise ValueError(
            "feature_mse: expected a teacher without gradient, got requires_grad=True; pass teacher.detach()"
        )
    loss, _ = torch.ops.dna_fast.feature_mse.default(student, teacher, recording and student.requires_grad)
    return loss


@torch.library.register_fake("dna_fast::feature_mse")  # type: ignore[untyped-decorator]
def _fake(student: Tensor, teacher: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    if student.device != teacher.device:
        raise ValueError(
            f"feature_mse: student and teacher must be on one device, got {student.device} and {teacher.device}; "
            "call teacher.to(student.device)"
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f"feature_mse: student and teacher must have one shape, got {list(student.shape)} and {list(teacher.shape)}; "
            "nothing is broadcast, expand or adapt one of them"
        )
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    gradient = torch.empty_like(student) if with_gradient else student.new_empty(0)
    return student.new_empty((), dtype=dtype), gradient


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    student, _, ctx.with_gradient = inputs
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.set_materialize_grads(False)  # or each backward pass would fill a tensor of zeros for `gradient`
    # float16 holds the bare difference, see gradient_scale() in feature_mse_torch.cpp.
    ctx.scale = 2.0 / student.numel() if student.dtype == torch.float16 else 1.0
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
    if grad_loss is None:
        return None, None, None
    if torch.is_grad_enabled():  # create_graph: what is stored no longer depends on the student, and would say zero
        raise RuntimeError(
            "feature_mse: expected a first derivative, got create_graph=True; use ops.reference.feature_mse"
        )
    if not ctx.with_gradient:
        raise RuntimeError(
            "feature_mse: no gradient was stored, with_gradient was False; call dna_fast.ops.feature_mse"
        )
    (gradient,) = ctx.saved_tensors
    if ctx.scale == 1.0 and _may_hand_over(grad_loss):
        return gradient, None, None
    # Computed in float32 and rounded once to the student's dtype. On the CPU a product with a float32 scalar is that; on a GPU
    # torch would round the scalar first, and what is left of 2 / numel in float16 may be nothing.
    factor = grad_loss * ctx.scale
    if gradient.device.type == "cpu" or gradient.dtype in (torch.float32, torch.float64):
        return gradient * factor, None, None
    return (gradient.float() * factor).to(gradient.dtype), None, None


def _may_hand_over(grad_loss: Tensor) -> bool:
    """Whether the stored gradient is the answer itself, which saves a pass over memory.

    It must be the last use of the graph, as whoever receives a gradient may accumulate into it. On a GPU, and while a
    transformation traces, the value of grad_loss is not to be asked for.
    """
    if type(grad_loss) is not Tensor or grad_loss.device.type != "cpu":
        return False
    if torch._C._autograd._get_current_graph_task_keep_graph():
        return False
    try:
        return grad_loss.item() == 1.0
    except RuntimeError:  # under vmap it is many values
        return False


torch.library.register_autograd("dna_fast::feature_mse", _backward, setup_context=_setup_context)
