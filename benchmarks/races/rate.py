"""Rating one cell of the block at 14 pixels: the trie against mode official, both with an allocator that keeps freed memory.

Request, for all: depth and width (of the cell), batch, rated_batches, calibration (images), threads.
    kind "speed": sample (paths that official rates; 0: all), rounds. Both are timed in turns.
    kind "memory": max_bytes (of the trie; null: as it comes). Peak memory of a process that does nothing else.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.race import keep_freed_memory
from dna_fast.rate_features import Features
from dna_fast.rate_oracle import Official, PathByPath
from dna_fast.rate_plan import available_bytes
from dna_fast.rate_trie import Trie
from dna_fast.space import preset
from dna_fast.supernet import StudentBlock, StudentCell

SEED = 0
BLOCK = 3  # of the 16-cell space: 80 channels in, 14 pixels
IN_WIDTH, OUT_WIDTH = 160, 224  # EfficientNet-B7's features around it
AGREEMENT_PATHS = (
    4  # compared with the oracle, which runs every convolution before a batch norm once for each batch norm
)
# Ratings of one path in float32 by two orders of summation: means over millions of differences, so far below this if right.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Job:
    """A cell and what it is rated on."""

    block: StudentBlock  # of that one cell
    calibration: Features
    rated: Features

    @property
    def cell(self) -> StudentCell:
        return self.block.cell(0)

    @property
    def choices(self) -> int:
        return len(preset("dna").choices)

    def of_path(self, path: Sequence[int]) -> StudentBlock:
        """A block whose cell offers this one path; the modules are shared."""
        cell, one = self.cell, _empty_cell(self.cell)
        one.layers = nn.ModuleList(nn.ModuleList([cell.operator(depth, choice)]) for depth, choice in enumerate(path))
        return StudentBlock([one], None)


def main(request: dict[str, Any]) -> dict[str, Any]:
    """speed: seconds per path; memory: bytes."""
    torch.set_num_threads(request["threads"])
    torch.manual_seed(SEED)
    with torch.no_grad():
        job = _job(request)
        if request["kind"] == "memory":
            return _memory(job, request["max_bytes"])
        keep_freed_memory()
        return _speed(job, request["sample"], request["rounds"])


def _job(request: dict[str, Any]) -> Job:
    space = preset("dna")
    cells = [(cell.depth, cell.width) for cell in space.blocks[BLOCK].cells]
    layers = space.layers(BLOCK, cells.index((request["depth"], request["width"])))
    nominal, size = space.nominal_width(BLOCK), space.in_size(BLOCK)
    adapters = nn.Conv2d(IN_WIDTH, nominal, 1), nn.Conv2d(request["width"], OUT_WIDTH, 1)
    cell = StudentCell(layers, space, *adapters, request["batch"])
    block = StudentBlock([cell], None).to(memory_format=torch.channels_last).eval()

    def features(images: int) -> Features:
        maps = [
            torch.randn(images, width, size, size).contiguous(memory_format=torch.channels_last)
            for width in (IN_WIDTH, OUT_WIDTH)
        ]
        return Features(torch.empty(images, 3, 1, 1), maps, request["batch"])  # images only count: no stem reads them

    return Job(block, features(request["calibration"]), features(request["batch"] * request["rated_batches"]))


def _empty_cell(cell: StudentCell) -> StudentCell:
    return StudentCell([], preset("dna"), cell.in_adapter, cell.out_adapter, 1)


def _speed(job: Job, sample: int, rounds: int) -> dict[str, Any]:
    """Rounds in turns: ours rates the whole cell, official its share of the paths."""
    depth = len(job.cell.layers)
    paths = list(np.ndindex(*(job.choices,) * depth))
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen = [paths[i] for i in order[: sample or len(paths)]]
    ratings = _trie(job, available_bytes(torch.device("cpu")))  # warms up, too
    facts = _checked(job, ratings, chosen[:AGREEMENT_PATHS])
    ours_s, official_s = [], []
    for share in np.array_split(np.arange(len(chosen)), rounds):
        start = time.perf_counter()
        _trie(job, available_bytes(torch.device("cpu")))
        ours_s.append((time.perf_counter() - start) / len(paths))
        raced = [Official(job.of_path(chosen[i]), 1, job.calibration, job.rated, _ignore) for i in share]
        start = time.perf_counter()
        for official in raced:
            list(official.rate_cell(0, [0]))
        official_s.append((time.perf_counter() - start) / len(share))
    common = {"dtype": "float32", "allocator": "tuned"}
    return {
        "entries": [
            {"way": "ours", **common, "paths_timed": len(paths) * rounds, "seconds": ours_s},
            {"way": "official", **common, "paths_timed": len(chosen), "seconds": official_s},
        ],
        "facts": {"paths": len(paths), **facts},
    }


def _trie(job: Job, max_bytes: int) -> NDArray[np.float64]:
    """[paths, batches, metrics] of the whole cell."""
    trie = Trie(job.block, 1, job.calibration, job.rated, max_bytes, _ignore)
    return np.concatenate(list(trie.rate_cell(0, range(job.choices))))


def _checked(job: Job, ratings: NDArray[np.float64], paths: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The largest relative difference to per_path in float32, and in float64, over some paths.

    Raises:
        AssertionError: either is above TOLERANCE, or official, if it sees the same images, differs by more than its variance explains.
    """

    def worst(rows: Iterator[NDArray[np.float64]]) -> float:
        expected = np.stack(list(rows))
        return float(np.abs(ours / expected - 1).max())

    space = preset("dna")
    ours = ratings[[space.path_index(path) for path in paths]]
    plain = worst(_each(PathByPath, job, paths))
    wide = Job(job.block.double(), _double(job.calibration), _double(job.rated))
    exact = worst(_each(PathByPath, wide, paths))
    job.block.float()
    found = {"per_path float32": (plain, TOLERANCE), "per_path float64": (exact, TOLERANCE)}
    features = job.calibration.blocks[0]
    if len(features) == job.rated.batch_size:
        # Where official calibrates, it normalises by the biased variance, off by one in the number of values, in every batch norm.
        norms, values = 3 * len(job.cell.layers), features.numel() // features.shape[1]
        found["official"] = (worst(_each(Official, job, paths)), norms / values)
    for name, (difference, allowed) in found.items():
        assert difference <= allowed, (
            f"trie against {name}: expected ratings within {allowed:.1e}, got {difference:.1e}"
        )
    return {"agreement": plain, "agreement_float64": exact, "agreement_paths": len(paths)}


def _each(mode: Callable[..., Any], job: Job, paths: Sequence[tuple[int, ...]]) -> Iterator[NDArray[np.float64]]:
    """Per path [batches, metrics]."""
    for path in paths:
        (ratings,) = mode(job.of_path(path), 1, job.calibration, job.rated, _ignore).rate_cell(0, [0])
        yield ratings[0]


def _double(features: Features) -> Features:
    def wide(x: Tensor) -> Tensor:
        return x.double()

    return Features(features.images, [wide(x) for x in features.blocks], features.batch_size)


def _memory(job: Job, max_bytes: int | None) -> dict[str, Any]:
    """Peak of resident memory over what was there before the trie began; no allocator tuned."""
    before = _restart_peak()
    start = time.perf_counter()
    _trie(job, available_bytes(torch.device("cpu")) if max_bytes is None else max_bytes)
    seconds = time.perf_counter() - start
    entry = {"way": "ours", "dtype": "float32", "allocator": "default", "max_bytes": max_bytes}
    grown = {"before_bytes": before, "growth_bytes": _peak_bytes() - before}
    return {"entries": [{**entry, **grown, "seconds": [seconds]}], "facts": {}}


def _restart_peak() -> int:
    """Lets the process's peak of resident memory start again from what it holds now, and returns that; Linux."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ignore(paths: int) -> None:
    """Nobody watches the progress."""
