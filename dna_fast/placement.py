"""Which rank trains which blocks on which part of every batch: placements, their words, and the best one by measured costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

WORDS = (
    "auto, data, block, a grid such as 2x4 (stages x replicas), or the blocks of each stage such as 3+2+1 or 3+2+1x2"
)
_GRID = re.compile(r"(?P<stages>[0-9]+(\+[0-9]+)*)(x(?P<replicas>[0-9]+))?")


@dataclass(frozen=True)
class Placement:
    """Blocks by stage, and replicas of every stage.

    Rank = stage * replicas + replica. A stage runs its part of the teacher and trains its blocks; replicas of a stage share out
    every batch.

    Args:
        stages: (first, one behind the last) block of each, consecutive.
        replicas: of every stage.
    """

    stages: tuple[tuple[int, int], ...]
    replicas: int

    @property
    def ranks(self) -> int:
        return len(self.stages) * self.replicas

    def blocks(self, stage: int) -> range:
        return range(*self.stages[stage])

    def __str__(self) -> str:
        return f"{'+'.join(str(end - start) for start, end in self.stages)}x{self.replicas}"

    @classmethod
    def of(cls, counts: Sequence[int], replicas: int) -> Placement:
        """With so many blocks per stage."""
        ends = [sum(counts[: n + 1]) for n in range(len(counts))]
        return cls(tuple(zip([0, *ends[:-1]], ends, strict=True)), replicas)


@dataclass(frozen=True)
class BlockCost:
    """What one block takes, as measured on this device; bytes as counted."""

    teacher_s: float  # of its teacher segment, per image
    student_s: float  # of a step of its cells, per image
    feature_bytes: int  # of the teacher's feature behind it, per image
    gradient_bytes: float  # of the operators of a step, on average over the paths that can be drawn


@dataclass(frozen=True)
class Batch:
    """How a batch may be shared out."""

    images: int
    bn_group: int

    def problem(self, replicas: int) -> str | None:
        """Why it cannot be shared by so many replicas without changing what is computed; None if it can."""
        share, whole = self.images // replicas, self.images >= self.bn_group
        if self.images % replicas == 0 and (replicas == 1 or (whole and share % self.bn_group == 0)):
            return None
        return (
            f"train.batch_size = {self.images} cannot be shared by {replicas} data ranks in whole groups of train.bn_group = "
            f"{self.bn_group} images; begin a run whose batch_size is a multiple of {replicas * self.bn_group}, or with a smaller "
            "bn_group (both change the result), or take train.placement=block, which leaves every batch whole"
        )


# ---- words -----------------------------------------------------------------------------------------------------------


def check_words(text: str, blocks: int) -> None:
    """Checks what `train.placement` says, as far as that is possible without the number of ranks.

    Raises:
        ValueError: not one of the forms, or other than all blocks.
    """
    if text in ("auto", "data", "block"):
        return
    match = _GRID.fullmatch(text)
    if match is None or ("+" not in text and match["replicas"] is None):
        raise ValueError(f"expected {WORDS}, got {text!r}")
    counts = [int(n) for n in match["stages"].split("+")]
    replicas = int(match["replicas"] or 1)
    if min(*counts, replicas) < 1 if len(counts) > 1 else min(counts[0], replicas) < 1:
        raise ValueError(f"expected numbers of at least 1, got {text!r}")
    if len(counts) > 1 and sum(counts) != blocks:
        raise ValueError(f"expected the {blocks} blocks of the space, got {text!r}, which are {sum(counts)}")
    if len(counts) == 1 and counts[0] > blocks:
        raise ValueError(f"expected at most {blocks} stages (the blocks of the space), got {text!r}")


def candidates(text: str, ranks: int, costs: Sequence[BlockCost], batch: Batch, *, can_cut: bool) -> list[Placement]:
    """What `train.placement` allows on so many ranks, balanced by `costs`.

    Args:
        text: as `check_words` accepts it.
        can_cut: whether the teacher can be run block by block.

    Raises:
        ValueError: nothing is possible; the message says why and what is.
    """
    match = None if text in ("auto", "data", "block") else _GRID.fullmatch(text)
    found, problems = [], []
    for placement in _possible(text, match, ranks, costs):
        problem = batch.problem(placement.replicas)
        if problem is None and len(placement.stages) > 1 and not can_cut:
            problem = "this teacher cannot be run block by block; take train.placement=data"
        if problem is None:
            found.append(placement)
        else:
            problems.append(problem)
    if not found:
        why = problems[-1] if problems else f"{text} does not make {ranks} ranks of {len(costs)} blocks"
        raise ValueError(f"train.placement: {text} on {ranks} ranks: {why}")
    return found


def _possible(text: str, match: re.Match[str] | None, ranks: int, costs: Sequence[BlockCost]) -> Iterator[Placement]:
    if match is not None:
        counts, replicas = [int(n) for n in match["stages"].split("+")], int(match["replicas"] or 1)
        stages = counts[0] if len(counts) == 1 else len(counts)
        if stages * replicas == ranks:
            yield Placement.of(counts, replicas) if len(counts) > 1 else _balanced(costs, stages, replicas)
        return
    for stages in range(1, min(ranks, len(costs)) + 1):
        if ranks % stages == 0 and (text == "auto" or stages == (1 if text == "data" else ranks)):
            yield _balanced(costs, stages, ranks // stages)


# ---- costs -----------------------------------------------------------------------------------------------------------


def _balanced(costs: Sequence[BlockCost], stages: int, replicas: int) -> Placement:
    """The contiguous stages whose slowest is fastest; among equals, the first stages are the smallest."""
    seconds = [cost.teacher_s + cost.student_s for cost in costs]

    @cache
    def best(start: int, left: int) -> tuple[float, tuple[int, ...]]:
        """(slowest stage, blocks of each) of the blocks from `start` in so many stages."""
        if left == 1:
            return sum(seconds[start:]), (len(seconds) - start,)
        options = []
        for count in range(1, len(seconds) - start - left + 2):
            slowest, counts = best(start + count, left - 1)
            options.append((max(sum(seconds[start : start + count]), slowest), (count, *counts)))
        return min(options)

    return Placement.of(best(0, stages)[1], replicas)


@dataclass(frozen=True)
class Expected:
    """What a step of a placement is expected to take."""

    placement: Placement
    stage_s: tuple[float, ...]  # teacher and students, per step
    feature_bytes: tuple[int, ...]  # that a rank of each stage sends to the next, per step; the last sends none
    gradient_bytes: tuple[float, ...]  # that a rank of each stage averages, per step, on average
    step_s: float

    @property
    def balance(self) -> float:
        """Mean over slowest stage: the share of the time in which ranks compute."""
        return sum(self.stage_s) / len(self.stage_s) / max(self.stage_s)


def expected(placement: Placement, costs: Sequence[BlockCost], batch: Batch, byte_s: float) -> Expected:
    """Costs of a placement.

    Args:
        byte_s: seconds that averaging a byte of gradients takes, as measured. Features travel while ranks compute.
    """
    images = batch.images // placement.replicas
    seconds, features, gradients = [], [], []
    for stage in range(len(placement.stages)):
        own = [costs[b] for b in placement.blocks(stage)]
        seconds.append(images * sum(c.teacher_s + c.student_s for c in own))
        is_last = stage == len(placement.stages) - 1
        features.append(0 if is_last else images * own[-1].feature_bytes)
        # The loss is averaged along with the gradients, as one more float32.
        gradients.append(sum(c.gradient_bytes + 4 for c in own) if placement.replicas > 1 else 0.0)
    step = max(s + byte_s * g for s, g in zip(seconds, gradients, strict=True))
    return Expected(placement, tuple(seconds), tuple(features), tuple(gradients), step)


def choose(
    possible: Sequence[Placement], costs: Sequence[BlockCost], batch: Batch, byte_s: float
) -> tuple[Expected, list[Expected]]:
    """(the fastest, all); among equals the one with the fewest stages."""
    all_of_them = [expected(placement, costs, batch, byte_s) for placement in possible]
    return min(all_of_them, key=lambda e: (e.step_s, len(e.placement.stages))), all_of_them


def table(chosen: Expected, costs: Sequence[BlockCost], batch: Batch) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, a row per stage) for people."""
    placement, images = chosen.placement, batch.images // chosen.placement.replicas
    columns = ("ranks", "blocks", "images", "teacher ms", "students ms", "load", "features sent", "gradients averaged")
    rows: list[tuple[str, ...]] = []
    for stage, seconds in enumerate(chosen.stage_s):
        own = placement.blocks(stage)
        first = stage * placement.replicas
        ranks = f"{first}" if placement.replicas == 1 else f"{first}..{first + placement.replicas - 1}"
        rows.append(
            (
                ranks,
                f"{own[0]}" if len(own) == 1 else f"{own[0]}..{own[-1]}",
                f"{images}",
                f"{1e3 * images * sum(costs[b].teacher_s for b in own):.1f}",
                f"{1e3 * images * sum(costs[b].student_s for b in own):.1f}",
                f"{100 * seconds / max(chosen.stage_s):.0f} %",
                _size(chosen.feature_bytes[stage]),
                _size(chosen.gradient_bytes[stage]),
            )
        )
    return columns, rows


def _size(count: float) -> str:
    return f"{count / 1e6:.3f} MB" if count else "-"
