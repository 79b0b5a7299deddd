"""A teacher block by block: each from the feature behind the one before, so that several ranks can share one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dna_fast.teacher import Teacher


@dataclass
class _Call:
    """What a module was called with and returned in a pass, and the calls inside it."""

    module: nn.Module
    inputs: tuple[Any, ...]
    is_plain: bool  # one tensor and nothing else went in
    output: Any = None
    inner: list[_Call] = field(default_factory=list)


class TeacherSegments:
    """The blocks of a teacher as chains of its modules.

    A teacher can be run so where, between two cuts, each module reads the output of the one before and nothing else (as timm's
    convolutional networks do); whether the features come out the same, to the last bit, is checked on one image.

    Args:
        teacher: stays as it is; its modules are shared.

    Raises:
        ValueError: it cannot be run block by block; the message says where.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        calls = _recorded(teacher)
        cuts = [teacher.model.get_submodule(name) for name in teacher.plan.names]
        steps, ends = _chain(calls, set(cuts)), []
        for name, cut in zip(teacher.plan.names, cuts, strict=True):
            if cut not in steps:
                raise ValueError(f"the teacher cannot be run block by block: {name} is not part of a chain of modules")
            ends.append(steps.index(cut) + 1)
        self.steps = [steps[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._check()

    @torch.no_grad()
    def run(self, block: int, x: Tensor) -> Tensor:
        """The feature behind a block [N, C, H, W] of that before it (block 0: the images)."""
        self.teacher._keep_mode()
        for module in self.steps[block]:
            x = module(x)
        return x

    def features(self, blocks: Sequence[int], x: Tensor) -> list[Tensor]:
        """The features behind consecutive blocks, channels-last, of that before the first of them."""
        found = []
        for block in blocks:
            x = self.run(block, x)
            found.append(x.contiguous(memory_format=torch.channels_last))
        return found

    def _check(self) -> None:
        images = _image(self.teacher)
        alone = [images]
        try:
            for block in range(len(self.steps)):
                alone += self.features([block], alone[-1])
        except Exception as error:  # whatever a module says to something that it was not made for
            raise ValueError(f"the teacher cannot be run block by block: {error}") from error
        for name, mine, whole in zip(self.teacher.plan.names, alone[1:], self.teacher(images), strict=True):
            if not torch.equal(mine, whole):
                raise ValueError(
                    f"the teacher cannot be run block by block: behind {name} that gives another feature than the whole pass"
                )


def _image(teacher: Teacher) -> Tensor:
    parameter = next(p for p in teacher.model.parameters() if p.is_floating_point())
    # Two, for a teacher whose batch norms use the batch's statistics.
    images = torch.randn((2, *teacher.input_size), generator=torch.Generator().manual_seed(0))
    return images.to(parameter.device, parameter.dtype).contiguous(memory_format=torch.channels_last)


def _recorded(teacher: Teacher) -> _Call:
    """The calls of one pass, as a tree."""
    own = set(teacher.model.modules())
    open_calls: list[_Call] = []
    root: list[_Call] = []

    # Hooks on all modules, not on these: a fused layer with a hook inside would not run fused.
    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module in own:
            call = _Call(module, args, len(args) == 1 and isinstance(args[0], Tensor))
            (open_calls[-1].inner if open_calls else root).append(call)
            open_calls.append(call)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if open_calls and open_calls[-1].module is module:
            open_calls.pop().output = output

    handles: list[Any] = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        teacher.logits(_image(teacher))
    finally:
        for handle in handles:
            handle.remove()
    return root[0]


def _chain(call: _Call, cuts: set[nn.Module]) -> list[nn.Module]:
    """Modules to call one after the other instead of `call`, as far as the last cut, such that every cut is one of them or at
    the end of one; those inside which there is no cut stay whole."""
    has_cut: Callable[[_Call], bool] = lambda c: any(i.module in cuts or has_cut(i) for i in c.inner)  # noqa: E731
    if not has_cut(call):
        return [call.module]
    steps: list[nn.Module] = []
    at = call.inputs[0] if call.is_plain else None
    for inner in call.inner:
        if inner.is_plain and inner.inputs[0] is at:
            steps += _chain(inner, cuts)
            at = inner.output
    return steps
