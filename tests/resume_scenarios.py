"""What is saved in tests of resuming, small: how to save it once more, and how to read what lies on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_retrain import EVAL, RECIPE, TRAIN, tiny_model
from torch import nn
from toy import SPACE, ToyBatch, ToyLoader, toy_supernet, toy_teacher

from dna_fast._files import file_sha256
from dna_fast._loop import Loader
from dna_fast.checkpoint import CheckpointStore, Measured, Position, find_checkpoint, load_block
from dna_fast.checkpoint_state import read_state
from dna_fast.config import TrainConfig
from dna_fast.optimizer_state import optimizer_tensors
from dna_fast.rate import RateOptions, rate
from dna_fast.rating_store import RatingStore
from dna_fast.retrain import fit
from dna_fast.retrain_step import Training
from dna_fast.tables import METRICS, RatingTable
from dna_fast.tensor_files import tensors_sha256
from dna_fast.train import Problem, Trainer

_CPU = torch.device("cpu")
ALWAYS_MINUTES = 1e-9  # so short that every step is saved
TRAIN_CONFIG = TrainConfig(
    epochs=2,
    batch_size=16,
    bn_group=8,
    learning_rates=(0.01,),
    reference_batch=16,
    checkpoint_minutes=ALWAYS_MINUTES,
)
FIT_RECIPE = replace(RECIPE, optimizer="rmsproptf", schedule="step", epochs=3)  # with an average of the weights


def everything(module: nn.Module, optimizer: Any) -> str:
    """sha256 of weights, buffers and moments."""
    return tensors_sha256({**module.state_dict(), **optimizer_tensors(module, optimizer)})


# ---- one save, of which every moment can be the last -----------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A state on the disk and the next one.

    Args:
        prepare: makes the old state in a directory.
        save: makes it the new one; as often as asked for, with the same result.
        read: the state there is, as anything comparable; raises where it cannot be read.
    """

    prepare: Callable[[Path], None]
    save: Callable[[Path], None]
    read: Callable[[Path], Any]


def supernet() -> Scenario:
    """The third checkpoint of a training that keeps two: the first is dropped. Blocks of four tensors, which are quick to save."""
    blocks, others = ([_block(seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    optimizers, other_optimizers = ([torch.optim.Adam(b.parameters()) for b in each] for each in (blocks, others))
    step = 0

    def save(root: Path) -> None:
        measured = Measured((), (step / 3, step / 7), 16 * step, step / 9)
        CheckpointStore(root, "a").save(blocks, optimizers, Position(0, step, step), measured)

    def train() -> None:
        nonlocal step
        step += 1
        for block, optimizer in zip(blocks, optimizers, strict=True):
            block(torch.full((2, 3, 4, 4), float(step))).square().sum().backward()
            optimizer.step()

    def prepare(root: Path) -> None:
        root.mkdir()
        for _ in range(2):
            train()
            save(root)
        train()

    def read(root: Path) -> Any:
        found = find_checkpoint(root, "a")
        assert found is not None
        for kept in read_state(root, "a"):  # whatever counts is whole, not the last one only
            assert {name: file_sha256(kept.directory / name) for name in kept.files} == kept.files
        for b in range(2):
            load_block(found, b, others[b], other_optimizers[b])
        states = [everything(block, optimizer) for block, optimizer in zip(others, other_optimizers, strict=True)]
        return found.position, found.measured, states

    return Scenario(prepare, save, read)


def _block(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))


def classifier() -> Scenario:
    """The second checkpoint of a fit, over the first."""
    training, other = (Training(tiny_model(FIT_RECIPE), FIT_RECIPE, 0, len(TRAIN), _CPU) for _ in range(2))
    training.model.train()
    batches = TRAIN.epoch(0)

    def prepare(root: Path) -> None:
        root.mkdir()
        training.update(next(batches), None)
        training.save(root / "fit.safetensors")
        training.update(next(batches), None)

    def read(root: Path) -> Any:
        other.load(root / "fit.safetensors")
        assert other.ema is not None
        average = tensors_sha256(other.ema.module.state_dict())
        return other.step, other.batch, float(other.loss_sum), everything(other.model, other.optimizer), average

    return Scenario(prepare, lambda root: training.save(root / "fit.safetensors"), read)


def ratings() -> Scenario:
    """A second operator's ratings beside the first's."""
    values = np.random.default_rng(0).normal(size=(2, 3, 4, len(METRICS)))

    def prepare(root: Path) -> None:
        RatingStore(root, "a").save(0, 0, 0, values[0])

    def read(root: Path) -> Any:
        store = RatingStore(root, "a")
        loaded = [store.load(0, 0, operator, values.shape[1:]) for operator in range(2)]
        return [None if array is None else array.tobytes() for array in loaded]

    return Scenario(prepare, lambda root: RatingStore(root, "a").save(0, 0, 1, values[1]), read)


def table() -> Scenario:
    """A table of ratings over another one."""
    old, new = (_table(seed) for seed in range(2))

    def prepare(root: Path) -> None:
        old.save(root / "ratings.npz")

    def read(root: Path) -> Any:
        return [losses.tobytes() for losses in RatingTable.load(root / "ratings.npz").losses()]

    return Scenario(prepare, lambda root: new.save(root / "ratings.npz"), read)


def _table(seed: int) -> RatingTable:
    rng = np.random.default_rng(seed)
    dtype = [(field, np.float64) for name in METRICS for field in (name, f"{name}_se")]
    blocks = []
    for b in range(len(SPACE.blocks)):
        block = np.empty(SPACE.num_candidates(b), dtype)
        for name in block.dtype.names or ():
            block[name] = rng.random(len(block))
        blocks.append(block)
    return RatingTable(SPACE, blocks, metric=METRICS[0], metadata={})


# ---- whole jobs, which something breaks halfway ----------------------------------------------------------------------

OnStep = Callable[[], None]  # called before every step of training, and before every save of ratings


def train_all(root: Path, on_step: OnStep) -> Any:
    """Trains a supernet, or what is left of that; weights, moments and losses at its end."""
    trainer = Trainer(Problem(toy_supernet(), toy_teacher(), TRAIN_CONFIG, seed=0, checkpoints=root / "supernet"))
    trainer.run(_Watched(_loader(), on_step))
    states = [everything(trainer.supernet.block(b), trainer.optimizers[b]) for b in range(2)]
    return states, [record["losses"] for record in trainer.history]


def fit_all(root: Path, on_step: OnStep) -> Any:
    """Trains a classifier, or what is left of that."""
    model, path = tiny_model(FIT_RECIPE), root / "fit" / "classifier.safetensors"
    loader = _Watched(TRAIN, on_step)
    result = fit(model, loader, EVAL, FIT_RECIPE, seed=0, checkpoint=path, checkpoint_minutes=ALWAYS_MINUTES)
    return tensors_sha256(model.state_dict()), [(r.loss, r.lr, r.accuracy) for r in result.history]


def rate_all(root: Path, on_step: OnStep) -> Any:
    """Rates a supernet, or what is left of that."""

    class Watched(RatingStore):
        def save(self, *arguments: Any) -> None:
            on_step()
            super().save(*arguments)

    loaders = ToyLoader([8, 8], seed=1), ToyLoader([8, 8], seed=2)
    found = rate(toy_supernet(), toy_teacher(), loaders, RateOptions(), store=Watched(root / "rating", "a"))
    return [losses.tobytes() for losses in found.losses()]


def _loader() -> ToyLoader:
    return ToyLoader([16] * 3, seed=4, shuffled=True)


class _Watched:
    """A loader that says when it is asked for a batch."""

    def __init__(self, loader: Loader, on_step: OnStep) -> None:
        self.loader, self.on_step, self.batch_size = loader, on_step, loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for batch in self.loader.epoch(epoch, start_batch):
            self.on_step()
            yield batch
