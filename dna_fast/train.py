"""Supernet training: one teacher pass feeds every block and every cell."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dna_fast._files import make_directory
from dna_fast._loop import Loader, deferred_interrupt
from dna_fast.checkpoint import CheckpointStore, Measured, Position, load_block
from dna_fast.config_sections import TrainConfig
from dna_fast.step_clock import PartTimes, StepClock
from dna_fast.supernet import StudentBlock, Supernet
from dna_fast.teacher import Teacher
from dna_fast.teacher_compiled import CompiledTeacher
from dna_fast.train_step import Learner, adam

LOG_STEPS = 10  # losses stay on the device and are read this often: reading one waits for the device


@dataclass(frozen=True)
class Progress:
    """What a progress display needs.

    Attributes:
        losses: means per block since the last report; at the end of an epoch, over that.
        cell_losses: per block its cells' means since the last report, of this replica's images; empty at the end of an epoch.
        times: where this rank's time since the last report went.
        gpu_bytes: most memory that tensors have taken on the GPU so far; 0 on the CPU.
    """

    position: Position
    total_steps: int
    losses: tuple[float, ...]
    images_per_s: float
    cell_losses: tuple[tuple[float, ...], ...]
    times: PartTimes
    gpu_bytes: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)  # networks have no one answer to ==
class Problem:
    """What a trainer trains.

    Attributes:
        supernet, teacher: on the device to train on.
        config: epochs, learning rates, ...; on several ranks, batch_size is that of all replicas together.
        seed: draws the paths.
        checkpoints: directory for checkpoints, made if it is not there; the last one found in it is continued, or, where that is
            damaged, the newest that is not, with a DamagedWarning. None keeps none. All ranks must see it.
        identity: what the run's weights depend on; a checkpoint of another identity is refused.
        compile_teacher: run the teacher through torch.compile, as `CompiledTeacher` says.
    """

    supernet: Supernet
    teacher: Teacher
    config: TrainConfig
    seed: int
    checkpoints: Path | None = None
    identity: str = ""
    compile_teacher: bool = False


class Trainer:
    """Trains all blocks of a supernet against a teacher.

    Deterministic on the CPU: the same problem gives the same weights, interrupted or not.

    Raises:
        ValueError: learning rates that do not match the blocks, a foreign checkpoint, none that is whole.
        OSError: the directory cannot be made.
    """

    def __init__(self, problem: Problem) -> None:
        supernet, config, seed = problem.supernet, problem.config, problem.seed
        self.supernet, self.teacher, self.config, self.seed = supernet, problem.teacher, config, seed
        self.features = CompiledTeacher(self.teacher) if problem.compile_teacher else self.teacher
        checkpoints, identity = problem.checkpoints, problem.identity
        self.store = None if checkpoints is None else CheckpointStore(checkpoints, identity, config.keep_checkpoints)
        self.device = next(supernet.parameters()).device
        self.base_lrs = _learning_rates(config, len(supernet.blocks))
        self.blocks = supernet.held  # numbers of those that are trained here
        self.optimizers = [adam(supernet.block(b), self.base_lrs[b], config.weight_decay) for b in self.blocks]
        self.amp = torch.bfloat16 if config.amp_dtype == "bfloat16" else None
        self.learners = [
            Learner(supernet, b, optimizer, seed, self.amp)
            for b, optimizer in zip(self.blocks, self.optimizers, strict=True)
        ]
        self.position = Position()
        self.history: list[dict[str, Any]] = []
        self.meter = self._new_meter()
        self.clock = StepClock(self.device)
        if self.store is not None:
            make_directory(self.store.root)
            self._go_on(self.store)

    def _go_on(self, store: CheckpointStore) -> None:
        """Takes over the last checkpoint, if there is one. Nothing random is in it: every draw is a function of seed and step."""
        if (found := store.find()) is None:
            return
        self.position, self.history = found.position, list(found.measured.history)
        self.meter.restore(found.measured, store.root / "state.json")
        for b, optimizer in zip(self.blocks, self.optimizers, strict=True):
            load_block(found, b, self.supernet.block(b), optimizer)

    def run(self, loader: Loader, on_progress: OnProgress | None = None) -> list[dict[str, Any]]:
        """Trains to the end, from wherever training stands.

        Returns:
            One record per epoch: mean loss per block, seconds, images/s.

        Raises:
            KeyboardInterrupt: Ctrl-C; the step was finished and a checkpoint written first.
            RuntimeError: a loss or a weight that is not finite; the message names block, epoch and step. Such weights
                never replace a checkpoint.
            OSError: a checkpoint could not be written; the message says why and what to do. The last good one stays.
        """
        if len(loader) == 0:
            raise ValueError(
                f"training: fewer images than one batch of {loader.batch_size}; lower train.batch_size or add images"
            )
        self.supernet.train()
        with deferred_interrupt() as interrupted:
            while self.position.epoch < self.config.epochs and not interrupted.is_set():
                self._epoch(loader, on_progress, interrupted)
        if interrupted.is_set():  # it came while an epoch, perhaps the last one, was being saved
            raise KeyboardInterrupt
        return self.history

    def _epoch(self, loader: Loader, on_progress: OnProgress | None, interrupted: threading.Event) -> None:
        self._set_learning_rates()
        meter = self.meter
        meter.start()
        self.clock.restart()
        total_steps, last_save = self.config.epochs * len(loader), time.monotonic()
        for batch in loader.epoch(self.position.epoch, self.position.batch):
            images = batch.images.to(self.device, non_blocking=True)
            self.clock.mark("loader")
            meter.add(self.step(images), len(images))
            self.position = replace(self.position, batch=self.position.batch + 1, step=self.position.step + 1)
            if self.position.step % LOG_STEPS == 0:
                losses, speed = meter.read(self.position)
                self.clock.mark("other")
                if on_progress is not None:
                    on_progress(self.progress(total_steps, losses, speed, self._cell_losses()))
            if interrupted.is_set():
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - last_save > 60 * self.config.checkpoint_minutes:
                self._save()
                last_save = time.monotonic()
            self.clock.mark("other")
        record = meter.epoch_record(self.position)
        self.history.append(record)
        self.position = Position(self.position.epoch + 1, 0, self.position.step)
        self.meter = self._new_meter()
        self._save()
        if on_progress is not None:
            on_progress(self.progress(total_steps, tuple(record["losses"]), record["images_per_s"]))

    def progress(
        self,
        total_steps: int,
        losses: tuple[float, ...],
        images_per_s: float,
        cell_losses: tuple[tuple[float, ...], ...] = (),
    ) -> Progress:
        gpu_bytes = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return Progress(self.position, total_steps, losses, images_per_s, cell_losses, self.clock.read(), gpu_bytes)

    def _cell_losses(self) -> tuple[tuple[float, ...], ...]:
        """Per block its cells' mean losses since the last call, by one copy from the device."""
        means = [learner.take_cell_losses() for learner in self.learners]
        flat = iter(torch.cat(means).tolist())
        return tuple(tuple(itertools.islice(flat, len(block))) for block in means)

    def _new_meter(self) -> Meter:
        return Meter(len(self.blocks), self.device, self.blocks[0])

    def _set_learning_rates(self) -> None:
        """Those of the epoch."""
        for b, optimizer in zip(self.blocks, self.optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = self.base_lrs[b] * self.config.lr_decay**self.position.epoch

    def autocast(self) -> torch.autocast:
        """Of the teacher's pass; students have their own."""
        return torch.autocast(self.device.type, self.amp, enabled=self.amp is not None)

    def step(self, images: Tensor) -> Tensor:
        """One optimizer step of every block on images [N, 3, H, W]; returns the losses [blocks], on the device."""
        with self.clock.part("teacher"), self.autocast():
            features = self.features(images)
        inputs = (images, *features[:-1])
        pairs = zip(self.learners, inputs, features, strict=True)
        with self.clock.part("students"):
            return torch.stack([learner.step(x, target, self.position.step) for learner, x, target in pairs])

    def _save(self) -> None:
        if self.store is None:
            return
        blocks = {b: self.supernet.block(b) for b in self.blocks}
        measured = self.meter.measured(self.history)
        check_finite(measured.losses, self.position)
        check_weights(blocks, self.position)  # a finite loss may still have had a gradient that was not
        self.store.save(list(blocks.values()), self.optimizers, self.position, measured)


class Meter:
    """Means of the losses since the last reading and over the epoch, and the images per second."""

    def __init__(self, blocks: int, device: torch.device, first_block: int = 0) -> None:
        self.first_block = first_block
        self.recent = torch.zeros(blocks, device=device)
        self.total = torch.zeros(blocks, dtype=torch.float64, device=device)
        self.recent_steps = self.recent_images = self.images = 0
        self.seconds = 0.0  # of training only: not the time between an interruption and going on
        self.start()

    def start(self) -> None:
        """Time counts from here."""
        self.last = self.recent_start = time.perf_counter()

    def restore(self, measured: Measured, path: Path) -> None:
        """Goes on with the sums that `measured()` gave; `path` is where they were read."""
        if len(measured.losses) != len(self.total):
            raise ValueError(
                f"{path}: damaged, measured.losses must hold {len(self.total)} sums, got {len(measured.losses)}; "
                "train in a new run directory"
            )
        self.total.copy_(torch.tensor(measured.losses, dtype=torch.float64))
        self.images, self.seconds = measured.images, measured.seconds

    def measured(self, history: Sequence[dict[str, Any]]) -> Measured:
        """Everything to be kept of the epoch so far, behind the records of the epochs before."""
        losses = tuple(self.total.tolist())
        self._tick()
        return Measured(tuple(history), losses, self.images, self.seconds)

    def add(self, losses: Tensor, images: int) -> None:
        self.recent += losses
        self.total += losses
        self.recent_steps += 1
        self.recent_images, self.images = self.recent_images + images, self.images + images
        self._tick()

    def read(self, position: Position) -> tuple[tuple[float, ...], float]:
        losses = tuple((self.recent / self.recent_steps).tolist())
        check_finite(losses, position, self.first_block)
        speed = self.recent_images / (time.perf_counter() - self.recent_start)
        self.recent.zero_()
        self.recent_steps = self.recent_images = 0
        self.recent_start = time.perf_counter()
        return losses, speed

    def epoch_record(self, position: Position) -> dict[str, Any]:
        losses = (self.total / position.batch).tolist()  # waits for the device, so that its time counts
        check_finite(losses, position, self.first_block)
        self._tick()
        return {
            "epoch": position.epoch,
            "losses": losses,
            "seconds": self.seconds,
            "images_per_s": self.images / self.seconds,
            "steps": position.batch,
        }

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self.last = self.seconds + now - self.last, now


def check_finite(losses: Sequence[float], position: Position, first_block: int = 0) -> None:
    """Raises the RuntimeError of `Trainer.run` where a loss is not finite."""
    for block, loss in enumerate(losses, start=first_block):
        if not math.isfinite(loss):
            raise RuntimeError(
                f"training: the loss of block {block} became {loss} before step {position.step} (epoch {position.epoch}); "
                "lower train.learning_rates, and check the teacher's features and the images' normalisation"
            )


def check_weights(blocks: Mapping[int, StudentBlock], position: Position) -> None:
    """The same where a weight of the blocks, by number, is not."""
    for index, block in blocks.items():
        if not torch.stack([p.detach().isfinite().all() for p in block.parameters()]).all():
            raise RuntimeError(
                f"training: weights of block {index} are no longer finite after step {position.step} (epoch {position.epoch}); "
                "no checkpoint was written; lower train.learning_rates, and check the teacher's features and the images' normalisation"
            )


def _learning_rates(config: TrainConfig, blocks: int) -> list[float]:
    rates = config.learning_rates * blocks if len(config.learning_rates) == 1 else config.learning_rates
    if len(rates) != blocks:
        raise ValueError(f"train.learning_rates: expected one or {blocks} (one per block), got {len(rates)}")
    return [rate * config.batch_size / config.reference_batch for rate in rates]
