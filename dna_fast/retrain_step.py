"""One training of a classifier as it stands: an update, the course so far, its checkpoint. `retrain.fit` runs it."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dna_fast._loop import Batch, Loader
from dna_fast.distill import FeatureDistiller
from dna_fast.mixing import Mixed, mix
from dna_fast.optimizer_state import load_optimizer, optimizer_tensors
from dna_fast.recipe import Accuracy, Recipe, evaluate
from dna_fast.resume import DamagedWarning
from dna_fast.tensor_files import read_tensors, tensors_sha256, write_tensors

LOG = logging.getLogger(__name__)

FORMAT, VERSION = "dna_fast.retrain", 1
WARMUP_LR = 1e-6  # where warm-up starts, as in the released training command
_MIXING = 1  # tells the numbers that mix images from those of dropout
LOG_STEPS = 10  # losses stay on the device and are read this often: reading one waits for the device
SAVE, STOP = 1, 2  # what to do behind an update


@dataclass(frozen=True)
class StepRecord:
    """What a progress display needs, every LOG_STEPS updates; loss is the mean over the epoch so far."""

    epoch: int
    step: int  # updates done
    total_steps: int
    loss: float
    lr: float
    images_per_s: float  # of all ranks, since the record before; evaluation and saving left out


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch; its accuracy (of the averaged weights, if the recipe averages) is None where none was due."""

    epoch: int
    loss: float  # mean over the epoch's updates
    lr: float  # of the last update
    accuracy: Accuracy | None
    seconds: float  # since training started, evaluation and earlier parts of an interrupted run included


@dataclass(frozen=True)
class FitResult:
    """The course of training, and the accuracy of the weights the model now holds: the last ones, not the best."""

    history: tuple[EpochRecord, ...]
    accuracy: Accuracy
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON, the interval spelled out."""
        low, high = self.accuracy.interval
        accuracy = {**asdict(self.accuracy), "top1": self.accuracy.top1, "interval_95": [low, high]}
        return {"accuracy": accuracy, "seconds": self.seconds, "history": [asdict(record) for record in self.history]}


class LossNotFinite(RuntimeError):
    """Training has gone wrong; what was saved is good."""


class DamagedCheckpoint(ValueError):
    """A file is not as it was written; the message names it.

    Attributes:
        what: is damaged, without the remedy.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; delete it to train from the start, or restore it from a copy")
        self.what = what


TeacherLogits = Callable[[Tensor], Tensor]  # images [N, 3, H, W] -> logits [N, classes]


def distillation_loss(logits: Tensor, target: Tensor | Mixed, teacher: Tensor | None, recipe: Recipe) -> Tensor:
    """(1 - w) cross-entropy with label smoothing + w T^2 KL(teacher || student, both at temperature T); float32.

    Args:
        logits, teacher: [N, classes]; the teacher's may be None where w = recipe.distill_weight is 0.
        target: labels [N] int64, or both labels of mixed images.
    """
    if isinstance(target, Mixed):
        loss = target.cross_entropy(logits, recipe.label_smoothing)
    else:
        loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return loss
    if teacher.shape != logits.shape:
        raise ValueError(
            f"fit: teacher_logits must give {tuple(logits.shape)} like the model, got {tuple(teacher.shape)}"
        )
    weight, temperature = recipe.distill_weight, recipe.distill_temperature
    student_log, teacher_log = (F.log_softmax(z.float() / temperature, dim=1) for z in (logits, teacher))
    # T^2 keeps the size of this gradient, which shrinks as 1 / T^2, beside the labels'
    divergence = F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return (1 - weight) * loss + weight * temperature**2 * divergence


class Training:
    """A training and where it stands; its methods are called by `retrain.fit` in their order.

    Args:
        updates_per_epoch: batches of an epoch.
        device: where to train.
        the others: as `retrain.fit` takes them.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        seed: int,
        updates_per_epoch: int,
        device: torch.device,
        distiller: FeatureDistiller | None = None,
    ) -> None:
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.seed, self.updates_per_epoch, self.device = recipe, seed, updates_per_epoch, device
        self.distiller = distiller
        # Everything the optimizer moves; without projections the network alone, whose parameters keep their names.
        self.trained: nn.Module = self.model
        if distiller is not None:
            self.trained = nn.ModuleDict({"model": self.model, "distiller": distiller.to(device)})
        eps = {} if recipe.opt_eps is None else {"eps": recipe.opt_eps}
        self.optimizer = create_optimizer_v2(
            self.trained,
            recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **eps,
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            recipe.schedule,
            num_epochs=recipe.epochs,
            decay_epochs=recipe.decay_epochs,
            decay_rate=recipe.decay_rate,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=WARMUP_LR,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
        )
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        if distiller is not None:
            distiller.attach(self.model)  # behind the average, whose copy must not be listened to
        self.step = self.epoch = self.batch = 0
        self.history: list[EpochRecord] = []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.lr = self.images_per_s = 0.0
        self.start = time.perf_counter()
        self.last_save = time.monotonic()
        self._restart_clock()

    def _restart_clock(self) -> None:
        """From here on images per second are counted."""
        self._since = time.perf_counter(), self.step

    def _drop_seed(self) -> tuple[int, ...]:
        """What dropout and drop path are drawn from."""
        return self.seed, self.step

    def _after_forward(self, loss: Tensor) -> None:
        """Called between forward and backward pass."""

    def _after_backward(self, loss: Tensor) -> Tensor:
        """Called before the gradients are used; the loss to report."""
        return loss

    def update(self, batch: Batch, teacher_logits: TeacherLogits | None) -> None:
        """One optimizer step, in the model's present mode."""
        # One stream per update, not per run: a run goes on as if never interrupted, with no generator state kept.
        torch.manual_seed(int(np.random.SeedSequence(self._drop_seed()).generate_state(1, np.uint64)[0]))
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        target: Tensor | Mixed = labels
        if self.recipe.mixes:
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, self.step, _MIXING))))
            target = mix(images, labels, mixup=self.recipe.mixup, cutmix=self.recipe.cutmix, rng=rng)
            images = target.images
        with torch.no_grad():
            seen = None if self.distiller is None else self.distiller.look(images)
            # one pass of the teacher for logits and features
            teacher = None if teacher_logits is None else teacher_logits(images) if seen is None else seen
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp_dtype == "bfloat16"):
            logits = self.model(images)
        loss = distillation_loss(logits, target, teacher, self.recipe)
        if self.distiller is not None:
            loss = loss + self.recipe.feature_weight * self.distiller.loss()
        self.optimizer.zero_grad(set_to_none=True)
        self._after_forward(loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self._after_backward(loss.detach())
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.grad_clip)
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.step, self.batch = self.step + 1, self.batch + 1
        self.scheduler.step_update(self.step)
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        self.loss_sum += loss
        if self.step % LOG_STEPS == 0:
            self.mean_loss()  # waits for the device: by now the updates are done
            begun, at = self._since
            self.images_per_s = self.recipe.batch_size * (self.step - at) / (time.perf_counter() - begun)
            self._restart_clock()

    def mean_loss(self) -> float:
        """Mean over the epoch so far, checked: one step that is not finite stays in it."""
        loss = float(self.loss_sum) / max(self.batch, 1)
        if not math.isfinite(loss):
            raise LossNotFinite(
                f"fit: the loss became {loss} in epoch {self.epoch}, step {self.step} or up to {LOG_STEPS - 1} before, "
                f"lr {self.lr:.3g}; try a lower lr, a longer warm-up or grad_clip=1, and check the images' values"
            )
        return loss

    def step_record(self) -> StepRecord:
        total_steps = self.recipe.epochs * self.updates_per_epoch
        return StepRecord(self.epoch, self.step, total_steps, self.mean_loss(), self.lr, self.images_per_s)

    def wish(self, is_interrupted: bool, checkpoint_minutes: float) -> int:
        """What is to be done behind this update: 0, SAVE, or SAVE | STOP."""
        if is_interrupted:
            return SAVE | STOP
        return SAVE if time.monotonic() - self.last_save > 60 * checkpoint_minutes else 0

    def stop(self) -> None:
        """Ends a training that somebody interrupted, saved.

        Raises:
            KeyboardInterrupt: always.
        """
        raise KeyboardInterrupt

    def finish_epoch(self, eval_loader: Loader) -> EpochRecord:
        """Evaluates where it is time to, and moves on to the next epoch."""
        loss, number, recipe = self.mean_loss(), self.epoch + 1, self.recipe
        final = self.model if self.ema is None else self.ema.module
        due = number % recipe.eval_epochs == 0 or number == recipe.epochs
        accuracy = self._evaluate(final, eval_loader) if due else None
        self.history.append(EpochRecord(self.epoch, loss, self.lr, accuracy, self._seconds()))
        self.epoch, self.batch = number, 0
        self.loss_sum.zero_()
        return self.history[-1]

    def _evaluate(self, model: nn.Module, loader: Loader) -> Accuracy:
        return evaluate(model, loader, self.device)

    def _seconds(self) -> float:
        """Since training started, earlier parts of an interrupted run included."""
        return time.perf_counter() - self.start

    def result(self) -> FitResult:
        """Leaves the final weights in the model, and nothing that listens to it."""
        if self.distiller is not None:
            self.distiller.detach()
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())
        self.model.eval()
        last = self.history[-1]
        assert last.accuracy is not None, "the last epoch is always evaluated"
        return FitResult(tuple(self.history), last.accuracy, last.seconds)

    def _modules(self) -> dict[str, nn.Module]:
        found = {"model": self.model, "ema": None if self.ema is None else self.ema.module, "distiller": self.distiller}
        return {kind: module for kind, module in found.items() if module is not None}

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run to be continued by it."""
        return {**asdict(self.recipe), "seed": self.seed, "updates_per_epoch": self.updates_per_epoch}

    def save(self, path: str | Path | None) -> None:
        """Writes a checkpoint, atomically; None writes none.

        Raises:
            RuntimeError: the loss or a weight is not finite; such weights never replace good ones.
            OSError: as `write_tensors`.
        """
        if path is not None:
            self._check_finite()
            self._write(path)
            LOG.info("%s written: step %d, epoch %d", path, self.step, self.epoch)
        self.last_save = time.monotonic()
        self._restart_clock()

    def _write(self, path: str | Path) -> None:
        tensors = optimizer_tensors(self.trained, self.optimizer)
        for kind, module in self._modules().items():
            tensors |= {f"{kind}/{name}": t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
        state = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self._identity(),
            "position": {"step": self.step, "epoch": self.epoch, "batch": self.batch, "lr": self.lr},
            "loss_sum": float(self.loss_sum),
            "seconds": self._seconds(),
            "history": [asdict(record) for record in self.history],
            "sha256": tensors_sha256(tensors),
        }
        keep = partial(_keep_older, Path(path))
        write_tensors(path, tensors, {"state": json.dumps(state)}, before_replacing=keep)

    def _check_finite(self) -> None:
        self.mean_loss()  # raises
        if not torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all():
            raise RuntimeError(
                f"fit: weights are no longer finite after step {self.step} (epoch {self.epoch}), though the loss still is; "
                "no checkpoint was written; try a lower lr, a longer warm-up or grad_clip=1"
            )

    def go_on(self, path: Path) -> None:
        """Goes on where a checkpoint stopped, if there is one; raises as `load_newest`."""
        if path.exists():
            self.load_newest(path)

    def load_newest(self, path: Path) -> tuple[Path, str]:
        """Goes on from a checkpoint; where that is damaged, from the one before, with a DamagedWarning.

        Returns:
            The file that was read, and what `load` says of it.

        Raises:
            ValueError: as `load`; what is damaged has no good one before it.
        """
        try:
            return path, self.load(path)
        except DamagedCheckpoint as error:
            before = older(path)
            if not before.exists():
                raise
            try:
                found = self.load(before)
            except DamagedCheckpoint as worse:
                raise DamagedCheckpoint(f"{error.what}; {worse.what}") from error
            words = f"{error.what}. Taken instead: {before}, step {self.step}"
            warnings.warn(DamagedWarning(words), stacklevel=2)
            return before, found

    def load(self, path: Path) -> str:
        """Goes on where a checkpoint stopped; returns what tells it apart from others.

        Raises:
            ValueError: damaged (DamagedCheckpoint), of a newer version, of another run.
        """
        state, tensors = _read_checkpoint(path)
        there, here = state["identity"], self._identity()
        differing = [
            f"{name} is {there.get(name)!r}, here {here[name]!r}" for name in here if there.get(name) != here[name]
        ]
        if differing:
            raise ValueError(
                f"{path}: a checkpoint of another run ({'; '.join(differing)}); delete it or give another path"
            )
        try:
            for kind, module in self._modules().items():
                module.load_state_dict(
                    {n.removeprefix(f"{kind}/"): t for n, t in tensors.items() if n.startswith(f"{kind}/")}
                )
        except RuntimeError as error:
            raise ValueError(
                f"{path}: a checkpoint of another model; delete it or give another path: {error}"
            ) from error
        load_optimizer(self.trained, self.optimizer, tensors)
        for name, value in state["position"].items():
            setattr(self, name, value)
        self.loss_sum.fill_(state["loss_sum"])
        self.history = [_epoch_record(record) for record in state["history"]]
        self.start = time.perf_counter() - state["seconds"]
        self.scheduler.step_update(self.step)
        self._restart_clock()
        return f"step {self.step}, sha256 {state.get('sha256')}"


def older(path: Path) -> Path:
    """Where the checkpoint stays that a newer one at `path` has replaced."""
    return path.with_name(f"{path.stem}.older{path.suffix}")


def _keep_older(path: Path) -> None:
    """Gives the checkpoint at `path` its older name as well, for it is about to be replaced; needs no room on the disk."""
    if path.exists():
        with suppress(OSError):  # a file system without hard links keeps none
            older(path).unlink(missing_ok=True)
            os.link(path, older(path))


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        tensors, metadata = read_tensors(path)
        state = json.loads(metadata.get("state", "{}"))
    except ValueError as error:  # of JSON too
        raise DamagedCheckpoint(f"{path}: a damaged checkpoint ({error})") from error
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of a training run; expected format {FORMAT!r}, got {state.get('format')!r}"
        )
    if state["version"] > VERSION:
        newer = f"version {state['version']}, this one reads up to {VERSION}"
        raise ValueError(f"{path}: written by a newer dna_fast ({newer}); update dna_fast")
    if state.get("sha256", here := tensors_sha256(tensors)) != here:  # earlier releases wrote none
        raise DamagedCheckpoint(f"{path}: a damaged checkpoint (its tensors are not those that were written)")
    return state, tensors


def _epoch_record(record: dict[str, Any]) -> EpochRecord:
    accuracy = record["accuracy"]
    return EpochRecord(**{**record, "accuracy": None if accuracy is None else Accuracy(**accuracy)})
