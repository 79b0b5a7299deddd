"""One rank of a training on several, or the only one: torchrun starts it for races/ranks.py, which gives the request.

`python -m benchmarks.rank_worker REQUEST.json ANSWER.json`. Request: model, space, batch, bn_group, steps, placement (data, block; null
alone). Rank 0 writes the answer: seconds of an epoch of `steps` steps, behind one that warms up; losses of both; bytes each rank sent
in a step, and those that were predicted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.races.train import LR, SEED, job_of, teacher_of
from dna_fast.config import TrainConfig
from dna_fast.memory import ask_for_huge_pages, keep_freed_memory
from dna_fast.parallel import World, joined
from dna_fast.placement import Batch, candidates, choose
from dna_fast.placement_cost import gradient_bytes, measured_costs
from dna_fast.space import SearchSpace, preset
from dna_fast.supernet import Supernet, sample_paths
from dna_fast.teacher import Teacher
from dna_fast.teacher_segments import TeacherSegments
from dna_fast.train import Problem, Progress, Trainer
from dna_fast.train_ranks import Elsewhere, RankTrainer

EPOCHS = 2  # the first warms up


@dataclass(frozen=True)
class Held:
    """Images, all in memory."""

    images: Tensor
    labels: Tensor


@dataclass
class Again:
    """The same images in every step: a loader that costs nothing."""

    batch_size: int
    batches: int
    images: Tensor

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        held = Held(self.images, torch.zeros(len(self.images), dtype=torch.int64))
        yield from [held] * (self.batches - start_batch)


def main(request_path: str, answer_path: str) -> None:
    """Trains, and on rank 0 writes what it took."""
    ask_for_huge_pages()  # these two as the package's commands do
    keep_freed_memory()
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    with joined() as world:
        answer = _answer(request, world)
        if world is None or world.is_leader:
            Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def _answer(request: dict[str, Any], world: World | None) -> dict[str, Any]:
    space = space_of(request["space"])
    job = job_of(request["model"], space, "adapter", request["batch"])
    teacher = teacher_of(job.model, space, fused=True)
    config = TrainConfig(
        epochs=EPOCHS,
        batch_size=request["batch"],
        bn_group=request["bn_group"],
        reference_batch=request["batch"],
        learning_rates=(LR,),
    )
    ends: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.position.batch == 0:  # an epoch has ended, on every rank
            ends.append(time.perf_counter())

    facts: dict[str, Any] = {}
    history: Sequence[dict[str, Any]]
    if world is None:
        supernet = Supernet(space, teacher.plan.channels, bn_group=config.bn_group, seed=SEED)
        trainer = Trainer(Problem(supernet, teacher, config, seed=SEED))
        history = trainer.run(Again(config.batch_size, request["steps"], job.images), on_progress)
    else:
        world.use("cpu")
        history, facts = _on_ranks(request, config, space, teacher, job.images, world, on_progress)
    seconds = ends[1] - ends[0] if ends else 0.0  # rank 0 alone is told
    return {"seconds": seconds / request["steps"], "losses": [record["losses"] for record in history], **facts}


def _on_ranks(
    request: dict[str, Any],
    config: TrainConfig,
    space: SearchSpace,
    teacher: Teacher,
    images: Tensor,
    world: World,
    on_progress: Any,
) -> tuple[Sequence[dict[str, Any]], dict[str, Any]]:
    def make(blocks: Sequence[int]) -> Supernet:
        return Supernet(space, teacher.plan.channels, bn_group=config.bn_group, seed=SEED, held=blocks)

    costs = measured_costs(lambda block: make([block]), teacher, TeacherSegments(teacher), config, world)
    batch = Batch(config.batch_size, config.bn_group)
    possible = candidates(request["placement"], world.size, costs, batch, can_cut=True)
    expected, _ = choose(possible, costs, batch, world.seconds_per_byte())
    placement = expected.placement
    stage, replica = divmod(world.rank, placement.replicas)
    supernet = make(placement.blocks(stage))
    trainer = RankTrainer(Problem(supernet, teacher, config, SEED), world, placement)
    share = config.batch_size // placement.replicas
    own = images[replica * share : (replica + 1) * share]
    loader: Any = Again(share, request["steps"], own) if stage == 0 else Elsewhere(share, request["steps"])
    before = dict(world.sent)
    history = trainer.run(loader, on_progress)
    steps = EPOCHS * request["steps"]
    gradients = 0.0
    if placement.replicas > 1:  # with every gradient of a block goes its loss, a float32
        paths = [
            [sample_paths(space, seed=SEED, step=s, block=b) for b in placement.blocks(stage)] for s in range(steps)
        ]
        drawn = [
            sum(gradient_bytes(supernet.block(b), p) + 4 for b, p in zip(placement.blocks(stage), step, strict=True))
            for step in paths
        ]
        gradients = sum(drawn) / steps
    said = {
        "features": (world.sent["features"] - before["features"]) / steps,
        "gradients": (world.sent["gradients"] - before["gradients"]) / steps,
        "counted_features": expected.feature_bytes[stage],
        "counted_gradients": gradients,
        "mean_gradients": expected.gradient_bytes[stage],
    }
    facts = {
        "stages": str(placement),
        "predicted_s": expected.step_s,
        "balance": expected.balance,
        "sent": world.gather(said),
    }
    return history, facts


def space_of(given: Any) -> SearchSpace:
    """A preset's name, or a space as plain data."""
    return preset(given) if isinstance(given, str) else SearchSpace.from_dict(given)


if __name__ == "__main__":
    main(*sys.argv[1:])
