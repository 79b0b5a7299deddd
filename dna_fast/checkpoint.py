"""Checkpoints of block-wise training: one safetensors file per block, and a small JSON file that makes them count.

A checkpoint is a directory ``step_<n>`` with every block's weights and optimizer state; ``state.json`` names the directory that
counts and is replaced last, so that whatever moment a run dies at, a complete checkpoint stays.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dna_fast._files import read_json, write_json, written_aside
from dna_fast.optimizer_state import load_optimizer, optimizer_tensors

FORMAT, VERSION = "dna_fast.supernet", 1

_REMEDY = "restore it from a copy, or delete the directory of the checkpoints to train from the start"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Position:
    """Where training stands: the next batch to train on."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Measured:
    """What training has measured: a record per finished epoch, and the sums of the epoch that is under way."""

    history: tuple[dict[str, Any], ...]
    losses: tuple[
        float, ...
    ]  # per block, summed over the epoch's batches so far, of which Position.batch is the number
    images: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """What `state.json` says."""

    directory: Path
    position: Position
    measured: Measured


def save_checkpoint(
    root: Path,
    blocks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    measured: Measured,
    identity: str,
) -> None:
    """Writes a checkpoint and then drops older ones.

    Args:
        root: directory of the checkpoints.
        blocks, optimizers: one optimizer per block.
        position: the next batch.
        measured: kept to the last bit.
        identity: what the weights depend on; loading under another identity is refused.
    """
    directory = root / f"step_{position.step:08d}"
    directory.mkdir(parents=True, exist_ok=True)
    for b, (block, optimizer) in enumerate(zip(blocks, optimizers, strict=True)):
        with written_aside(directory / f"block_{b}.safetensors") as aside:
            save_file({**_weights(block), **optimizer_tensors(block, optimizer)}, aside)
    state = {"format": FORMAT, "version": VERSION, "identity": identity, "directory": directory.name}
    write_json(root / "state.json", {**state, "position": asdict(position), "measured": asdict(measured)})
    for old in root.glob("step_*"):
        if old != directory:
            shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(root: Path, identity: str) -> Checkpoint | None:
    """The checkpoint under `root`, or None if there is none yet.

    Args:
        root: directory of the checkpoints.
        identity: what the weights must depend on.

    Raises:
        ValueError: damaged, incomplete, of another format or version, or of another configuration.
    """
    path = root / "state.json"
    if not path.exists():
        return None
    state = read_json(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a supernet checkpoint; expected format {FORMAT!r}")
    fields = _Fields(path, "", state)
    if (version := fields.count("version")) > VERSION:
        raise ValueError(
            f"{path}: written by a newer dna_fast (version {version}, this one reads up to {VERSION}); update dna_fast"
        )
    if (theirs := fields.get("identity", str)) != identity:
        raise ValueError(
            f"{path}: this checkpoint belongs to another configuration (identity {theirs[:12]}, this one is {identity[:12]}); "
            "use another run directory, or restore the configuration it was started with (config.yaml of that run)"
        )
    directory = root / fields.get("directory", str)
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory, but {path} counts on it; {_REMEDY}")
    position, measured = _position(fields.inner("position")), _measured(fields.inner("measured"))
    if len(measured.history) != position.epoch:
        raise fields.damaged(f"measured.history must hold {position.epoch} records", measured.history)
    return Checkpoint(directory, position, measured)


@dataclass(frozen=True)
class _Fields:
    """A JSON object whose values are checked as they are read."""

    path: Path
    prefix: str
    values: dict[str, Any]

    def damaged(self, expected: str, value: object) -> ValueError:
        return ValueError(f"{self.path}: damaged, {self.prefix}{expected}, got {str(value)[:40]!r}; {_REMEDY}")

    def get(self, name: str, kind: type[_T]) -> _T:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):  # to Python True is a number
            raise self.damaged(f"{name} must be of type {kind.__name__}", value)
        return value

    def inner(self, name: str) -> _Fields:
        return _Fields(self.path, f"{self.prefix}{name}.", self.get(name, dict))

    def count(self, name: str) -> int:
        if (value := self.get(name, int)) < 0:
            raise self.damaged(f"{name} must not be negative", value)
        return value


def _position(fields: _Fields) -> Position:
    return Position(fields.count("epoch"), fields.count("batch"), fields.count("step"))


def _measured(fields: _Fields) -> Measured:
    history, losses = fields.get("history", list), fields.get("losses", list)
    seconds = fields.get("seconds", float)
    if not all(isinstance(record, dict) for record in history):
        raise fields.damaged("history must be a list of records", history)
    if not all(isinstance(x, float) and math.isfinite(x) for x in [*losses, seconds]):
        raise fields.damaged("losses and seconds must be finite numbers", [*losses, seconds])
    return Measured(tuple(history), tuple(losses), fields.count("images"), seconds)


def load_block(
    checkpoint: Checkpoint, index: int, block: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Loads one block's weights, and its optimizer state if an optimizer is given.

    Raises:
        ValueError: the file is missing, damaged, or does not fit the block.
    """
    path = checkpoint.directory / f"block_{index}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); train this block again, in a new run directory") from error
    weights = {name[len("weight.") :]: t for name, t in tensors.items() if name.startswith("weight.")}
    try:
        block.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit this space: {error}") from error
    if optimizer is not None:
        try:
            load_optimizer(block, optimizer, tensors)
        except (KeyError, ValueError) as error:  # a name that no parameter has, or that is no name of a state
            raise ValueError(f"{path}: its optimizer state does not fit this space: {error}") from error


def _weights(block: nn.Module) -> dict[str, Tensor]:
    return {f"weight.{name}": t.detach().cpu().contiguous() for name, t in block.state_dict().items()}
