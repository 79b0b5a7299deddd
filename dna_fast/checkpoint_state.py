"""`state.json` of a supernet in training: which checkpoints count, and where training stood at each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from dna_fast._files import read_json, write_json

FORMAT, VERSION = "dna_fast.supernet", 2
REMEDY = "restore it from a copy, or delete the directory of the checkpoints to train from the start"

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
    """One that counts."""

    directory: Path
    position: Position
    measured: Measured
    files: Mapping[str, str]  # name -> sha256; empty where version 1 was written, which kept none

    def block_path(self, index: int) -> Path:
        return self.directory / f"block_{index}.safetensors"

    @property
    def relative_loss(self) -> float | None:
        """Mean over blocks of the loss of the epoch that ended here, relative to the first epoch's; None inside an epoch."""
        history = self.measured.history
        if self.position.batch or not history:
            return None
        first, last = (_losses(record) for record in (history[0], history[-1]))
        if not first or len(first) != len(last):
            return None
        return sum(b / a for a, b in zip(first, last, strict=True)) / len(first)


def _losses(record: Mapping[str, Any]) -> list[float]:
    """An epoch's loss per block, as far as a record of an older file has them."""
    losses = record.get("losses")
    positive = isinstance(losses, list) and all(isinstance(x, float) and x > 0 for x in losses)
    return losses if positive and isinstance(losses, list) else []


def best_of(kept: Sequence[Checkpoint]) -> Checkpoint | None:
    """The finished epoch's of the least relative loss, the earlier among equals; None where no epoch is finished."""
    judged = [(loss, c.position.step, c) for c in kept if (loss := c.relative_loss) is not None]
    return min(judged, key=lambda entry: entry[:2])[2] if judged else None


def write_state(root: Path, identity: str, kept: Sequence[Checkpoint]) -> None:
    """Makes checkpoints count, newest first, and no others."""
    best = best_of(kept)
    entries = [
        {
            "directory": checkpoint.directory.name,
            "position": asdict(checkpoint.position),
            "measured": asdict(checkpoint.measured),
            "files": dict(checkpoint.files),
        }
        for checkpoint in kept
    ]
    state = {
        "format": FORMAT,
        "version": VERSION,
        "identity": identity,
        "best": None if best is None else best.directory.name,  # for people: readers take it from the histories
        "kept": entries,
    }
    write_json(root / "state.json", state, make_parent=False)


def read_state(root: Path, identity: str) -> list[Checkpoint]:
    """The checkpoints that count, newest first; none yet: an empty list.

    Args:
        root: directory of the checkpoints.
        identity: what the weights must depend on.

    Raises:
        ValueError: damaged, of another format, of a newer version, or of another configuration.
    """
    path = root / "state.json"
    if not path.exists():
        return []
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
    entries = fields.get("kept", list) if version > 1 else [state]  # version 1 kept one, and said so at the top
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise fields.damaged("kept must be a list of checkpoints", entries)
    prefixes = [f"kept[{number}]." for number in range(len(entries))] if version > 1 else [""]
    return [_checkpoint(root, _Fields(path, prefix, e)) for prefix, e in zip(prefixes, entries, strict=True)]


@dataclass(frozen=True)
class _Fields:
    """A JSON object whose values are checked as they are read."""

    path: Path
    prefix: str
    values: dict[str, Any]

    def damaged(self, expected: str, value: object) -> ValueError:
        return ValueError(f"{self.path}: damaged, {self.prefix}{expected}, got {str(value)[:40]!r}; {REMEDY}")

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


def _checkpoint(root: Path, fields: _Fields) -> Checkpoint:
    name = fields.get("directory", str)
    if not re.fullmatch(r"step_[0-9]+", name):
        raise fields.damaged("directory must be step_<n>", name)
    position, measured = _position(fields.inner("position")), _measured(fields.inner("measured"))
    if len(measured.history) != position.epoch:
        raise fields.damaged(f"measured.history must hold {position.epoch} records", measured.history)
    files = fields.get("files", dict) if "files" in fields.values else {}
    if not all(isinstance(sha256, str) for sha256 in files.values()):
        raise fields.damaged("files must be names and their sha256", files)
    return Checkpoint(root / name, position, measured, files)


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
