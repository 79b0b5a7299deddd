"""The stages of a run that many ranks share: training of the supernet by a placement, rating by shares of the paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dna_fast.parallel import World
from dna_fast.placement import Batch, BlockCost, Expected, Placement, candidates, check_words, choose
from dna_fast.placement_cost import measured_costs
from dna_fast.rate_plan import available_bytes
from dna_fast.rate_share import Share
from dna_fast.teacher_segments import TeacherSegments
from dna_fast.train_ranks import Elsewhere, RankTrainer

if TYPE_CHECKING:
    from dna_fast._loop import Loader
    from dna_fast.pipeline import Run
    from dna_fast.supernet import Supernet
    from dna_fast.teacher import Teacher
    from dna_fast.train import OnProgress


@dataclass(frozen=True)
class Chosen:
    """A placement, what it is expected to take, and what it was chosen from."""

    expected: Expected
    others: Sequence[Expected]
    costs: Sequence[BlockCost]
    batch: Batch


OnPlacement = Callable[[Chosen], None]


def place(run: Run, teacher: Teacher, world: World, words: str) -> Chosen:
    """Measures costs and chooses a placement; every rank must call it, and all get the same one.

    Args:
        words: as `train.placement`.

    Raises:
        ValueError: nothing of that kind is possible on so many ranks.
    """
    config = run.config.train
    try:
        check_words(words, len(run.space.blocks))
    except ValueError as error:
        raise ValueError(f"--placement: {error}") from error
    try:
        segments: TeacherSegments | None = TeacherSegments(teacher)
    except ValueError:
        segments = None
    if words == "auto" and run.config.teacher.compile:
        segments = None  # of what is left to choose, stages of blocks cannot have it
    # Before anything is measured: a wish that cannot come true. Its balance does not matter yet.
    batch, alike = Batch(config.batch_size, config.bn_group), [BlockCost(1.0, 1.0, 1, 1.0)] * len(run.space.blocks)
    candidates(words, world.size, alike, batch, can_cut=segments is not None)
    costs = measured_costs(lambda block: run.supernet(teacher, [block]), teacher, segments, config, world)
    possible = candidates(words, world.size, costs, batch, can_cut=segments is not None)
    chosen, others = choose(possible, costs, batch, world.seconds_per_byte())
    return Chosen(chosen, others, costs, batch)


def train(
    run: Run,
    teacher: Teacher,
    world: World,
    words: str,
    on_placement: OnPlacement | None = None,
    on_progress: OnProgress | None = None,
) -> Supernet:
    """Trains this rank's part of the supernet, or what is left of that.

    Args:
        words: as `train.placement`.
        on_placement: hears on rank 0 what was chosen, before training begins.

    Returns:
        The supernet, which holds the blocks of this rank's stage.
    """
    chosen = place(run, teacher, world, words)
    if on_placement is not None and world.is_leader:
        on_placement(chosen)
    placement = chosen.expected.placement
    stage, replica = divmod(world.rank, placement.replicas)
    supernet = run.supernet(teacher, placement.blocks(stage))
    trainer = RankTrainer(run.problem(supernet, teacher), world, placement)
    trainer.run(_loader(run, placement, stage, replica), on_progress)
    return supernet


def _loader(run: Run, placement: Placement, stage: int, replica: int) -> Loader:
    """Of the first stage's images this replica's share; later stages get features."""
    unrated, images = run.images.unrated, run.config.train.batch_size
    share = images // placement.replicas
    if stage > 0:
        return Elsewhere(share, len(unrated) // images)
    half = run.config.train.amp_dtype is not None  # as on one rank
    return run.images.loader(unrated, share, training=True, half=half, share=(replica, placement.replicas))


def share(world: World) -> Share:
    """This rank's share of a rating."""
    return Share(
        world.rank,
        world.size,
        world.told_by_leader,
        lambda: world.wait_for_all("rated"),
        lambda name, amount: world.count(f"rated/{name}", amount),
    )


def memory_of_a_rank(run: Run, world: World) -> int:
    """What rating may take on this rank where nothing is said: ranks of one machine share its memory, each has its own GPU."""
    free = available_bytes(run.device)
    return free if run.device.type == "cuda" else free // world.local_size
