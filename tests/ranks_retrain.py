"""What ranks do in tests of retraining: train a tiny classifier together, and fail at chosen moments. Every function runs in one rank."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from test_distill import distiller, teacher
from test_retrain import RECIPE, Batch, TensorLoader, tiny_model
from torch import Tensor, nn

from dna_fast import retrain_ranks, retrain_step
from dna_fast.cli_failures import report
from dna_fast.head import HeadTraining, head_recipe
from dna_fast.parallel import joined
from dna_fast.retrain import fit
from dna_fast.retrain_step import TeacherLogits, Training
from dna_fast.tensor_files import tensors_sha256

IMAGES, BATCH, EVAL_IMAGES = 60, 12, 21  # 5 updates an epoch; a batch is for 1, 2, 3, 4, 6 ranks
# Not Adam: of a gradient that is zero but for rounding, as of a bias in front of a batch norm, it makes a whole step.
PLAIN = replace(RECIPE, batch_size=BATCH, epochs=2, drop_rate=0.0, drop_path_rate=0.0, warmup_epochs=0, optimizer="sgd")
RECIPES = {
    "sync": replace(PLAIN, sync_bn=True),
    "sync, mixed": replace(PLAIN, sync_bn=True, mixup=0.2, cutmix=1.0, grad_clip=1.0),
    "sync, distilled": replace(PLAIN, sync_bn=True, distill_weight=0.5, feature_weight=2.0),
    "local": replace(PLAIN, drop_rate=0.2, drop_path_rate=0.2),
    "head": head_recipe(PLAIN, 2, has_teacher=False),
    "frozen": PLAIN,
    "still": replace(PLAIN, lr=1e-12, ema_decay=0.0),
}


class Part:
    """A rank's part of a loader's images: of every training batch its slice, of the evaluation's batches some."""

    def __init__(self, whole: TensorLoader, rank: int, ranks: int) -> None:
        self.whole, self.rank, self.ranks = whole, rank, ranks
        self.batch_size = whole.batch_size // ranks if whole.training else whole.batch_size

    def __len__(self) -> int:
        return len(self.whole)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(self.whole.epoch(epoch, start_batch)):
            if not self.whole.training:
                if number % self.ranks == self.rank:
                    yield batch
                continue
            own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
            yield Batch(batch.images[own], batch.labels[own], batch.indices[own])


class Frozen(nn.Module):
    """A network whose batch norms stay as they are; their weights train."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


def train(out: str, env: dict[str, str], recipe: str = "sync", trouble: str = "", rank: int = 0, step: int = 0) -> None:
    """Trains the tiny network into `out` and notes there what every rank knows; `trouble` befalls one rank before an update."""
    torch.set_num_threads(1)
    os.environ.update(env)
    retrain_ranks.BUCKET_BYTES = 1 << 11  # several of so small a network
    directory, chosen = Path(out), RECIPES[recipe]
    told: list[int] = []
    try:
        with joined() as world:
            number, size = (0, 1) if world is None else (world.rank, world.size)
            if trouble and number == rank:
                _befall(trouble, step)
            model = tiny_model(chosen)
            model = {"head": HeadTraining, "frozen": Frozen}.get(recipe, lambda m: m)(model)
            if world is not None and number > 0:
                _disturb(model)  # what counts are rank 0's weights
            features = distiller() if chosen.feature_weight else None
            result = fit(
                model,
                Part(TensorLoader(IMAGES, BATCH, training=True), number, size),
                Part(TensorLoader(EVAL_IMAGES, 4, training=False, seed=5), number, size),
                chosen,
                seed=3,
                teacher_logits=teacher().logits if chosen.distill_weight else None,
                distiller=features,
                on_step=lambda record: told.append(record.step),
                checkpoint=directory / "checkpoint.safetensors",
                checkpoint_minutes=1e-9 if trouble else 10.0,
                world=world,
            )
            note = {
                "history": [[r.loss, r.lr, r.accuracy and asdict(r.accuracy), r.seconds] for r in result.history],
                "weights": tensors_sha256(model.state_dict()),
                "projections": features and tensors_sha256(features.state_dict()),
                "told": told,
                "left": any(m._forward_hooks or "forward" in m.__dict__ for m in model.modules()),
            }
            (directory / f"known_{number}.json").write_text(json.dumps(note))
            if number == 0:
                torch.save(model.state_dict(), directory / "weights.pt")
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
    except Exception as error:
        sys.exit(report(error))


def _disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)


def _befall(trouble: str, at: int) -> None:
    """Lets trouble befall this rank before an update."""
    whole = Training.update

    def update(training: Training, batch: Batch, teacher_logits: TeacherLogits | None) -> None:
        if training.step == at:
            TROUBLES[trouble](training)
            if trouble == "not finite":
                batch = replace(batch, images=batch.images * float("nan"))
        whole(training, batch, teacher_logits)

    Training.update = update  # type: ignore[assignment, method-assign]


def _fill_disk(_: Training) -> None:
    def write(path: Path, *_: Any, **__: Any) -> None:
        failure = OSError(f"{path}: cannot be written: No space left on device")
        failure.errno = errno.ENOSPC
        raise failure

    retrain_step.write_tensors = write


TROUBLES: dict[str, Callable[[Training], None]] = {
    "SIGKILL": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "SIGINT": lambda _: os.kill(os.getpid(), signal.SIGINT),
    "full disk": _fill_disk,
    "not finite": lambda _: None,
    "drift": lambda training: _disturb(training.model),
    "loader": lambda _: _lose_loader(),
}


def _lose_loader() -> None:
    raise RuntimeError("data: the loader died")
