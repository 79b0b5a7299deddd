"""What the log of a supernet's training tells, row by row, and the remarks beside its progress."""

from __future__ import annotations

import math

from dna_fast.space import SearchSpace
from dna_fast.step_clock import PARTS
from dna_fast.train import Progress


def columns(space: SearchSpace) -> tuple[str, ...]:
    """Of `logs/supernet.csv`, besides the time: losses of blocks as loss_<block>, of their cells as loss_<block>_<cell>."""
    blocks = [f"loss_{b}" for b in range(len(space.blocks))]
    cells = [f"loss_{b}_{c}" for b, block in enumerate(space.blocks) for c in range(len(block.cells))]
    return ("epoch", "step", "images_per_s", *blocks, *cells, *(f"share_{part}" for part in PARTS), "gpu_bytes")


def row(progress: Progress, space: SearchSpace) -> dict[str, float]:
    """A value for each of the columns; nan of cells of which nothing is told."""
    cells = {f"loss_{b}_{c}": math.nan for b, block in enumerate(space.blocks) for c in range(len(block.cells))}
    cells |= {f"loss_{b}_{c}": loss for b, block in enumerate(progress.cell_losses) for c, loss in enumerate(block)}
    return {
        "epoch": progress.position.epoch,
        "step": progress.position.step,
        "images_per_s": round(progress.images_per_s, 3),
        **{f"loss_{b}": loss for b, loss in enumerate(progress.losses)},
        **cells,
        **{f"share_{part}": round(share, 4) for part, share in progress.times.shares.items()},
        "gpu_bytes": progress.gpu_bytes,
    }


def remarks(progress: Progress) -> str:
    """Speed, where the time goes, memory of a GPU, losses of the blocks."""
    losses = " ".join(f"{loss:.4f}" for loss in progress.losses)
    memory = f", {progress.gpu_bytes / 2**30:.1f} GiB" if progress.gpu_bytes else ""
    return f"{progress.images_per_s:.3g} images/s ({progress.times.summary()}){memory}, losses {losses}"
