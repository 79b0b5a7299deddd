"""The tables between the stages: ratings and costs of every candidate, in candidate order, and their files.

A file is an ``.npz`` without pickles: one structured array ``block_<i>`` per block, and ``metadata``, UTF-8 JSON as
a uint8 array.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray

from dna_fast._files import written_aside
from dna_fast.space import SearchSpace

if TYPE_CHECKING:
    import pandas

VERSION = 1
METRICS = ("mse", "relative_mse", "relative_l1", "mean_relative_l1")
REDUCTIONS = ("sum", "max")

RATINGS = "dna_fast.ratings"
COSTS = "dna_fast.costs"

_RATING_FIELDS = tuple(name for metric in METRICS for name in (metric, f"{metric}_se"))
_RATING_DTYPE = np.dtype([(name, np.float64) for name in _RATING_FIELDS])
# Keys of a file's metadata that are the table's own; the rest is the writer's.
_OWN_KEYS = ("format", "version", "space", "space_sha256", "metric", "reduce")
_INT64_MAX = np.iinfo(np.int64).max


# ---- costs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CostTable:
    """Exact integer costs of every candidate, for every width its block's input can have.

    Args:
        space: the candidates' space.
        costs: name -> per block an integer array [labels_in, n_b]; row r belongs to the r-th smallest width of the
            block's input. An array [n_b] holds for every width.
        reduce: name -> how blocks combine, "sum" or "max".
        metadata: anything that JSON holds.

    Raises:
        ValueError: names that differ, wrong shapes, values that are no integers, negative, or too large for int64 sums.
    """

    space: SearchSpace
    costs: Mapping[str, Sequence[NDArray[np.int64]]]
    reduce: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.costs or set(self.costs) != set(self.reduce):
            got = f"{sorted(self.costs)} and {sorted(self.reduce)}"
            raise ValueError(f"costs: costs and reduce must name the same costs, at least one, got {got}")
        for name, reduction in self.reduce.items():
            if reduction not in REDUCTIONS:
                raise ValueError(f"costs: reduce[{name!r}] must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        checked = {name: _checked_costs(self.space, name, arrays) for name, arrays in self.costs.items()}
        object.__setattr__(self, "costs", checked)
        object.__setattr__(self, "reduce", {name: self.reduce[name] for name in checked})
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.costs)

    @property
    def labels(self) -> list[NDArray[np.int64]]:
        """Per block [n_b]: the width each candidate shows to the next block."""
        return [self.space.labels(b) for b in range(len(self.space.blocks))]

    def add(self, name: str, arrays: Sequence[ArrayLike], reduce: str = "sum") -> CostTable:
        """The table with one more cost, such as a latency in whole microseconds.

        Args:
            name: a new name.
            arrays: per block [labels_in, n_b] or [n_b], integers.
            reduce: "sum" or "max".

        Raises:
            ValueError: the name is taken, or what the constructor refuses.
        """
        if name in self.costs:
            raise ValueError(f"costs: the table has {', '.join(self.names)} already, got {name!r}; choose another name")
        checked = _checked_costs(self.space, name, arrays)
        return CostTable(self.space, {**self.costs, name: checked}, {**self.reduce, name: reduce}, self.metadata)

    def total(self, choice: Sequence[int]) -> dict[str, int]:
        """Cost of an architecture by name.

        Args:
            choice: one candidate index per block.

        Raises:
            ValueError: not one valid candidate per block.
            TypeError: an index that is no integer.
        """
        cells = list(_rows(self.space, choice))
        totals = {}
        for name, arrays in self.costs.items():
            values = [int(arrays[b][row, candidate]) for b, (row, candidate) in enumerate(cells)]
            totals[name] = sum(values) if self.reduce[name] == "sum" else max(values)
        return totals

    def to_pandas(self) -> pandas.DataFrame:
        """One row per candidate and input width: block, in_width, cell, path, candidate, then the costs."""
        import pandas

        frames = []
        for b in range(len(self.space.blocks)):
            for row, width in enumerate(self.space.input_widths(b)):
                columns = _candidate_columns(self.space, b)
                columns.insert(1, "in_width", width)
                frames.append(columns.assign(**{name: arrays[b][row] for name, arrays in self.costs.items()}))
        return pandas.concat(frames, ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Writes the table atomically."""
        dtype = np.dtype([(name, np.int64) for name in self.names])
        blocks = []
        for b in range(len(self.space.blocks)):
            block = np.empty((len(self.space.input_widths(b)), self.space.num_candidates(b)), dtype)
            for name in self.names:
                block[name] = self.costs[name][b]
            blocks.append(block)
        _write(path, COSTS, self.space, blocks, {"reduce": dict(self.reduce), **self.metadata})

    @classmethod
    def load(cls, path: str | Path) -> CostTable:
        """Reads and validates what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, of another kind or a newer version, or does not fit its own space.
        """
        space, blocks, metadata = _read(path, COSTS)
        reduce = metadata.get("reduce")
        fields = [block.dtype.names or () for block in blocks]
        if not isinstance(reduce, dict) or any(set(names) != set(reduce) for names in fields):
            raise ValueError(
                f"{path}: damaged: expected the costs {reduce!r} in every block, got {fields}; write it anew"
            )
        costs = {name: [block[name] for block in blocks] for name in reduce}
        try:
            return cls(space, costs, reduce, _without_own_keys(metadata))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _checked_costs(space: SearchSpace, name: str, arrays: Sequence[ArrayLike]) -> list[NDArray[np.int64]]:
    """Read-only int64 copies [labels_in, n_b]."""
    if len(arrays) != len(space.blocks):
        raise ValueError(f"costs: {name} needs one array per block, {len(space.blocks)}, got {len(arrays)}")
    checked, largest = [], 0
    for b, given in enumerate(arrays):
        array, where = np.asarray(given), f"costs: {name} of block {b}"
        shape = (len(space.input_widths(b)), space.num_candidates(b))
        if array.shape not in (shape, shape[1:]):
            raise ValueError(f"{where} must be [input widths, candidates] = {list(shape)}, got {list(array.shape)}")
        if array.dtype.kind not in "iu":
            raise ValueError(f"{where} must be whole numbers, got {array.dtype}; round up and convert to int64")
        if array.min() < 0:
            candidate = int(array.argmin()) % shape[1]
            raise ValueError(f"{where} must be >= 0, got {array.min()} for candidate {candidate}")
        largest += int(array.max())
        # also stops a uint64 from wrapping around in the copy below
        if largest > _INT64_MAX:
            raise ValueError(f"{where} brings the sum to {largest}, more than int64 holds; use a larger unit")
        copy = np.array(np.broadcast_to(array, shape), dtype=np.int64)
        copy.setflags(write=False)
        checked.append(copy)
    return checked


def _rows(space: SearchSpace, choice: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Per block (row of its 2-D tables, candidate) of an architecture."""
    if len(choice) != len(space.blocks):
        raise ValueError(f"an architecture has one candidate per block, {len(space.blocks)}, got {list(choice)}")
    width = space.frame.stem_width
    for b, candidate in enumerate(map(index, choice)):
        yield space.input_widths(b).index(width), candidate
        cell, _ = space.candidate(b, candidate)
        width = space.blocks[b].cells[cell].width


# ---- ratings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RatingTable:
    """How well every candidate reproduces the teacher; lower is better.

    Args:
        space: the candidates' space.
        blocks: per block a structured float64 array [n_b] with every name of `METRICS` and its standard error
            ``<name>_se``. A metric that was not measured is nan throughout; so is a standard error that is not known.
        metric: the metric that counts where none is named.
        metadata: where the ratings come from; anything that JSON holds.

    Raises:
        ValueError: an unknown or unmeasured metric, wrong shapes or fields, ratings that are not finite, standard
            errors that are negative or infinite.
    """

    space: SearchSpace
    blocks: Sequence[NDArray[Any]]
    metric: str = "relative_l1"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        if len(self.blocks) != len(self.space.blocks):
            raise ValueError(f"ratings: need one array per block, {len(self.space.blocks)}, got {len(self.blocks)}")
        blocks = [_checked_ratings(self.space, b, block) for b, block in enumerate(self.blocks)]
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "metadata", _checked_metadata(self.metadata))
        self._measured(self.metric)

    @classmethod
    def from_losses(
        cls,
        space: SearchSpace,
        losses: Sequence[ArrayLike],
        metric: str = "relative_l1",
        metadata: Mapping[str, Any] | None = None,
    ) -> RatingTable:
        """A table of one's own numbers.

        Args:
            losses: per block [n_b], finite, in candidate order.
            metric: the name they go by; the other metrics stay unmeasured.

        Raises:
            ValueError: what the constructor refuses.
        """
        _check_metric(metric)
        blocks = []
        for given in losses:
            values = np.asarray(given, dtype=np.float64)
            block = np.full(values.shape, np.nan, dtype=_RATING_DTYPE)
            block[metric] = values
            blocks.append(block)
        return cls(space, blocks, metric, metadata or {})

    def losses(self, metric: str | None = None) -> list[NDArray[np.float64]]:
        """Per block [n_b]: the ratings by one metric, default the table's own.

        Raises:
            ValueError: an unknown metric, or one that was not measured.
        """
        return self._measured(self.metric if metric is None else metric)

    def standard_errors(self, metric: str | None = None) -> list[NDArray[np.float64]]:
        """Per block [n_b]: the standard errors of `losses(metric)`; nan where they are not known."""
        name = self.metric if metric is None else metric
        self._measured(name)
        return [np.ascontiguousarray(block[f"{name}_se"]) for block in self.blocks]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per candidate: block, cell, path, candidate, then every metric with its standard error."""
        import pandas

        frames = [
            _candidate_columns(self.space, b).assign(**{name: block[name] for name in _RATING_FIELDS})
            for b, block in enumerate(self.blocks)
        ]
        return pandas.concat(frames, ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Writes the table atomically."""
        _write(path, RATINGS, self.space, self.blocks, {"metric": self.metric, **self.metadata})

    @classmethod
    def load(cls, path: str | Path) -> RatingTable:
        """Reads and validates what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, of another kind or a newer version, or does not fit its own space.
        """
        space, blocks, metadata = _read(path, RATINGS)
        try:
            return cls(space, blocks, metadata.get("metric", ""), _without_own_keys(metadata))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _measured(self, metric: str) -> list[NDArray[np.float64]]:
        _check_metric(metric)
        arrays = [np.ascontiguousarray(block[metric]) for block in self.blocks]
        for b, array in enumerate(arrays):
            if np.isnan(array).any():
                raise ValueError(
                    f"ratings: {metric} was not measured in block {b}; the table's own metric is {self.metric}"
                )
        return arrays


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        near = difflib.get_close_matches(str(metric), METRICS, n=1, cutoff=0.0)[0]
        raise ValueError(f"ratings: unknown metric {metric!r}; did you mean {near!r}? Known: {', '.join(METRICS)}")


def _checked_ratings(space: SearchSpace, block: int, given: NDArray[Any]) -> NDArray[Any]:
    """Read-only copy [n_b] with the fields in order."""
    given, where = np.asarray(given), f"ratings: block {block}"
    shape, names = (space.num_candidates(block),), given.dtype.names or ()
    if given.shape != shape:
        raise ValueError(f"{where} must be [candidates] = {list(shape)}, got {list(given.shape)}")
    if set(names) != set(_RATING_FIELDS) or any(given.dtype[name] != np.float64 for name in names):
        raise ValueError(f"{where} must have the float64 fields {', '.join(_RATING_FIELDS)}, got {given.dtype}")
    copy = np.empty(shape, _RATING_DTYPE)
    for name in _RATING_FIELDS:
        copy[name] = given[name]
    for metric in METRICS:
        values, errors = copy[metric], copy[f"{metric}_se"]
        # nan throughout means "not measured"; one nan among numbers, or an infinity, means that something went wrong
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad) and not np.isnan(values).all():
            raise ValueError(
                f"{where}: {metric} must be finite, got {values[bad[0]]} for candidate {bad[0]}; rate it again"
            )
        bad = np.flatnonzero((errors < 0) | np.isinf(errors))
        if len(bad):
            got = f"got {errors[bad[0]]} for candidate {bad[0]}"
            raise ValueError(f"{where}: {metric}_se must be finite and >= 0, or nan where it is not known, {got}")
    copy.setflags(write=False)
    return copy


# ---- shared ---------------------------------------------------------------------------------------------------------


def _candidate_columns(space: SearchSpace, block: int) -> pandas.DataFrame:
    import pandas

    candidates = range(space.num_candidates(block))
    cells, paths = zip(*(space.candidate(block, i) for i in candidates), strict=True)
    return pandas.DataFrame({"block": block, "cell": cells, "path": paths, "candidate": candidates})


def _checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if taken := [key for key in metadata if key in _OWN_KEYS]:
        raise ValueError(f"table: metadata may not use the table's own keys, got {', '.join(taken)}; rename them")
    return dict(metadata)


def _without_own_keys(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in _OWN_KEYS}


def _write(
    path: str | Path, kind: str, space: SearchSpace, blocks: Sequence[NDArray[Any]], metadata: Mapping[str, Any]
) -> None:
    record = {"format": kind, "version": VERSION, "space": space.to_dict(), "space_sha256": space.sha256, **metadata}
    try:
        text = json.dumps(record)
    except TypeError as error:
        raise ValueError(f"{path}: metadata must be what JSON holds: {error}") from error
    arrays: dict[str, Any] = {f"block_{b}": block for b, block in enumerate(blocks)}
    arrays["metadata"] = np.frombuffer(text.encode(), dtype=np.uint8)
    # an open file, because numpy would append ".npz" to a name
    with written_aside(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)


def _read(path: str | Path, kind: str) -> tuple[SearchSpace, list[NDArray[Any]], dict[str, Any]]:
    arrays = _read_arrays(path)
    metadata = _parsed_metadata(path, arrays.pop("metadata", None))
    if metadata.get("format") != kind:
        raise ValueError(f"{path}: expected format {kind!r}, got {metadata.get('format')!r}; were two tables mixed up?")
    version = metadata.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{path}: damaged: version must be a positive integer, got {version!r}; write it anew")
    if version > VERSION:
        raise ValueError(f"{path}: expected a version up to {VERSION}, got the newer {version}; upgrade dna_fast")
    try:
        space = SearchSpace.from_dict(metadata.get("space", {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if metadata.get("space_sha256") != space.sha256:
        says = metadata.get("space_sha256")
        raise ValueError(f"{path}: edited: its space has sha256 {space.sha256}, but it says {says!r}; write it anew")
    expected = [f"block_{b}" for b in range(len(space.blocks))]
    if sorted(arrays) != sorted(expected):
        got = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"{path}: damaged: expected the arrays {', '.join(expected)}, got {got}; write it anew")
    return space, [arrays[name] for name in expected], metadata


def _read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as file:  # numpy leaves a file open that turns out to be no archive
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise ValueError("one bare array, not an .npz archive")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ValueError(f"{path}: cannot be opened: {error.strerror}; give a file that can be read") from error
    except Exception as error:  # a damaged archive can fail in any way anywhere inside zipfile, zlib and numpy
        raise ValueError(f"{path}: cannot be read as a table, damaged or not one ({error}); write it anew") from error


def _parsed_metadata(path: str | Path, raw: NDArray[Any] | None) -> dict[str, Any]:
    if raw is None or raw.dtype != np.uint8 or raw.ndim != 1:
        got = "none" if raw is None else f"{raw.dtype} {list(raw.shape)}"
        raise ValueError(f"{path}: not a table of dna_fast: expected an array 'metadata' of bytes, got {got}")
    try:
        metadata = json.loads(raw.tobytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged: its metadata is not JSON ({error}); write it anew") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: damaged: its metadata must be a JSON object, got {metadata!r}; write it anew")
    return metadata
