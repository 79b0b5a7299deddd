"""A toy space, teacher and loader for tests of training and rating: small enough for seconds, deep enough for three-layer cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dna_fast.space import Block, Cell, Choice, Frame, SearchSpace
from dna_fast.supernet import Supernet
from dna_fast.teacher import Teacher

FRAME = Frame(stem_channels=6, stem_width=4, head_channels=16, num_classes=4, resolution=16)
SPACE = SearchSpace(
    "toy",
    (Choice(3, 2), Choice(5, 2), Choice(3, 3)),
    (Block(2, (Cell(1, 6), Cell(3, 5))), Block(1, (Cell(3, 8), Cell(2, 10)))),
    FRAME,
)
TEACHER_CHANNELS = (7, 9)


def toy_teacher() -> Teacher:
    """stage0: 16 -> 4 pixels, 7 channels; stage1: 4 pixels, 9 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(11)
        model = nn.Sequential()
        model.add_module("stage0", nn.Sequential(nn.Conv2d(3, 7, 5, stride=4, padding=2), nn.BatchNorm2d(7), nn.SiLU()))
        model.add_module("stage1", nn.Sequential(nn.Conv2d(7, 9, 3, padding=1), nn.BatchNorm2d(9), nn.SiLU()))
        model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4)))
    return Teacher(model, ("stage0", "stage1"), input_size=(3, 16, 16))


def toy_supernet(boundary: str = "adapter", *, padding: str = "symmetric", random_norms: bool = False) -> Supernet:
    """With `random_norms` batch norms scale and shift, as after training; initially they do neither."""
    space = replace(SPACE, frame=replace(FRAME, padding=padding))
    supernet = Supernet(space, TEACHER_CHANNELS, boundary=boundary, bn_group=8, seed=0)
    if random_norms:
        generator = torch.Generator().manual_seed(7)
        for norm in supernet.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator)
                nn.init.uniform_(norm.bias, -0.5, 0.5, generator)
    return supernet


@dataclass(frozen=True)
class ToyBatch:
    images: Tensor


class ToyLoader:
    """Random images; batch `i` of epoch `e` is a function of (seed, e, i) when shuffled, of i alone otherwise."""

    def __init__(self, sizes: list[int], *, seed: int = 0, shuffled: bool = False) -> None:
        self.batch_size, self.sizes, self.seed, self.shuffled = sizes[0], sizes, seed, shuffled

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for i, size in enumerate(self.sizes[start_batch:], start=start_batch):
            key = self.seed * 1_000_003 + i + (1009 * epoch if self.shuffled else 0)
            images = torch.randn(size, 3, 16, 16, generator=torch.Generator().manual_seed(key))
            yield ToyBatch(images.contiguous(memory_format=torch.channels_last))
