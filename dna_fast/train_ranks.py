"""Supernet training on many ranks: stages of blocks in a pipeline, replicas of a stage that share out every batch, one result.

A stage sends the teacher's feature on before it trains its own blocks, so that all stages work at once, each on another batch.
What every rank must do at the same step (save, stop) is decided by rank 0 and travels with the batch it concerns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dna_fast._loop import Loader, deferred_interrupt
from dna_fast.checkpoint import CheckpointStore, Measured, Position, checkpoint_at, load_block
from dna_fast.parallel import PeerFailed, World
from dna_fast.placement import Batch, Placement
from dna_fast.teacher_segments import TeacherSegments
from dna_fast.train import LOG_STEPS, OnProgress, Problem, Progress, Trainer, check_finite, check_weights

SAVE, STOP = 1, 2  # flags of a batch: behind it, save; save and stop


@dataclass
class Elsewhere:
    """The loader of a rank whose images come as features from another one: their number alone."""

    batch_size: int
    batches: int

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        raise AssertionError("a later stage reads no images")


class RankTrainer(Trainer):
    """What `Trainer` does, as one of many ranks, with the same result: weights, optimizers, losses.

    With one replica that is so bit for bit on the CPU; with several, up to the rounding of sums over the batch.

    Args:
        problem: its supernet holds the blocks of this rank's stage (`Supernet(..., held=placement.blocks(stage))`), its teacher is
            whole; every rank writes its own blocks' files into its checkpoints.
        world: all ranks; each makes its trainer at the same time.
        placement: of as many ranks.

    Raises:
        ValueError: as `Trainer`; a batch that cannot be shared by so many replicas, a teacher that cannot be cut.
    """

    def __init__(self, problem: Problem, world: World, placement: Placement) -> None:
        config, teacher = problem.config, problem.teacher
        if (trouble := Batch(config.batch_size, config.bn_group).problem(placement.replicas)) is not None:
            raise ValueError(trouble)
        if placement.replicas > 1 and teacher.bn == "batch":
            raise ValueError(
                "teacher.bn: batch normalises whole batches, which data ranks do not have; take train.placement=block"
            )
        if len(placement.stages) > 1 and problem.compile_teacher:
            # A replayed graph would overwrite a feature that is still on its way to the next stage.
            raise ValueError(
                f"teacher.compile: runs the whole teacher on every rank, got stages of blocks ({placement}); take "
                "train.placement=data, or set teacher.compile to false"
            )
        self.world, self.placement = world, placement
        self.grid = world.grid(len(placement.stages), placement.replicas)
        self.segments = TeacherSegments(teacher) if len(placement.stages) > 1 else None
        self.reports = _Reports(world, len(placement.stages))
        self.is_stopping = False
        super().__init__(problem)
        assert list(self.blocks) == list(placement.blocks(self.grid.stage))

    def _go_on(self, store: CheckpointStore) -> None:
        """Rank 0 finds a checkpoint that is whole, and all take that one."""
        found = store.find() if self.world.is_leader else None
        name = self.world.told_by_leader(None if found is None else found.directory.name)
        if name is None:
            return
        found = found or checkpoint_at(store.root, store.identity, name)
        self.position, self.history = found.position, list(found.measured.history)
        own = [found.measured.losses[b] for b in self.blocks]
        self.meter.restore(replace(found.measured, losses=tuple(own)), store.root / "state.json")
        for b, optimizer in zip(self.blocks, self.optimizers, strict=True):
            load_block(found, b, self.supernet.block(b), optimizer)

    def run(self, loader: Loader, on_progress: OnProgress | None = None) -> list[dict[str, Any]]:
        """As `Trainer.run`, of all ranks at the same time.

        Args:
            loader: of the first stage, with this replica's part of every batch; of later stages `Elsewhere`.
            on_progress: called on rank 0, with the losses of all blocks, some steps late where they come from other ranks.

        Raises:
            KeyboardInterrupt: Ctrl-C on any rank; all have finished the same step, and one checkpoint of it counts.
            PeerFailed: another rank failed; it raises what is to be told.
        """
        if len(loader) == 0:
            raise ValueError("training: fewer images than one batch; lower train.batch_size or add images")
        self.supernet.train()
        with deferred_interrupt() as interrupted:
            while self.position.epoch < self.config.epochs:
                self._epoch(loader, on_progress, interrupted)
                if self.is_stopping:
                    self.world.stopped_together = True
                    raise KeyboardInterrupt
        return self.history

    # ---- an epoch ---------------------------------------------------------------------------------------------------

    def _epoch(self, loader: Loader, on_progress: OnProgress | None, interrupted: threading.Event) -> None:
        self._set_learning_rates()
        self.meter.start()
        self.clock.restart()
        self.reports.begin(self.config.epochs * len(loader), on_progress)
        self.last_save = time.monotonic()
        for flags, x in self._batches(loader, interrupted):
            self.meter.add(self._step(x, flags), len(x) * self.placement.replicas)
            self.position = replace(self.position, batch=self.position.batch + 1, step=self.position.step + 1)
            if self.position.step % LOG_STEPS == 0:
                losses, speed = self.meter.read(self.position)
                if self.grid.replica == 0:
                    self.clock.mark("other")
                    told = self.progress(self.reports.total_steps, losses, speed, self._cell_losses())
                    self.reports.add(told, self.grid.stage)
            if flags:
                self._save()
                self.last_save = time.monotonic()
                self.is_stopping = bool(flags & STOP)
            if self.is_stopping:
                self.reports.flush()
                return
        self._end_epoch(on_progress, interrupted)

    def _batches(self, loader: Loader, interrupted: threading.Event) -> Iterator[tuple[int, Tensor]]:
        """(flags, images or the feature before this stage's first block) of the rest of the epoch."""
        is_first, share = self.grid.stage == 0, self.config.batch_size // self.placement.replicas
        images = loader.epoch(self.position.epoch, self.position.batch) if is_first else iter(())
        # None are left where a job was stopped behind an epoch's last batch.
        if not is_first and self.position.batch < len(loader):
            self._expect(share)
        for number in range(self.position.batch, len(loader)):
            if interrupted.is_set():
                self.world.ask_to_stop()
            if is_first:
                x = next(images).images.to(self.device, non_blocking=True)
                self.clock.mark("loader")
                flags = self.grid.agree(self._wishes())
            else:
                flags, x = self.grid.receive(self.position.step)
                if number + 1 < len(loader) and not flags & STOP:
                    self._expect(share)
            self.clock.mark("communication")
            if len(x) != share:
                raise ValueError(
                    f"training: expected {share} images per batch and rank, got {len(x)}; change the loader"
                )
            yield flags, x
        self.grid.finish_sending()

    def _expect(self, images: int) -> None:
        point = self.teacher.plan.points[self.blocks[0] - 1]
        dtype = self.amp or next(p.dtype for p in self.teacher.parameters() if p.is_floating_point())
        self.grid.expect((images, point.channels, point.height, point.width), dtype)

    def _wishes(self) -> int:
        """What rank 0 decides about the batch that begins."""
        if not self.world.is_leader:
            return 0
        if self.world.asked_to_stop():
            return SAVE | STOP
        return SAVE if time.monotonic() - self.last_save > 60 * self.config.checkpoint_minutes else 0

    def step(self, images: Tensor) -> Tensor:
        """One step of this rank's blocks.

        Args:
            images: of a later stage, the feature before its first block.
        """
        return self._step(images, 0)

    def _step(self, x: Tensor, flags: int) -> Tensor:
        with self.clock.part("teacher"), self.autocast():
            if self.segments is None:
                features: Sequence[Tensor] = self.features(x)
            else:
                x = x.contiguous(memory_format=torch.channels_last)
                features = self.segments.features(self.blocks, x)
        if self.grid.stage < self.grid.stages - 1:
            self.grid.send(
                self.position.step, flags, features[-1]
            )  # first: others wait for it, and it travels meanwhile
        self.clock.mark("communication")
        inputs = (x, *features[:-1])
        losses, endings = [], []
        for learner, given, target in zip(self.learners, inputs, features, strict=True):
            loss = learner.backward(given, target, self.position.step).reshape(1)
            losses.append(loss)
            # The next block's gradients are computed while these travel.
            endings.append(self.grid.begin_average([*_gradients(learner.optimizer), loss]))
        self.clock.mark("students")
        for learner, end in zip(self.learners, endings, strict=True):
            end()
            self.clock.mark("communication")
            learner.optimizer.step()
            self.clock.mark("students")
        return torch.cat(losses)

    # ---- together ---------------------------------------------------------------------------------------------------

    def _end_epoch(self, on_progress: OnProgress | None, interrupted: threading.Event) -> None:
        own = self.meter.epoch_record(self.position)
        said = self.world.gather([own["losses"], own["seconds"], own["images_per_s"], interrupted.is_set()])
        losses = self._of_all_blocks([each[0] for each in said])
        # Time is rank 0's: that all ranks have the same record.
        record = {**own, "losses": losses, "seconds": said[0][1], "images_per_s": said[0][2]}
        self.is_stopping = any(each[3] for each in said)
        self.reports.flush()
        self.history.append(record)
        self.position = Position(self.position.epoch + 1, 0, self.position.step)
        self.meter = self._new_meter()
        self._save()
        if on_progress is not None and self.world.is_leader:
            total = self.reports.total_steps
            on_progress(self.progress(total, tuple(losses), record["images_per_s"]))

    def _of_all_blocks(self, by_rank: Sequence[Sequence[Any]]) -> list[Any]:
        """What the first replica of every stage says about its blocks, in their order."""
        return [each for stage in by_rank[:: self.placement.replicas] for each in stage]

    def _save(self) -> None:
        """One checkpoint of all ranks: every stage's first replica writes its blocks, and rank 0 makes it count when all have."""
        own = self.meter.measured(self.history)
        blocks = {b: self.supernet.block(b) for b in self.blocks}
        check_finite(own.losses, self.position, self.blocks[0])
        check_weights(blocks, self.position)
        sums = [float(sum(p.detach().double().sum() for p in block.parameters())) for block in blocks.values()]
        files, failure = self._attempt(lambda: self._write(blocks))
        said = self.world.gather({"losses": own.losses, "sums": sums, "files": files, "failed": failure is not None})
        self._end_if(any(each["failed"] for each in said), failure)
        self._check_replicas([each["sums"] for each in said])
        if self.store is None:
            return
        measured = replace(own, losses=tuple(self._of_all_blocks([each["losses"] for each in said])))
        all_files = {name: sha256 for each in said for name, sha256 in each["files"].items()}
        _, failure = self._attempt(lambda: self._count(measured, dict(sorted(all_files.items()))))
        self._end_if(self.world.told_by_leader(failure is not None), failure)

    def _write(self, blocks: dict[int, Any]) -> dict[str, str]:
        if self.store is None or self.grid.replica:
            return {}
        optimizers = dict(zip(self.blocks, self.optimizers, strict=True))
        return self.store.write({b: (block, optimizers[b]) for b, block in blocks.items()}, self.position)

    def _count(self, measured: Measured, files: dict[str, str]) -> dict[str, str]:
        if self.store is not None and self.world.is_leader:
            self.store.count(self.position, measured, files)
        return files

    def _attempt(self, write: Callable[[], dict[str, str]]) -> tuple[dict[str, str], OSError | None]:
        """A failure to write is not raised yet: the others must hear of it where they expect to hear from this rank."""
        try:
            return write(), None
        except OSError as error:
            return {}, error

    def _end_if(self, has_failed: bool, own: OSError | None) -> None:
        """Where a rank could not write: removes what is half-written, and raises its failure, of other ranks PeerFailed."""
        if not has_failed:
            return
        if own is not None:
            assert self.store is not None
            own = self.store.failed(own)
        self.world.gather(None)  # until all have heard of it: the first to end would end them all
        if own is not None:
            raise own
        raise PeerFailed

    def _check_replicas(self, sums: Sequence[Sequence[float]]) -> None:
        """Replicas start alike and take the same steps, so their weights are the same bits; a machine that miscomputes shows here."""
        replicas = self.placement.replicas
        odd = [rank for rank, mine in enumerate(sums) if mine != sums[rank - rank % replicas]]
        if not odd:
            return
        if self.world.rank != odd[0]:
            raise PeerFailed
        raise RuntimeError(
            f"training: after step {self.position.step} weights differ from those of rank {odd[0] - odd[0] % replicas}, which trains the "
            "same blocks; no checkpoint was written. A machine may be miscomputing: check it, then give the same command again"
        )


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those of the operators that were drawn, in an order that all replicas share; the others have none."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


class _Reports:
    """Losses on their way to rank 0, which tells those of a step when all stages' are there."""

    def __init__(self, world: World, stages: int) -> None:
        self.world, self.stages = world, stages
        self.waiting: list[tuple[Progress, dict[int, _Losses]]] = []
        self.total_steps = 0
        self.on_progress: OnProgress | None = None

    def begin(self, total_steps: int, on_progress: OnProgress | None) -> None:
        self.total_steps, self.on_progress = total_steps, on_progress

    def add(self, told: Progress, stage: int) -> None:
        """This rank's losses; on rank 0 also tells what is complete, with the times of rank 0."""
        own: _Losses = [told.losses, told.cell_losses]
        if not self.world.is_leader:
            self.world.post(f"losses/{told.position.step}/{stage}", own)
            return
        self.waiting.append((told, {0: own}))
        self.flush()

    def flush(self) -> None:
        """Tells every step whose losses are all there, the earliest first."""
        while self.waiting:
            told, known = self.waiting[0]
            for stage in range(1, self.stages):
                if stage not in known:
                    found = self.world.take(f"losses/{told.position.step}/{stage}")
                    if found is None:
                        return
                    known[stage] = found
            self.waiting.pop(0)
            if self.on_progress is not None:
                losses, cells = (
                    tuple(value for stage in range(self.stages) for value in known[stage][kind]) for kind in range(2)
                )
                self.on_progress(replace(told, losses=losses, cell_losses=tuple(map(tuple, cells))))


_Losses = list[Any]  # of blocks; of each block's cells
