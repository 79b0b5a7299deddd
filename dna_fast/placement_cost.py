"""What every block costs on this device: its teacher segment and a step of its students, timed; what they send, counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dna_fast.config_sections import TrainConfig
from dna_fast.parallel import World
from dna_fast.placement import BlockCost
from dna_fast.supernet import StudentBlock, Supernet
from dna_fast.teacher import Teacher
from dna_fast.teacher_segments import TeacherSegments
from dna_fast.train_step import Learner, adam

WARM_UPS, TIMED = 1, 2  # of each call; the fastest counts, for what disturbs can only slow down


def measured_costs(
    make: Callable[[int], Supernet],
    teacher: Teacher,
    segments: TeacherSegments | None,
    config: TrainConfig,
    world: World,
) -> list[BlockCost]:
    """Costs of every block; the ranks share the measuring, and rank by rank all know all of it.

    Args:
        make: the supernet with one block held, on the device.
        segments: None: the teacher's time is laid on all blocks in equal shares, for it runs as a whole.
        config: images are measured by the normalisation group, or by the batch where that is smaller.
    """
    images = min(config.bn_group, config.batch_size)
    mine = {}
    for block in range(world.rank, len(teacher.plan.points), world.size):
        cost = _measured(make(block), block, teacher, segments, config, images)
        mine[block] = vars(cost)
    found: dict[int, BlockCost] = {}
    for said in world.gather(mine):
        found |= {int(block): BlockCost(**cost) for block, cost in said.items()}
    return [found[block] for block in sorted(found)]


def _measured(
    supernet: Supernet,
    block: int,
    teacher: Teacher,
    segments: TeacherSegments | None,
    config: TrainConfig,
    images: int,
) -> BlockCost:
    device = next(supernet.parameters()).device
    points = teacher.plan.points
    shapes = [teacher.input_size, *((p.channels, p.height, p.width) for p in points)]
    x, target = (_random((images, *shape), device) for shape in shapes[block : block + 2])
    if segments is None:
        whole = _random((images, *teacher.input_size), device)
        teacher_s = _seconds([lambda: teacher(whole)], device) / len(points)
    else:
        teacher_s = _seconds([lambda: segments.run(block, x)], device)
    amp = torch.bfloat16 if config.amp_dtype == "bfloat16" else None
    learner = Learner(supernet, block, adam(supernet.block(block), 0.0, 0.0), 0, amp)
    supernet.train()
    student_s = _seconds(
        [partial(_step, learner, x, target, paths) for paths in covering_paths(supernet, block)], device
    )
    return BlockCost(
        teacher_s / images, student_s / images, target.nbytes // images, mean_gradient_bytes(supernet.block(block))
    )


def covering_paths(supernet: Supernet, block: int) -> list[list[tuple[int, ...]]]:
    """Steps, of a path per cell each, that between them take every operator of the block once: their mean is that of all steps."""
    cells, choices = supernet.space.blocks[block].cells, len(supernet.space.choices)
    return [
        [tuple((step + layer) % choices for layer in range(cell.depth)) for cell in cells] for step in range(choices)
    ]


def _step(learner: Learner, x: Tensor, target: Tensor, paths: Sequence[tuple[int, ...]]) -> None:
    learner.backward_along(x, target, paths)
    learner.optimizer.step()


def _random(shape: Sequence[int], device: torch.device) -> Tensor:
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(device)
    return x.contiguous(memory_format=torch.channels_last)


def _seconds(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Of a call, on average over them."""
    fastest = [float("inf")] * len(calls)
    for turn in range(WARM_UPS + TIMED):
        for n, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= WARM_UPS:
                fastest[n] = min(fastest[n], time.perf_counter() - start)
    return sum(fastest) / len(fastest)


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradient_bytes(block: StudentBlock, paths: Sequence[Sequence[int]]) -> int:
    """Bytes of the gradients of a step along these paths, one per cell."""
    total = _bytes(block.stem)
    for c, path in enumerate(paths):
        cell = block.cell(c)
        total += _bytes(cell.in_adapter) + _bytes(cell.out_adapter)
        total += sum(_bytes(cell.operator(layer, choice)) for layer, choice in enumerate(path))
    return total


def mean_gradient_bytes(block: StudentBlock) -> float:
    """The same on average over all paths."""
    total = float(_bytes(block.stem))
    for c in range(len(block.cells)):
        cell = block.cell(c)
        total += _bytes(cell.in_adapter) + _bytes(cell.out_adapter)
        for operators in cell.layers:
            sizes = [_bytes(operator) for operator in operators.children()]
            total += sum(sizes) / len(sizes)
    return total


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
