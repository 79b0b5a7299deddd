"""What ranks do in tests: train and rate a toy of four blocks, and fail at chosen moments. Every function runs in one rank."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toy import FRAME, ToyBatch, ToyLoader

from dna_fast import checkpoint
from dna_fast.cli_failures import report
from dna_fast.config import TrainConfig
from dna_fast.parallel import World, joined
from dna_fast.pipeline_ranks import share
from dna_fast.placement import Placement
from dna_fast.rate import rate
from dna_fast.rating_store import RatingStore
from dna_fast.space import Block, Cell, Choice, SearchSpace
from dna_fast.supernet import Supernet
from dna_fast.teacher import Teacher
from dna_fast.train import Problem, Progress, Trainer
from dna_fast.train_ranks import Elsewhere, RankTrainer

SPACE = SearchSpace(
    "four",
    (Choice(3, 2), Choice(5, 2), Choice(3, 3)),
    (
        Block(2, (Cell(1, 6), Cell(2, 5))),
        Block(1, (Cell(2, 8),)),
        Block(2, (Cell(1, 8), Cell(2, 10))),
        Block(1, (Cell(1, 12),)),
    ),
    FRAME,
)
CHANNELS = (7, 9, 8, 10)
CONFIG = TrainConfig(epochs=2, batch_size=32, bn_group=8, learning_rates=(0.01,), reference_batch=32)
BATCHES = 12  # per epoch: more than steps between reports


def teacher() -> Teacher:
    """Four stages: 16 -> 4, 4, 2, 2 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(11)
        model, cin = nn.Sequential(), 3
        for stage, (cout, kernel, stride) in enumerate(zip(CHANNELS, (5, 3, 3, 3), (4, 1, 2, 1), strict=True)):
            convolution = nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2)
            model.add_module(f"stage{stage}", nn.Sequential(convolution, nn.BatchNorm2d(cout), nn.SiLU()))
            cin = cout
    return Teacher(model, [f"stage{stage}" for stage in range(4)], input_size=(3, 16, 16))


def supernet(held: Sequence[int] | None = None) -> Supernet:
    return Supernet(SPACE, CHANNELS, bn_group=CONFIG.bn_group, seed=0, held=held)


class Part:
    """A replica's part of every batch of a loader; dies at a batch where it is told to."""

    def __init__(self, whole: ToyLoader, replica: int, replicas: int, dies_at: int | None) -> None:
        self.whole, self.replica, self.dies_at = whole, replica, dies_at
        self.batch_size = whole.batch_size // replicas

    def __len__(self) -> int:
        return len(self.whole)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for number, batch in enumerate(self.whole.epoch(epoch, start_batch), start=start_batch):
            if epoch == 0 and number == self.dies_at:
                raise RuntimeError("data: the loader died")
            yield ToyBatch(batch.images[self.replica * self.batch_size :][: self.batch_size])


# ---- training --------------------------------------------------------------------------------------------------------


def train(
    out: str,
    env: dict[str, str],
    stages: Sequence[int] = (4,),
    replicas: int = 1,
    trouble: str = "",
    rank: int = 0,
    step: int = 0,
    epochs: int = CONFIG.epochs,
    batches: int = BATCHES,
) -> None:
    """Trains the toy into `out` and notes there what every rank knows; `trouble` befalls one rank before a step."""
    torch.set_num_threads(1)
    os.environ.update(env)
    directory, config = Path(out), replace(CONFIG, epochs=epochs)
    whole = ToyLoader([config.batch_size] * batches, seed=4, shuffled=True)
    told: list[Progress] = []
    try:
        with joined() as world:
            dies_at = step if trouble == "loader" and world is not None and world.rank == rank else None
            if world is None:
                trainer = Trainer(Problem(supernet(), teacher(), config, seed=0, checkpoints=directory, identity="a"))
                history = trainer.run(whole, told.append)
            else:
                trainer = _rank_trainer(world, Placement.of(stages, replicas), config, directory)
                if trouble and world.rank == rank:
                    _befall(trainer, trouble, step)
                stage, replica = divmod(world.rank, replicas)
                loader = Part(whole, replica, replicas, dies_at) if stage == 0 else Elsewhere(32 // replicas, batches)
                history = trainer.run(loader, told.append)
            _note(directory, world, trainer, history, told)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
    except Exception as error:
        sys.exit(report(error))


def _rank_trainer(world: World, placement: Placement, config: TrainConfig, directory: Path) -> RankTrainer:
    own = placement.blocks(world.rank // placement.replicas)
    problem = Problem(supernet(own), teacher(), config, seed=0, checkpoints=directory, identity="a")
    return RankTrainer(problem, world, placement)


def _note(directory: Path, world: World | None, trainer: Trainer, history: list[Any], told: list[Progress]) -> None:
    known = {
        "blocks": list(trainer.blocks),
        "history": [record["losses"] for record in history],
        "told": [[p.position.step, *p.losses] for p in told],
        "sent": {} if world is None else world.sent,
        "weights": sum(p.numel() for p in trainer.supernet.parameters()),
    }
    rank = 0 if world is None else world.rank
    (directory / f"known_{rank}.json").write_text(json.dumps(known))


def _befall(trainer: RankTrainer, trouble: str, at: int) -> None:
    """Lets trouble befall this rank before a step."""
    whole: Callable[[Tensor, int], Tensor] = trainer._step

    def step(x: Tensor, flags: int) -> Tensor:
        if trainer.position.step == at:
            TROUBLES[trouble](trainer)
        return whole(x, flags)

    trainer._step = step  # type: ignore[method-assign]


def _fill_disk(_: RankTrainer) -> None:
    def write(path: Path, *_: Any) -> str:
        failure = OSError(f"{path}: cannot be written: No space left on device")
        failure.errno = errno.ENOSPC
        raise failure

    checkpoint.write_tensors = write  # type: ignore[assignment]


def _lose_state(_: RankTrainer) -> None:
    def write(root: Path, *_: Any) -> None:
        failure = OSError(f"{root}: cannot be written: No space left on device")
        failure.errno = errno.ENOSPC
        raise failure

    checkpoint.write_state = write


def _spoil(trainer: RankTrainer) -> None:
    with torch.no_grad():
        for parameter in trainer.supernet.parameters():
            parameter.fill_(float("nan"))


def _drift(trainer: RankTrainer) -> None:
    with torch.no_grad():
        next(trainer.supernet.parameters()).add_(2**-10)


TROUBLES: dict[str, Callable[[RankTrainer], None]] = {
    "SIGKILL": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "SIGINT": lambda _: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "full disk": _fill_disk,
    "no state": _lose_state,
    "SIGSTOP": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "not finite": _spoil,
    "drift": _drift,
    "loader": lambda _: None,
}


# ---- rating ----------------------------------------------------------------------------------------------------------


def rate_all(out: str, env: dict[str, str]) -> None:
    """Rates the toy, from whatever `out` holds already; every rank writes the table it has."""
    torch.set_num_threads(1)
    os.environ.update(env)
    directory, told = Path(out), list[int]()
    with joined() as world:
        if world is None or world.is_leader:
            store = RatingStore(directory / "rating", "a")
        with world.leader_first("store") if world is not None else joined():
            store = RatingStore(directory / "rating", "a")
        loaders = ToyLoader([8, 8], seed=1), ToyLoader([8, 8], seed=2)
        mine = None if world is None else share(world)
        table = rate(
            supernet(), teacher(), loaders, store=store, share=mine, on_progress=lambda p: told.append(p.paths)
        )
        rank = 0 if world is None else world.rank
        table.save(directory / f"table_{rank}.npz")
        print(json.dumps(told))


# ---- the command line ------------------------------------------------------------------------------------------------


def command(env: dict[str, str], command: Sequence[str]) -> None:
    """`python -m dna_fast ...` as a rank."""
    from zygote import command as plainly

    torch.set_num_threads(1)
    os.environ.update(env)
    plainly(*command)
