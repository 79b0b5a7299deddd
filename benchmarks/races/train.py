"""A training step of every cell of a space behind EfficientNet's features: ours, the parts of the gain, the released recipe.

Request: model (timm name), space (preset), boundary, batch, dtypes, threads, pace (Pace's fields).

Ways: "released" and "tuned" train one cell each (field cell), behind a teacher pass of their own: as the code was published (channels
first, the allocator as it comes), and channels-last with an allocator that keeps freed memory and huge pages. "shared" puts the same
cells behind one plain teacher pass; "teacher", "students", "loss" and "ours" add our fused teacher, our supernet, our loss, and torch's
fused Adam, one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines_torch import settle_norms
from benchmarks.baselines_training import PlainCell, PlainTeacher, PlainTraining, specs_of
from benchmarks.race import Contestant, Pace, keep_freed_memory, race
from benchmarks.races.teacher import Trunk
from dna_fast.config import TrainConfig
from dna_fast.cost import layer_cost, stem_cost
from dna_fast.memory import ask_for_huge_pages
from dna_fast.ops import feature_mse
from dna_fast.space import SearchSpace, preset
from dna_fast.supernet import StudentBlock, Supernet, sample_paths
from dna_fast.teacher import Teacher
from dna_fast.train import Problem, Trainer
from dna_fast.train_step import adam

SEED, LR, WEIGHT_DECAY = 0, 1e-3, 1e-4
RESIDUAL_SCALE = 0.2  # as in races/teacher.py
STEPS_LOOKED_AT = 200  # among which the one whose paths are of average work is chosen
BACKWARD = 2  # macs of a backward pass, in forward passes: a gradient of the input and one of the weights
PARTS = ("shared", "teacher", "students", "loss", "ours")

# Of a cell's loss: twice the relative error of features behind 55 random layers, which races/teacher.py finds below 1e-5 in float32
# and 2e-2 in bfloat16, and as much again for the student's own.
TOLERANCES = {"float32": 4e-5, "bfloat16": 8e-2}


@dataclass(frozen=True)
class Job:
    """What all contestants train, from the same weights on the same images along the same paths."""

    model: Any  # timm's, channels-last, in evaluation mode
    teacher: Teacher  # plain PyTorch, over a copy of it
    supernet: Supernet
    images: Tensor
    step: int  # draws the paths

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(block, cell) of all."""
        return [(b, c) for b, block in enumerate(self.supernet.space.blocks) for c in range(len(block.cells))]

    def path(self, block: int, cell: int) -> tuple[int, ...]:
        return sample_paths(self.supernet.space, seed=SEED, step=self.step, block=block)[cell]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant its times and how far its losses are from float64's; the work of ours and of the released recipe."""
    tuned = request["allocator"] == "tuned"
    if tuned:  # as the package's commands do
        ask_for_huge_pages()
        keep_freed_memory()
    torch.set_num_threads(request["threads"])
    space, pace = preset(request["space"]), Pace(**request["pace"])
    job = job_of(request["model"], space, request["boundary"], request["batch"])
    expected, entries = exact_losses(job), []
    if not tuned:
        entries += race(list(_one_by_one(job, "released", "float32", expected)), pace)
    for dtype in request["dtypes"] if tuned else ():
        entries += race([*_one_by_one(job, "tuned", dtype, expected), *_parts(job, dtype, expected)], pace)
    return {"entries": entries, "facts": work(job)}


def job_of(model_name: str, space: SearchSpace, boundary: str, batch: int) -> Job:
    """Random weights, batch norms with the statistics of a batch; the step whose paths are of average work."""
    import timm

    torch.manual_seed(SEED)
    size = space.frame.resolution
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    model = timm.create_model(model_name).eval().to(memory_format=torch.channels_last)
    settle_norms(Trunk(model), images[:4], residual_scale=RESIDUAL_SCALE)
    teacher = teacher_of(model, space, fused=False)
    supernet = Supernet(space, teacher.plan.channels, boundary=boundary, bn_group=batch, seed=SEED)
    macs = students_macs(supernet, range(STEPS_LOOKED_AT))
    average = sum(macs) / len(macs)
    step = min(range(len(macs)), key=lambda k: abs(macs[k] - average))
    return Job(model, teacher, supernet, images, step)


def teacher_of(model: Any, space: SearchSpace, *, fused: bool) -> Teacher:
    """A teacher over a copy of an EfficientNet, cut behind its stages; stage 0 is in front of block 0."""
    cuts = [f"blocks.{b + 1}" for b in range(len(space.blocks))]
    size = space.frame.resolution
    return Teacher(copy.deepcopy(model), cuts, input_size=(3, size, size), fused=fused)


def students_macs(supernet: Supernet, steps: Iterable[int]) -> list[int]:
    """Per step those of all cells' forward passes along its paths, one image; the stem once."""
    space, fixed = supernet.space, stem_cost(supernet.space.frame)["macs"]
    of_layers: dict[tuple[int, int], list[list[int]]] = {}
    for b, block in enumerate(space.blocks):
        for c in range(len(block.cells)):
            cell = supernet.block(b).cell(c)
            specs = zip(specs_of(cell), space.layers(b, c), strict=True)
            of_layers[b, c] = [[layer_cost(spec, at.in_size)["macs"] for spec in layer] for layer, at in specs]
            for adapter, size in ((cell.in_adapter, space.in_size(b)), (cell.out_adapter, space.out_size(b))):
                fixed += sum(p.numel() for p in adapter.parameters() if p.dim() > 1) * size**2

    def drawn(step: int) -> int:
        total = fixed
        for b in range(len(space.blocks)):
            for c, path in enumerate(sample_paths(space, seed=SEED, step=step, block=b)):
                total += sum(layer[choice] for layer, choice in zip(of_layers[b, c], path, strict=True))
        return total

    return [drawn(step) for step in steps]


def work(job: Job) -> dict[str, Any]:
    """Multiply-accumulates per image: teacher passes and students, one shared pass against one for every cell."""
    space, points = job.supernet.space, job.teacher.plan.points
    behind = [sum(p.macs for p in points[: b + 1]) for b in range(len(points))]
    (students,) = students_macs(job.supernet, [job.step])
    students *= 1 + BACKWARD
    stems = (1 + BACKWARD) * stem_cost(space.frame)["macs"] * (len(space.blocks[0].cells) - 1)
    return {
        "macs_ours": behind[-1] + students,
        "macs_released": sum(behind[b] for b, _ in job.cells) + students + stems,
        "teacher_macs": behind[-1],
        "cells": len(job.cells),
    }


@torch.no_grad()
def exact_losses(job: Job) -> list[float]:
    """Every cell's loss before the first update, in float64 by plain PyTorch."""
    teacher = teacher_of(copy.deepcopy(job.model).double(), job.supernet.space, fused=False)
    images = job.images.double()
    features = (images, *teacher(images))
    losses = []
    for b, c in job.cells:
        out = PlainCell(job.supernet, b, c).double()(features[b], job.path(b, c))
        losses.append(F.mse_loss(out, features[b + 1]).item())
    return losses


def _check(expected: list[float], dtype: str, losses: Tensor) -> dict[str, Any]:
    exact = torch.tensor(expected, dtype=torch.float64)
    error = (losses.double().reshape(-1) / exact - 1).abs().max().item()
    assert error <= TOLERANCES[dtype], (
        f"expected losses of the cells within {TOLERANCES[dtype]:.1e} of float64's, got one off by {error:.1e}"
    )
    return {"error": float(f"{error:.3g}")}


def _amp(dtype: str) -> torch.dtype | None:
    return None if dtype == "float32" else torch.bfloat16


def _one_by_one(job: Job, way: str, dtype: str, expected: list[float]) -> Iterator[Contestant]:
    """The released recipe: a contestant per cell."""
    layout = torch.contiguous_format if way == "released" else torch.channels_last
    # A module's .to() takes no contiguous format back from channels-last weights, so every weight is told.
    teacher = PlainTeacher(copy.deepcopy(job.model))
    for p in teacher.parameters():
        p.data = p.data.contiguous(memory_format=layout if p.dim() == 4 else torch.contiguous_format)
    images = job.images.contiguous(memory_format=layout)
    for number, (b, c) in enumerate(job.cells):
        cell = PlainCell(job.supernet, b, c)
        if way == "tuned":
            cell = cell.to(memory_format=torch.channels_last)
        training = PlainTraining(teacher, cell, b, LR, WEIGHT_DECAY, _amp(dtype))
        fields = {"way": way, "dtype": dtype, "cell": f"{b}.{c}", "allocator": _allocator(way)}
        check = partial(_check, expected[number : number + 1], dtype)
        yield Contestant(fields, partial(training.step, images, job.path(b, c)), check)


def _allocator(way: str) -> str:
    return "default" if way == "released" else "tuned"


def _parts(job: Job, dtype: str, expected: list[float]) -> Iterator[Contestant]:
    """One shared teacher pass, plain at first, and what we add to it."""
    fused = teacher_of(job.model, job.supernet.space, fused=True)
    for way in PARTS:
        behind = replace(job, teacher=job.teacher if way == "shared" else fused, supernet=copy.deepcopy(job.supernet))
        run: Callable[[], Tensor]
        if way in ("shared", "teacher"):
            run = PlainStudents(behind, dtype)
        elif way == "ours":
            run = _ours(behind, dtype)
        else:
            run = SharedStep(behind, dtype, plain_loss=way == "students")
        fields = {"way": way, "dtype": dtype, "cell": "all", "allocator": "tuned"}
        yield Contestant(fields, run, partial(_check, expected, dtype))


def _ours(job: Job, dtype: str) -> Callable[[], Tensor]:
    """The package's own step."""
    amp: Any = None if dtype == "float32" else dtype
    batch = len(job.images)
    config = TrainConfig(batch_size=batch, reference_batch=batch, learning_rates=(LR,), amp_dtype=amp, bn_group=batch)
    trainer = Trainer(Problem(job.supernet, job.teacher, config, seed=SEED))
    job.supernet.train()
    trainer.position = type(trainer.position)(step=job.step)

    def run() -> Tensor:
        trainer.step(job.images)
        return torch.cat([learner.take_cell_losses() for learner in trainer.learners])

    return run


class PlainStudents:
    """The recipe's cells, one after the other, behind one teacher pass."""

    def __init__(self, job: Job, dtype: str) -> None:
        self.job, self.amp = job, _amp(dtype)
        teacher = PlainTeacher(job.model)  # never asked: features are given
        cells = [(b, PlainCell(job.supernet, b, c).to(memory_format=torch.channels_last)) for b, c in job.cells]
        self.cells = [PlainTraining(teacher, cell, b, LR, WEIGHT_DECAY, self.amp) for b, cell in cells]

    def __call__(self) -> Tensor:
        job, losses = self.job, []
        with torch.autocast("cpu", self.amp, enabled=self.amp is not None):
            features = (job.images, *job.teacher(job.images))
        for (b, c), training in zip(job.cells, self.cells, strict=True):
            losses.append(training.learn(features[b], features[b + 1], job.path(b, c)))
        return torch.stack(losses)


class SharedStep:
    """Our step with plain parts: torch's Adam, and torch's loss or ours."""

    def __init__(self, job: Job, dtype: str, *, plain_loss: bool) -> None:
        self.job, self.amp, self.plain_loss = job, _amp(dtype), plain_loss
        job.supernet.train()
        blocks = range(len(job.supernet.blocks))
        self.optimizers = [_plain_adam(job.supernet.block(b)) for b in blocks]

    def __call__(self) -> Tensor:
        job, losses = self.job, []
        with self._autocast():
            features = job.teacher(job.images)
        for b, optimizer in enumerate(self.optimizers):
            optimizer.zero_grad()
            found = self._backward(b, job.images if b == 0 else features[b - 1], features[b])
            optimizer.step()
            losses.append(found)
        return torch.cat(losses)

    def _backward(self, b: int, x: Tensor, target: Tensor) -> Tensor:
        """A cell's backward pass follows its forward pass, as ours do; returns the losses [cells]."""
        block, losses = self.job.supernet.block(b), []
        with self._autocast():
            root = block.stem(x)
        leaf = root.detach().requires_grad_(root.requires_grad)
        paths = sample_paths(self.job.supernet.space, seed=SEED, step=self.job.step, block=b)
        for c, path in enumerate(paths):
            with self._autocast():
                out = block.cell(c)(leaf, path)
            loss = self._loss(out, target)
            (loss / len(paths) if b == 0 else loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if root.requires_grad:
            root.backward(leaf.grad)
        return torch.stack(losses)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self.amp, enabled=self.amp is not None)

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(out.float(), target.float()) if self.plain_loss else feature_mse(out, target)


def _plain_adam(block: StudentBlock) -> torch.optim.Adam:
    """Ours as torch runs it unasked."""
    groups = adam(block, LR, WEIGHT_DECAY).param_groups
    return torch.optim.Adam([{key: group[key] for key in ("params", "weight_decay")} for group in groups], lr=LR)
