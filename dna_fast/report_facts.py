"""What a run's files say, read for its report. Every part may be missing: a run that is not finished has a report, too."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dna_fast._files import file_sha256, read_json
from dna_fast.architecture import Architecture
from dna_fast.checkpoint_state import read_state
from dna_fast.config import RunConfig, load_config
from dna_fast.cost import architecture_cost, cost_table
from dna_fast.provenance import read_records
from dna_fast.query import Query
from dna_fast.tables import METRICS, CostTable, RatingTable

# Files whose content identifies the results; their sha256 goes into the report.
IDENTIFIED = ("config.yaml", "splits.npz", "ratings.npz", "costs.npz", "search.json", "architecture.json")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Score:
    """An accuracy as a training record holds it."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def top1(self) -> float:
        return self.correct / self.total

    def overlaps(self, other: Score) -> bool:
        """Whether the 95 % intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Curve:
    """A quantity by epoch."""

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """How a classifier was trained and judged; `detail` is from its log."""

    score: Score
    seconds: float
    loss: Curve
    detail: Curve | None


@dataclass(frozen=True)
class Network:
    """A network of the comparison; what is not known is None."""

    name: str
    arch: Architecture | None
    costs: Mapping[str, int]
    training: Training | None


@dataclass(frozen=True)
class TeacherFacts:
    """`teacher.json`, and how a teacher trained here fared."""

    source: str
    sha256: str
    macs: int
    bn: str
    points: tuple[Mapping[str, Any], ...]
    training: Training | None


@dataclass(frozen=True)
class SupernetFacts:
    """Training of the supernet: mean loss per block [epochs, blocks], finer curves, where it stands."""

    identity: str
    epochs: int
    steps: int
    losses: NDArray[np.float64]
    seconds: float
    detail: tuple[Curve, ...]


@dataclass(frozen=True)
class SearchFacts:
    """`search.json`: what was asked and what was found, best first."""

    status: str
    metric: str
    bounds: Mapping[str, tuple[int | None, int | None]]
    solutions: tuple[Mapping[str, Any], ...]
    smallest_feasible: Mapping[str, int | None]
    gap: float | None
    fix: tuple[str, ...]
    forbid: tuple[str, ...]
    min_differences: int


@dataclass(frozen=True)
class DataFacts:
    """`splits.npz`."""

    fingerprint: str
    rated: int
    calibration: int


@dataclass(frozen=True, eq=False)
class RunFacts:
    """All of it."""

    directory: Path
    config: RunConfig
    teacher: TeacherFacts | None
    supernet: SupernetFacts | None
    ratings: RatingTable | None
    costs: CostTable
    search: SearchFacts | None
    winner: Architecture | None
    networks: tuple[Network, ...]
    data: DataFacts | None
    records: Mapping[str, Mapping[str, Any]]
    sha256: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def found(self) -> Network | None:
        """The network that was trained of the winner; None where the winner is not trained."""
        return next((n for n in self.networks if self.winner and n.arch and n.arch.blocks == self.winner.blocks), None)

    @property
    def metric(self) -> str | None:
        """The rating that was minimised."""
        if self.search is not None:
            return self.search.metric
        return None if self.ratings is None else self.ratings.metric

    def query(self) -> Query | None:
        """The search's question, for fronts and losses; None without ratings."""
        if self.ratings is None:
            return None
        query = Query(self.ratings, self.costs, metric=self.metric)
        if (asked := self.search) is None:
            return query
        with _reading(self.directory / "search.json"):
            return replace(query, bounds=asked.bounds).ruled(asked.fix, asked.forbid, asked.min_differences)


def read_run(directory: str | Path) -> RunFacts:
    """Reads a run directory; nothing in it is changed.

    Raises:
        ValueError: no run, or a damaged file; the message names it.
    """
    directory = Path(directory)
    stored = directory / "config.yaml"
    if not stored.exists():
        raise ValueError(f"{directory}: not a run directory (no config.yaml); start one with: dna-fast train CONFIG")
    config = load_config(stored)
    space = config.search_space()
    ratings, costs = directory / "ratings.npz", directory / "costs.npz"
    for name, table in (("ratings.npz", ratings), ("costs.npz", costs)):
        loaded = (RatingTable.load if name == "ratings.npz" else CostTable.load)(table) if table.exists() else None
        if loaded is not None and loaded.space != space:
            raise ValueError(
                f"{table}: of space {loaded.space.name!r} ({loaded.space.sha256[:12]}), config.yaml has {space.name!r} "
                f"({space.sha256[:12]}); restore the file that belongs to this run"
            )
    return RunFacts(
        directory=directory,
        config=config,
        teacher=_if_there(directory / "teacher.json", _teacher),
        supernet=_if_there(directory / "supernet" / "state.json", _supernet),
        ratings=_if_there(ratings, RatingTable.load),
        costs=_if_there(costs, CostTable.load) or cost_table(space),
        search=_if_there(directory / "search.json", _search),
        winner=_if_there(directory / "architecture.json", Architecture.load),
        networks=tuple(_networks(directory)),
        data=_if_there(directory / "splits.npz", _data),
        records=_records(directory),
        sha256={name: file_sha256(directory / name) for name in IDENTIFIED if (directory / name).exists()},
    )


def _if_there(path: Path, read: Callable[[Path], _T]) -> _T | None:
    return read(path) if path.exists() else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a value of the wrong kind causes into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: damaged ({what}); restore it, or write it anew with its stage") from error


def _teacher(path: Path) -> TeacherFacts:
    with _reading(path):
        known = read_json(path)
        points = tuple(
            {"name": str(p["name"])} | {k: int(p[k]) for k in ("channels", "height", "width", "macs")}
            for p in known["points"]
        )
        training = _if_there(path.with_name("teacher_training.json"), _training)
        return TeacherFacts(
            str(known["source"]), str(known["weights_sha256"]), int(known["macs"]), str(known["bn"]), points, training
        )


def _training(path: Path) -> Training:
    """A classifier's record: `teacher_training.json` or `models/<name>/training.json`."""
    with _reading(path):
        known = read_json(path)
        accuracy = known["accuracy"]
        low, high = (float(end) for end in accuracy["interval_95"])
        score = Score(int(accuracy["correct"]), int(accuracy["total"]), low, high)
        if not 0 <= low <= score.top1 <= high <= 1:
            raise ValueError(f"expected 0 <= low <= top1 <= high <= 1, got {score.top1} in [{low}, {high}]")
        epochs = [int(record["epoch"]) + 1 for record in known["history"]]
        loss = Curve(np.array(epochs, float), np.array([float(record["loss"]) for record in known["history"]]))
        seconds = float(known["seconds"])
    is_teacher = path.name == "teacher_training.json"
    run = path.parent if is_teacher else path.parents[2]
    log = run / "logs" / ("teacher.csv" if is_teacher else f"models/{path.parent.name}.csv")
    rows = read_log(log, ("step", "loss"))
    detail = None
    if len(rows) and len(loss.epochs):
        per_epoch = max(rows[:, 0].max() / loss.epochs[-1], 1.0)  # the log ends within ten steps of the last epoch
        detail = Curve(rows[:, 0] / per_epoch, rows[:, 1])
    return Training(score, seconds, loss, detail)


def _networks(directory: Path) -> Iterator[Network]:
    """Retrained networks, the found one first."""
    paths = sorted((directory / "models").glob("*/training.json"), key=lambda p: (p.parent.name != "found", p))
    for path in paths:
        arch = _if_there(path.with_name("architecture.json"), Architecture.load)
        costs = {} if arch is None else architecture_cost(arch)
        yield Network(path.parent.name, arch, costs, _training(path))


def _supernet(path: Path) -> SupernetFacts | None:
    state = read_json(path)
    identity = state.get("identity") if isinstance(state, dict) else None
    kept = read_state(path.parent, identity if isinstance(identity, str) else "")
    newest = kept[0]
    with _reading(path):
        history = newest.measured.history
        losses = np.array([[float(x) for x in record["losses"]] for record in history], dtype=np.float64)
        if losses.ndim != 2 and len(history):
            raise ValueError("expected as many losses in every epoch")
        seconds = sum(float(record["seconds"]) for record in history)
        steps = int(history[0].get("steps", 0)) if history else 0
    blocks = losses.shape[1] if losses.ndim == 2 else 0
    rows = read_log(path.parents[1] / "logs" / "supernet.csv", ("step", *(f"loss_{b}" for b in range(blocks))))
    detail = tuple(Curve(rows[:, 0] / steps, rows[:, b + 1]) for b in range(blocks)) if steps and len(rows) else ()
    return SupernetFacts(
        str(identity), newest.position.epoch, newest.position.step, losses.reshape(len(history), -1), seconds, detail
    )


def _search(path: Path) -> SearchFacts:
    with _reading(path):
        known = read_json(path)
        if known["metric"] not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {known['metric']!r}")
        bounds = {str(name): (_count(low), _count(high)) for name, (low, high) in known["bounds"].items()}
        solutions = tuple(
            {
                "loss": float(s["loss"]),
                "costs": {str(name): int(value) for name, value in s["costs"].items()},
                "candidates": tuple(int(c) for c in s["candidates"]),
                "blocks": tuple(str(b) for b in s["blocks"]),
                "indistinguishable": s.get("indistinguishable"),
            }
            for s in known["solutions"]
        )
        smallest = {str(name): _count(value) for name, value in known["smallest_feasible"].items()}
        gap = None if known["gap"] is None else float(known["gap"])
        fix, forbid = (tuple(str(rule) for rule in known.get(kind, ())) for kind in ("fix", "forbid"))
        apart = int(known.get("min_differences", 1))
        return SearchFacts(
            str(known["status"]), str(known["metric"]), bounds, solutions, smallest, gap, fix, forbid, apart
        )


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _data(path: Path) -> DataFacts:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return DataFacts(str(stored["fingerprint"]), len(stored["rating"]), len(stored["calibration"]))
    except Exception as error:  # a damaged archive can fail in any way inside zipfile and numpy
        raise ValueError(f"{path}: damaged ({error}); restore it") from error


def _records(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    records = read_records(directory)
    for stage, record in records.items():
        if not isinstance(record, dict):
            raise ValueError(f"{directory / 'provenance.json'}: damaged, {stage!r} must be a record; delete the file")
    return records


def read_log(path: Path, columns: Sequence[str]) -> NDArray[np.float64]:
    """[rows, columns] of a log; no rows where there is no file or it has other columns.

    A log is written while its stage runs, so that its last row may be half a row: rows that are no numbers are left out.
    """
    if not path.exists():
        return np.empty((0, len(columns)))
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = []
        for record in csv.DictReader(file):
            try:
                rows.append([float(record[name]) for name in columns])
            except (KeyError, TypeError, ValueError):
                continue
    array = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    return array[np.isfinite(array).all(axis=1)]
