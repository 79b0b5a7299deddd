"""Rating: how well every path of every cell reproduces the teacher, with batch norm calibrated along the path.

Source: the paper's section 3.3 for the ratings; calibration and modes as docs/semantics.md defines them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dna_fast._loop import Loader
from dna_fast.rate_features import collect
from dna_fast.rate_oracle import Official, PathByPath
from dna_fast.rate_plan import available_bytes
from dna_fast.rate_share import Share, Unit
from dna_fast.rate_trie import Trie
from dna_fast.rating_store import RatingStore
from dna_fast.space import SearchSpace
from dna_fast.supernet import Supernet
from dna_fast.tables import METRICS, RatingTable
from dna_fast.teacher import Teacher

_WHOLE_SET = "calibrated along the path over the whole calibration set, unbiased variance"
BN_POLICIES = {  # of every mode
    "trie": _WHOLE_SET,
    "per_path": _WHOLE_SET,
    "official": "one batch in training mode with momentum 1, again for every path and rated batch; teacher not recalibrated",
}
MODES = tuple(BN_POLICIES)


@dataclass(frozen=True)
class RateOptions:
    """How to rate.

    Args:
        mode: "trie" (every operator prefix once), "per_path" (one path at a time; the oracle) or "official" (the released
            procedure, calibrated again for every path and every rated batch; the opponent in benchmarks).
        metric: the table's default rating.
        max_memory_bytes: of mode trie, what features, depthwise results and outputs of prefixes may take at once
            (`rate_plan.CellMemory` says what is counted); None: half of what is free on the device when rating begins. On the
            CPU no bit of a rating depends on it.
        provenance: anything about teacher and data that the table should carry.

    Raises:
        ValueError: an unknown mode or metric, no memory.
    """

    mode: str = "trie"
    metric: str = "relative_l1"
    max_memory_bytes: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"rate: mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.metric not in METRICS:
            raise ValueError(f"rate: metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if self.max_memory_bytes is not None and self.max_memory_bytes <= 0:
            raise ValueError(f"rate: max_memory_bytes must be > 0, got {self.max_memory_bytes}")


@dataclass(frozen=True)
class RateProgress:
    """How far a rating is."""

    paths: int  # rated, those taken from a store included
    total_paths: int
    share: float  # of all multiply-accumulates, by which a path of one cell costs many times that of another


OnProgress = Callable[[RateProgress], None]


@torch.no_grad()
def rate(
    supernet: Supernet,
    teacher: Teacher,
    loaders: tuple[Loader, Loader],
    options: RateOptions | None = None,
    *,
    store: RatingStore | None = None,
    share: Share | None = None,
    on_progress: OnProgress | None = None,
) -> RatingTable:
    """Rates every candidate of every block.

    Args:
        supernet: trained; its BN statistics are overwritten.
        teacher: its teacher, on the same device.
        loaders: of the calibration images (evaluation transform; all of them are used) and of the held-out images to rate with (a
            last partial batch is dropped).
        options: how; default: `RateOptions()`.
        store: finished ratings are kept there and taken from there.
        share: this process's share, where several rate together; they meet in the store, which all must see.
        on_progress: called once at the beginning, with what the store holds, and whenever further paths are done.

    Returns:
        All four ratings with standard errors. Computed in float32 without TF32, statistics in float64 (docs/semantics.md says how);
        deterministic on
        the CPU. The metadata names the mode, the device and torch's version.

    Raises:
        ValueError: no images, a teacher feature that is constant, ratings that are not finite, more memory needed than allowed.
    """
    options = options if options is not None else RateOptions()
    device = next(supernet.parameters()).device
    supernet.eval()
    space, calibration_loader, rated_loader = supernet.space, *loaders
    with _without_tf32():
        calibration = collect(teacher, calibration_loader, device, whole_batches=False)
        rated = collect(teacher, rated_loader, device, whole_batches=True)
        batches = len(rated.images) // rated.batch_size
        done = {} if store is None else _stored(store, space, batches)
        progress = _Progress(space, options.mode, done, on_progress, share)
        mine = None if share is None else share.of(progress.work(unit for unit in _units(space) if unit not in done))
        limit = options.max_memory_bytes
        raters: dict[str, Callable[..., _Rater]] = {
            "trie": partial(Trie, max_bytes=available_bytes(device) if limit is None else limit),
            "per_path": PathByPath,
            "official": Official,
        }
        blocks = []
        for b in range(len(space.blocks)):
            make = partial(raters[options.mode], supernet.block(b), b, calibration, rated)
            _rate_block(make, b, done, store, progress, mine)
        if share is not None:
            assert store is not None, "ranks meet in the store"
            share.meet()
            done = _stored(store, space, batches)
        for b in range(len(space.blocks)):
            units = [done[unit] for unit in _units(space) if unit[0] == b]
            blocks.append(_records(np.concatenate(units), b))
    metadata = {
        **options.provenance,
        "mode": options.mode,
        "boundary": supernet.boundary,
        "bn_policy": BN_POLICIES[options.mode],
        "calibration_images": rated.batch_size if options.mode == "official" else len(calibration.images),
        "rated_images": len(rated.images),
        "batch_size": rated.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
    }
    return RatingTable(space, blocks, metric=options.metric, metadata=metadata)


# ---- parts of the table ---------------------------------------------------------------------------------------------

_Ratings = dict[Unit, NDArray[np.float64]]  # [paths, batches, metrics]


class _Rater(Protocol):
    """A mode on one block."""

    def rate_cell(self, index: int, operators: list[int]) -> Iterator[NDArray[np.float64]]:
        """Per first operator the ratings [paths, batches, metrics] of the cell's paths that begin with it, in index order."""


def _units(space: SearchSpace) -> list[Unit]:
    """All of them, in candidate order."""
    operators = range(len(space.choices))
    return [
        (b, c, operator)
        for b, block in enumerate(space.blocks)
        for c in range(len(block.cells))
        for operator in operators
    ]


def _paths(space: SearchSpace, unit: Unit) -> int:
    return int(len(space.choices) ** (space.blocks[unit[0]].cells[unit[1]].depth - 1))


def _stored(store: RatingStore, space: SearchSpace, batches: int) -> _Ratings:
    """What an earlier rating finished."""
    found = {unit: store.load(*unit, (_paths(space, unit), batches, len(METRICS))) for unit in _units(space)}
    return {unit: ratings for unit, ratings in found.items() if ratings is not None}


def _rate_block(
    make: Callable[..., _Rater],
    block: int,
    done: _Ratings,
    store: RatingStore | None,
    progress: _Progress,
    mine: Collection[Unit] | None,
) -> None:
    """Adds what is missing of a block, or this rank's share of that, to `done` and to the store."""
    missing = [unit for unit in _units(progress.space) if unit[0] == block and unit not in done]
    missing = missing if mine is None else [unit for unit in missing if unit in mine]
    if not missing:
        return
    rater = make(on_paths=progress.add)
    for cell in sorted({unit[1] for unit in missing}):
        units = [unit for unit in missing if unit[1] == cell]
        progress.cell = (block, cell)
        for unit, ratings in zip(units, rater.rate_cell(cell, [unit[2] for unit in units]), strict=True):
            done[unit] = ratings
            if store is not None:
                store.save(*unit, ratings)


class _Progress:
    """Counts paths, and the arithmetic that they take."""

    def __init__(
        self,
        space: SearchSpace,
        mode: str,
        done: Mapping[Unit, object],
        on_progress: OnProgress | None,
        share: Share | None,
    ) -> None:
        self.space, self.on_progress, self.share = space, on_progress, share
        cells = [(b, c) for b, block in enumerate(space.blocks) for c in range(len(block.cells))]
        self.macs = {(b, c): _macs_per_path(space, b, c, shared=mode == "trie") for b, c in cells}
        self.cell = (0, 0)  # at work
        paths = {(b, c): space.num_paths(space.blocks[b].cells[c]) for b, c in cells}
        self.total_paths = sum(paths.values())
        self.total_macs = sum(self.macs[cell] * paths[cell] for cell in cells)
        self.paths, self.done_macs = 0, 0.0
        for unit in done:
            self._count(unit[:2], _paths(space, unit))
        self.before = self.paths, self.done_macs
        self._report()

    def work(self, units: Iterable[Unit]) -> dict[Unit, float]:
        """Multiply-accumulates of units."""
        return {unit: self.macs[unit[:2]] * _paths(self.space, unit) for unit in units}

    def add(self, paths: int) -> None:
        """Further paths of the cell at work are done."""
        if self.share is None:
            self._count(self.cell, paths)
        else:  # whole numbers are what ranks can add up
            macs = round(self.macs[self.cell] * paths)
            self.paths = self.before[0] + self.share.count("paths", paths)
            self.done_macs = self.before[1] + self.share.count("macs", macs)
        self._report()

    def _count(self, cell: tuple[int, int], paths: int) -> None:
        self.paths += paths
        self.done_macs += self.macs[cell] * paths

    def _report(self) -> None:
        if self.on_progress is not None:
            share = 1.0 if self.paths == self.total_paths else self.done_macs / self.total_macs
            self.on_progress(RateProgress(self.paths, self.total_paths, share))


def _macs_per_path(space: SearchSpace, block: int, cell: int, *, shared: bool) -> float:
    """Multiply-accumulates per image and path, squeeze-excite aside; where prefixes are shared, a path bears its share of them."""
    layers, choices = space.layers(block, cell), range(len(space.choices))
    total = 0.0
    for depth, layer in enumerate(layers):
        specs = [space.mbconv(layer, choice) for choice in choices]
        expansion, behind = layer.in_size**2 * layer.in_channels, layer.out_size**2
        macs = [s.mid_channels * (expansion + behind * (s.kernel**2 + s.out_channels)) for s in specs]
        paths_per_prefix = len(choices) ** (len(layers) - 1 - depth) if shared else 1
        total += sum(macs) / len(macs) / paths_per_prefix
    return total


def _records(ratings: NDArray[np.float64], block: int) -> NDArray[Any]:
    """[paths, batches, metrics] -> structured array [paths] with mean and standard error of every metric."""
    paths, batches, _ = ratings.shape
    records = np.empty(paths, dtype=[(field, np.float64) for name in METRICS for field in (name, f"{name}_se")])
    for m, name in enumerate(METRICS):
        records[name] = ratings[:, :, m].mean(axis=1)
        # A single batch has no spread to estimate from: its standard error is unknown, not zero.
        spread = ratings[:, :, m].std(axis=1, ddof=1) if batches > 1 else np.full(paths, np.nan)
        records[f"{name}_se"] = spread / math.sqrt(batches)
    bad = np.flatnonzero(~np.isfinite(ratings).all(axis=(1, 2)))
    if len(bad):
        raise ValueError(
            f"rate: candidate {bad[0]} of block {block} has a rating that is not finite; the supernet's weights have "
            "diverged, train with lower learning rates"
        )
    return records


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32 on GPUs too, for the time being.

    TF32 keeps 10 bits of the mantissa, and is on for convolutions by default: ratings would differ from the CPU's in the third digit.
    """
    conv = getattr(torch.backends.cudnn, "conv", None)
    # Torch 2.8 has but the old switches; from 2.9 on they warn, and mixing them with the new ones is an error.
    name, off = ("allow_tf32", False) if conv is None else ("fp32_precision", "ieee")
    switches = (torch.backends.cudnn if conv is None else conv, torch.backends.cuda.matmul)
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
