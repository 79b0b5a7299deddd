"""The stages of a run as a person follows them: each does its work through `pipeline.Run` and says what it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from dna_fast._lock import exclusive
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost, largest_choice, random_at_cost
from dna_fast.display import QUIET, Display, Update
from dna_fast.fronts import plot_points
from dna_fast.memory import keep_freed_memory
from dna_fast.pipeline import Run
from dna_fast.provenance import stage_record
from dna_fast.query import Query
from dna_fast.report import Point
from dna_fast.stage_log import StageLog, stage_log

if TYPE_CHECKING:
    from dna_fast.pipeline_ranks import Chosen
    from dna_fast.rate import RateProgress
    from dna_fast.recipe import Accuracy
    from dna_fast.retrain_inherited import Inheritance
    from dna_fast.retrain_step import StepRecord
    from dna_fast.supernet import Supernet
    from dna_fast.tables import RatingTable
    from dna_fast.teacher import Teacher
    from dna_fast.train import Progress

MACS_TOLERANCE = 0.01  # a baseline "of equal macs" is within this share of the winner's

INHERITED = "_inherited"  # what a name ends in, beside the same network from scratch

_CLASSIFIER_COLUMNS = ("epoch", "step", "lr", "loss", "images_per_s")  # of its log, by their names in a StepRecord

MAX_DRAWS = 100  # of a baseline that must differ from the winner and the baselines before it


@dataclass(frozen=True)
class Compared:
    """One retrained network of a comparison."""

    name: str
    arch: Architecture
    macs: int
    params: int
    accuracy: Accuracy
    seconds: float
    head_accuracy: Accuracy | None = None  # with inherited weights: when only the head was trained


def prepare_teacher(run: Run, display: Display, *, tensorboard: bool = False) -> Teacher:
    """Loads or trains the teacher and prints its cuts.

    On a CPU the process keeps the memory that it frees from here on (see `memory`): every command that trains or rates comes by.
    """
    if run.device.type == "cpu":
        keep_freed_memory()
    finish = stage_record(run.directory, "teacher", str(run.device))
    is_read = run.config.teacher.fit is None or (run.directory / "teacher.safetensors").exists()
    with (
        nullcontext() if is_read else _alone(run, "teacher"),
        display.progress("teacher") as update,
        _classifier_log(run, "teacher", tensorboard) as log,
    ):
        teacher = run.teacher(_on_step(update, log))
    if run.is_leader:
        finish(log.rows > 0)
    accuracy = run.teacher_accuracy
    judged = "" if accuracy is None else f", {accuracy} top-1 [95 % interval] on the evaluation images"
    display.note(f"Teacher of {teacher.macs / 1e6:,.1f} M macs ({run.teacher_source}){judged}. Its blocks:")
    display.note(teacher.plan.table())
    if teacher.fusion is not None and teacher.fusion.layers:
        display.note(teacher.fusion.summary())
    return teacher


def train_supernet(
    run: Run,
    teacher: Teacher,
    display: Display,
    *,
    tensorboard: bool = False,
    placement: str | None = None,
    profiled: bool = False,
) -> Supernet:
    """Trains the supernet, showing and logging losses, images per second, and where the time goes; of many ranks the first does.

    Args:
        placement: instead of the configuration's train.placement.
        profiled: write a profiler's trace of a few steps to `logs/profile`.
    """
    from dna_fast import train_log

    finish = stage_record(run.directory, "train", str(run.device))
    columns = train_log.columns(run.space)
    profile_into = run.directory / "logs" / "profile" if profiled else None

    def report(update: Update, log: StageLog) -> Callable[[Progress], None]:
        def on_progress(p: Progress) -> None:
            update(p.position.step, p.total_steps, train_log.remarks(p))
            if p.position.batch:  # at an epoch's end it tells the epoch's means, which are in the checkpoint's history
                log.add(train_log.row(p, run.space))

        return on_progress

    with (
        _alone(run, "train"),
        display.progress("supernet") as update,
        stage_log(run.directory, "supernet", columns, tensorboard=tensorboard) as log,
    ):
        supernet = run.train(
            teacher,
            report(update, log),
            placement=placement,
            on_placement=lambda chosen: show_placement(chosen, display),
            profile_into=profile_into,
        )
    if not run.is_leader:
        return supernet
    finish(log.rows > 0)
    display.note(f"supernet of {len(run.space.blocks)} blocks trained: {run.directory / 'supernet'}")
    if profile_into is not None:
        display.note(f"profile, for TensorBoard or Perfetto: {profile_into / 'train.pt.trace.json'}")
    return supernet


def show_placement(chosen: Chosen, display: Display) -> None:
    """Which rank trains what, and what that is expected to take."""
    from dna_fast.placement import table

    expected = chosen.expected
    display.note(
        f"placement {expected.placement}: expected {1e3 * expected.step_s:.1f} ms per step of {chosen.batch.images} images, "
        f"balance {100 * expected.balance:.0f} % (mean over slowest); per step and rank:"
    )
    if display.verbosity > QUIET:
        display.table(*table(expected, chosen.costs, chosen.batch))
    others = [f"{e.placement} {1e3 * e.step_s:.1f} ms" for e in chosen.others if e is not expected]
    if others:
        display.note(f"slower: {', '.join(others)}")


def rate_candidates(
    run: Run,
    teacher: Teacher,
    display: Display,
    *,
    max_memory_bytes: int | None = None,
    tensorboard: bool = False,
) -> RatingTable:
    """Rates every candidate, showing and logging paths per second."""
    start = time.perf_counter()
    finish = stage_record(run.directory, "rate", str(run.device))
    columns = ("paths", "total_paths", "share")
    with (
        _alone(run, "rate"),
        display.progress("rating") as update,
        stage_log(run.directory, "rating", columns, position="paths", tensorboard=tensorboard) as log,
    ):
        began: tuple[float, int] | None = None  # when, and how many paths an earlier, interrupted rating had finished

        def on_progress(p: RateProgress) -> None:
            nonlocal began
            now = time.perf_counter()
            began = (now, p.paths) if began is None else began
            speed = (p.paths - began[1]) / max(now - began[0], 1e-9)
            update(p.paths, p.total_paths, f"{speed:.1f} paths/s", p.share)
            log.add({"paths": p.paths, "total_paths": p.total_paths, "share": p.share})

        table = run.rate(teacher, on_progress if run.is_leader else None, max_memory_bytes=max_memory_bytes)
    if not run.is_leader:
        return table
    finish(log.rows > 0)
    seconds = time.perf_counter() - start
    paths = sum(len(block) for block in table.blocks)
    display.note(f"{paths:,} candidates rated in {seconds:.0f} s: {run.directory / 'ratings.npz'}")
    return table


def baseline_architectures(run: Run, winner: Architecture) -> dict[str, Architecture]:
    """What the configuration compares the winner with: random architectures of equal macs, and the largest one."""
    table, config = run.costs(), run.config.retrain
    macs = architecture_cost(winner)["macs"]
    found: dict[str, Architecture] = {}
    taken = {winner.candidates}
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((run.config.seed, 1))))
    for number in range(config.random_baselines):
        draws = (random_at_cost(table, "macs", macs, MACS_TOLERANCE, rng) for _ in range(MAX_DRAWS))
        choice = next((choice for choice in draws if choice not in taken), None)
        if choice is None:
            break  # a small space may hold no other network of these macs; the comparison then shows fewer
        taken.add(choice)
        found[f"random_{number}"] = Architecture.from_space(run.space, choice, f"random_{number}")
    if config.largest:
        found["largest"] = Architecture.from_space(run.space, largest_choice(table, "macs"), "largest")
    return found


def compare(
    run: Run,
    chosen: Mapping[str, Architecture],
    start: Teacher | Inheritance,
    display: Display,
    *,
    with_baselines: bool = True,
    also: Mapping[str, Architecture] = MappingProxyType({}),
    tensorboard: bool = False,
) -> list[Compared]:
    """Retrains an architecture (by name) and its baselines by one recipe; prints accuracies with 95 % intervals.

    Args:
        chosen: the one network, by its name.
        start: the teacher, and with it training from scratch; or what weights to start from.
        with_baselines: those that the configuration asks for, too.
        also: further networks, of no rated space: they have nothing to inherit and start from scratch.
    """
    from dna_fast.teacher import Teacher

    (winner,) = chosen.values()
    networks = {**chosen, **(baseline_architectures(run, winner) if with_baselines else {})}
    results = retrain_all(run, networks, start, display, tensorboard=tensorboard)
    teacher = start if isinstance(start, Teacher) else start.teacher
    results += retrain_all(run, also, teacher, display, tensorboard=tensorboard)
    head = ("head alone",) if any(r.head_accuracy for r in results) else ()
    rows: list[tuple[Any, ...]] = [
        (r.name, f"{r.macs / 1e6:.2f} M", f"{r.params:,}", str(r.accuracy), f"{r.seconds:.0f} s")
        + ((str(r.head_accuracy or ""),) if head else ())
        for r in results
    ]
    display.table(("network", "macs", "params", "top-1 [95 % interval]", "trained in", *head), rows)
    return results


def retrain_all(
    run: Run,
    networks: Mapping[str, Architecture],
    start: Teacher | Inheritance,
    display: Display,
    *,
    tensorboard: bool = False,
) -> list[Compared]:
    """Retrains networks one after another, by their names; `start` as in `compare`."""
    return [_retrained(run, name, arch, start, display, tensorboard) for name, arch in networks.items()]


def _retrained(
    run: Run, name: str, arch: Architecture, start: Teacher | Inheritance, display: Display, tensorboard: bool
) -> Compared:
    """One network of a comparison; with inherited weights its name says so."""
    from dna_fast.teacher import Teacher

    head_accuracy = None
    if not isinstance(start, Teacher):
        name += INHERITED
    finish = stage_record(run.directory, f"retrain/{name}", str(run.device))
    with (
        _alone(run, f"retrain {name}"),
        display.progress(f"retraining {name}") as update,
        _classifier_log(run, f"models/{name}", tensorboard) as log,
    ):
        on_step = _on_step(update, log) if run.is_leader else None
        if isinstance(start, Teacher):
            fitted = run.retrain(arch, start, name, on_step)
        else:
            both = start.retrain(arch, name, _on_head_step(update) if run.is_leader else None, on_step)
            fitted, head_accuracy = both.whole, both.head.accuracy
    if run.is_leader:
        finish(log.rows > 0)
    costs = architecture_cost(arch)
    return Compared(name, arch, costs["macs"], costs["params"], fitted.accuracy, fitted.seconds, head_accuracy)


def plot_comparison(path: Path, query: Query, results: Sequence[Compared]) -> None:
    """Rating against macs: the front, the winner, the baselines, and random architectures for scale."""
    points = [Point(r.name, r.macs, query.loss(r.arch.candidates or ())) for r in results]
    plot_points(query, points, path)


def _alone(run: Run, stage: str) -> AbstractContextManager[None]:
    """No other process does this stage of the run meanwhile; the first of many ranks sees to it."""
    return exclusive(run.directory, stage) if run.is_leader else nullcontext()


def _classifier_log(run: Run, name: str, tensorboard: bool) -> AbstractContextManager[StageLog]:
    return stage_log(run.directory, name, _CLASSIFIER_COLUMNS, tensorboard=tensorboard)


def _on_head_step(update: Update) -> Callable[[StepRecord], None]:
    return lambda record: update(record.step, record.total_steps, f"head, {_remarks(record)}")


def _remarks(record: StepRecord) -> str:
    return f"loss {record.loss:.4f}, {record.images_per_s:,.0f} images/s"


def _on_step(update: Update, log: StageLog) -> Callable[[StepRecord], None]:
    def on_step(record: StepRecord) -> None:
        update(record.step, record.total_steps, _remarks(record))
        log.add({name: getattr(record, name) for name in _CLASSIFIER_COLUMNS})

    return on_step
