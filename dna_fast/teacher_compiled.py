"""A teacher's pass through torch.compile: one static graph per block, for batches of one size.

Students are drawn anew in every step, which would be a graph for each combination of operators: they are not compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.teacher import Teacher
from dna_fast.teacher_fused import freeze
from dna_fast.teacher_segments import TeacherSegments


class CompiledTeacher:
    """What `Teacher` does, compiled block by block, up to rounding.

    The first batch's size, dtype and device are those that are compiled for; batches of another size (a last, smaller one) run as in
    the teacher itself, so that nothing is ever compiled again. Weights must not change any more.

    On a GPU the graphs are replayed into the same memory: features are valid until the next call, as long as a training step
    uses them. On the CPU they are tensors of their own.

    Args:
        teacher: stays as it is; its modules are shared.

    Raises:
        ValueError: bn="batch", or a teacher that cannot be run block by block; the message says where.
    """

    def __init__(self, teacher: Teacher) -> None:
        if teacher.bn == "batch":
            raise ValueError("teacher.compile: needs teacher.bn: eval, got batch; set one of them to its default")
        try:
            segments = TeacherSegments(teacher)
        except ValueError as error:
            raise ValueError(f"teacher.compile: {error}; set teacher.compile to false") from error
        self.teacher = teacher
        freeze(teacher.model)
        self._is_cuda = next(teacher.parameters()).device.type == "cuda"
        mode = (
            "reduce-overhead" if self._is_cuda else None
        )  # there CUDA graphs: shapes are static, and launches are what costs
        self._blocks: list[Any] = [
            torch.compile(_Segment(steps), fullgraph=True, dynamic=False, mode=mode) for steps in segments.steps
        ]
        self._shape: torch.Size | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `Teacher.forward`, features channels-last.

        Raises:
            ValueError: images of another size than the teacher's.
            RuntimeError: torch.compile failed, for want of a compiler for instance.
        """
        if self._shape is None:
            x = images.contiguous(memory_format=torch.channels_last)
            self.teacher(x[:1])  # says what is wrong with images in the teacher's own words
            try:
                features = self._run(x)
            except Exception as error:  # inductor and dynamo raise classes of their own, of many parents
                raise RuntimeError(
                    f"teacher.compile: torch.compile failed ({type(error).__name__}: {str(error).strip()[:500]}); it needs a "
                    "C++ compiler on the CPU and triton on a GPU; install it, or set teacher.compile to false"
                ) from error
            self._shape = images.shape
            return features
        if images.shape != self._shape:
            return self.teacher(images)  # type: ignore[no-any-return]
        return self._run(images.contiguous(memory_format=torch.channels_last))

    def _run(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._is_cuda:
            # From here what the last call returned may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        features = []
        for block in self._blocks:
            x = block(x)
            features.append(x)
        return tuple(features)


class _Segment(nn.Module):
    """The modules of one block, one after the other."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x.contiguous(memory_format=torch.channels_last)
