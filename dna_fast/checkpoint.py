"""Checkpoints of block-wise training: safetensors files, and a small JSON file that makes them count.

A checkpoint is a directory ``step_<n>`` with every block's weights and optimizer state; ``state.json`` names the directories that
count and is replaced last, so that whatever moment a run dies at, a complete checkpoint stays.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dna_fast._files import file_sha256, make_directory
from dna_fast.checkpoint_state import REMEDY, Checkpoint, Measured, Position, best_of, read_state, write_state
from dna_fast.optimizer_state import load_optimizer, optimizer_tensors
from dna_fast.resume import DamagedWarning, Which
from dna_fast.tensor_files import check_tensors, read_tensors, write_tensors

LOG = logging.getLogger(__name__)

__all__ = ["Checkpoint", "CheckpointStore", "Measured", "Position", "checkpoint_at", "find_checkpoint", "load_block"]


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one training.

    Args:
        root: their directory; it exists while training runs.
        identity: what the weights depend on; loading under another identity is refused.
        keep: how many of the newest are kept; the best finished epoch's is kept besides.
    """

    root: Path
    identity: str
    keep: int = 2

    def save(
        self,
        blocks: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        position: Position,
        measured: Measured,
    ) -> None:
        """Writes a checkpoint, makes it count, and only then drops those that are no longer kept.

        Args:
            blocks, optimizers: one optimizer per block.
            position: the next batch.
            measured: kept to the last bit.

        Raises:
            OSError: it cannot be written; the message says why, what to do, and from where training will go on.
        """
        try:
            files = self.write(dict(enumerate(zip(blocks, optimizers, strict=True))), position)
        except OSError as error:
            raise self.failed(error) from error
        self.count(position, measured, files)

    def write(
        self, blocks: Mapping[int, tuple[nn.Module, torch.optim.Optimizer]], position: Position
    ) -> dict[str, str]:
        """Writes some blocks of a checkpoint, by number, without making it count; returns the sha256 of their files by name.

        The same step has the same bits: writing over a directory that counts, file by file, changes nothing in it.

        Raises:
            OSError: they cannot be written.
        """
        return _write_blocks(self._directory(position), blocks)

    def count(self, position: Position, measured: Measured, files: Mapping[str, str]) -> None:
        """Makes a checkpoint count whose blocks are all written, and only then drops those that are no longer kept.

        Raises:
            OSError: as `save`.
        """
        directory = self._directory(position)
        # After going on from an older one because the newest was damaged, that one is overtaken, not kept.
        earlier = [c for c in read_state(self.root, self.identity) if c.position.step <= position.step]
        try:
            newest = Checkpoint(directory, position, measured, files)
            kept = self._to_keep([newest, *(c for c in earlier if c.directory != directory)])
            write_state(self.root, self.identity, kept)
        except OSError as error:
            raise self.failed(error) from error
        self._drop_uncounted()
        LOG.info("%s written; kept: %s", directory, ", ".join(c.directory.name for c in kept))

    def failed(self, error: OSError) -> OSError:
        """Removes what is half-written, for it would keep a full disk full; returns the failure with what it costs."""
        self._drop_uncounted()
        return _with_outlook(error, read_state(self.root, self.identity))

    def _directory(self, position: Position) -> Path:
        return self.root / f"step_{position.step:08d}"

    def _drop_uncounted(self) -> None:
        """Removes what `state.json`, as it lies there, does not count; by it, because a failure may come just behind its renaming."""
        counted = {c.directory for c in read_state(self.root, self.identity)}
        for directory in self.root.glob("step_*"):
            if directory not in counted:
                shutil.rmtree(directory, ignore_errors=True)

    def _to_keep(self, newest_first: Sequence[Checkpoint]) -> list[Checkpoint]:
        best = best_of(newest_first)
        return [c for rank, c in enumerate(newest_first) if rank < self.keep or c is best]

    def find(self) -> Checkpoint | None:
        """As `find_checkpoint`, of the last one."""
        return find_checkpoint(self.root, self.identity)


def _write_blocks(directory: Path, blocks: Mapping[int, tuple[nn.Module, torch.optim.Optimizer]]) -> dict[str, str]:
    """Writes weights and optimizer of every block; name -> sha256 of its file."""
    make_directory(directory, make_parent=False)
    files = {}
    for b, (block, optimizer) in blocks.items():
        weights = {f"weight.{name}": tensor for name, tensor in block.state_dict().items()}
        path = directory / f"block_{b}.safetensors"
        files[path.name] = write_tensors(path, {**weights, **optimizer_tensors(block, optimizer)})
    return files


def _with_outlook(error: OSError, earlier: Sequence[Checkpoint]) -> OSError:
    """The failure, and what it costs."""
    outlook = (
        f"The last good checkpoint, of step {earlier[0].position.step}, is intact, and training goes on from it"
        if earlier
        else "There is no earlier checkpoint to go on from"
    )
    failure = OSError(f"{error}. {outlook}")
    failure.errno = error.errno
    return failure


def find_checkpoint(root: Path, identity: str, which: Which = Which.LAST) -> Checkpoint | None:
    """A checkpoint under `root` with every file as it was written, or None if there is none yet.

    Where the last one is damaged, the newest that is not takes its place, with a DamagedWarning. To know, every file is read once:
    about a second per GB, and the reading that follows finds it in memory.

    Args:
        root: directory of the checkpoints.
        identity: what the weights must depend on.
        which: the last one, or the best finished epoch's (docs/semantics.md says what is best); for that one no other is taken.

    Raises:
        ValueError: `state.json` is damaged, of another format or version, or of another configuration; or no checkpoint is whole.
    """
    kept = read_state(root, identity)
    if not kept:
        return None
    best = best_of(kept)
    candidates = kept if which is Which.LAST else [] if best is None else [best]
    if not candidates:
        raise ValueError(f"{root}: no epoch is finished yet, so none is the best; train on, or ask for the last one")
    problems = []
    for checkpoint in candidates:
        try:
            whole = _checked(checkpoint)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            words = f"{'; '.join(problems)}. Taken instead: {whole.directory}, step {whole.position.step}"
            warnings.warn(DamagedWarning(words), stacklevel=2)
        return whole
    raise ValueError(f"{'; '.join(problems)}; {REMEDY}")


def checkpoint_at(root: Path, identity: str, name: str) -> Checkpoint:
    """The checkpoint in a directory of that name, which `find_checkpoint` found whole on another rank: its files are not read again.

    Raises:
        ValueError: as `find_checkpoint`; it does not count here.
    """
    for checkpoint in read_state(root, identity):
        if checkpoint.directory.name == name:
            return checkpoint
    raise ValueError(
        f"{root}: {name} is seen by another rank and not here; is the run directory on a shared file system?"
    )


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the sha256 of all its files; ValueError where one is not what was written."""
    if not checkpoint.directory.is_dir():
        raise ValueError(f"{checkpoint.directory}: no such directory, but state.json counts on it")
    files = {}
    for b in range(len(checkpoint.measured.losses)):
        path = checkpoint.block_path(b)
        check_tensors(path)
        files[path.name] = file_sha256(path)
        if checkpoint.files and files[path.name] != checkpoint.files.get(path.name):
            raise ValueError(f"{path}: damaged, its bytes are not those that were written")
    return replace(checkpoint, files=files)


def load_block(
    checkpoint: Checkpoint, index: int, block: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Loads one block's weights, and its optimizer state if an optimizer is given.

    Raises:
        ValueError: the file is missing, damaged, or does not fit the block.
    """
    path = checkpoint.block_path(index)
    try:
        tensors, _ = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
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
