"""A teacher block by block gives the bits of a whole pass, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from toy import toy_teacher

from dna_fast.teacher import Teacher, build_efficientnet, propose_cuts
from dna_fast.teacher_segments import TeacherSegments


def _efficientnet() -> Teacher:
    arch = [["ds_r1_k3_s1_c8_se0.25"], ["ir_r2_k3_s2_e3_c12_se0.25"], ["ir_r2_k5_s1_e3_c16"]]
    model = build_efficientnet(arch, stem_size=8, num_features=16, num_classes=4)
    return Teacher(model.to(memory_format=torch.channels_last), ("blocks.1", "blocks.2"), input_size=(3, 32, 32))


def _timm(name: str) -> Callable[[], Teacher]:
    def make() -> Teacher:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = timm.create_model(name, num_classes=4)
        return Teacher(model, propose_cuts(model, 3, (3, 64, 64)), input_size=(3, 64, 64))

    return make


TEACHERS = {
    "sequential": toy_teacher,
    "efficientnet, fused": _efficientnet,
    "batch statistics": lambda: Teacher(
        _efficientnet().model, ("blocks.0", "blocks.2"), input_size=(3, 32, 32), bn="batch"
    ),
    "resnet": _timm("resnet10t"),
    "regnet": _timm("regnetx_002"),
    "convnext": _timm("convnext_atto"),
}


@pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS)
def test_block_by_block_the_bits_are_those_of_a_whole_pass(make: Callable[[], Teacher]) -> None:
    teacher = make()
    segments = TeacherSegments(teacher)
    images = torch.randn((3, *teacher.input_size), generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    x = images
    for block, whole in enumerate(teacher(images)):
        (x,) = segments.features([block], x)
        assert torch.equal(x, whole), block
    assert all(steps for steps in segments.steps)


class _Skipping(nn.Module):
    """The second stage also sees the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + x)  # type: ignore[no-any-return]


def test_a_teacher_that_skips_a_cut_is_refused() -> None:
    teacher = Teacher(_Skipping(), ("first", "second"), input_size=(3, 8, 8))
    with pytest.raises(ValueError, match="cannot be run block by block: second is not part of a chain"):
        TeacherSegments(teacher)


class _Scaled(nn.Module):
    """Between its modules, something that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        self.last = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        torch._foreach_mul_([y], 2.0)  # in place: the same tensor, other values
        return self.last(y)  # type: ignore[no-any-return]


def test_a_teacher_whose_features_would_differ_is_refused() -> None:
    teacher = Teacher(_Scaled(), ("inner.0", "last"), input_size=(3, 8, 8))
    with pytest.raises(ValueError, match="cannot be run block by block: behind last that gives another feature"):
        TeacherSegments(teacher)
