"""Checkpoints of block-wise training: one safetensors file per block, and a small JSON file that makes them count.

A checkpoint is a directory ``step_<n>`` with every block's weights and optimizer state; ``state.json`` names the directory that
counts and is replaced last, so that whatever moment a run dies at, a complete checkpoint stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dna_fast._files import read_json, write_json, written_aside
from dna_fast.optimizer_state import load_optimizer, optimizer_tensors

FORMAT, VERSION = "dna_fast.supernet", 1


@dataclass(frozen=True)
class Position:
    """Where training stands: the next batch to train on."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """What `state.json` says."""

    directory: Path
    position: Position
    history: tuple[dict[str, Any], ...]


def save_checkpoint(
    root: Path,
    blocks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    history: Sequence[Mapping[str, Any]],
    identity: str,
) -> None:
    """Writes a checkpoint and then drops older ones.

    Args:
        root: directory of the checkpoints.
        blocks, optimizers: one optimizer per block.
        position: the next batch.
        history: one record per finished epoch.
        identity: what the weights depend on; loading under another identity is refused.
    """
    directory = root / f"step_{position.step:08d}"
    directory.mkdir(parents=True, exist_ok=True)
    for b, (block, optimizer) in enumerate(zip(blocks, optimizers, strict=True)):
        with written_aside(directory / f"block_{b}.safetensors") as aside:
            save_file({**_weights(block), **optimizer_tensors(block, optimizer)}, aside)
    state = {"format": FORMAT, "version": VERSION, "identity": identity, "directory": directory.name}
    write_json(root / "state.json", {**state, "position": asdict(position), "history": list(history)})
    for old in root.glob("step_*"):
        if old != directory:
            shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(root: Path, identity: str | None = None) -> Checkpoint | None:
    """The checkpoint under `root`, or None if there is none yet.

    Args:
        root: directory of the checkpoints.
        identity: what the weights must depend on; None accepts any.

    Raises:
        ValueError: damaged, of another format or version, or of another configuration.
    """
    path = root / "state.json"
    if not path.exists():
        return None
    state = read_json(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a supernet checkpoint; expected format {FORMAT!r}")
    if state["version"] > VERSION:
        raise ValueError(
            f"{path}: written by a newer dna_fast (version {state['version']}, this one reads up to {VERSION}); update dna_fast"
        )
    if identity is not None and state["identity"] != identity:
        raise ValueError(
            f"{path}: this checkpoint belongs to another configuration (identity {state['identity'][:12]}, this one is {identity[:12]}); "
            "use another run directory, or restore the configuration it was started with (config.yaml beside it)"
        )
    return Checkpoint(root / state["directory"], Position(**state["position"]), tuple(state["history"]))


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
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); train this block again, in a new run directory") from error
    weights = {name[len("weight.") :]: t for name, t in tensors.items() if name.startswith("weight.")}
    try:
        block.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit this space: {error}") from error
    if optimizer is not None:
        load_optimizer(block, optimizer, tensors)


def _weights(block: nn.Module) -> dict[str, Tensor]:
    return {f"weight.{name}": t.detach().cpu().contiguous() for name, t in block.state_dict().items()}
