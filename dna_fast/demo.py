"""The whole job on the embedded data set, told as it goes: from a teacher to a retrained architecture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dna_fast.display import Display
from dna_fast.pipeline import Run
from dna_fast.provenance import stage_record
from dna_fast.query import Query, answer, print_answer, write_answer
from dna_fast.stages import (
    Compared,
    compare,
    plot_comparison,
    prepare_teacher,
    rate_candidates,
    train_supernet,
)

# Seconds that each stage may take on two CPU cores; together below ten minutes. Printed beside what it took.
BUDGETS_S = {"teacher": 90, "supernet": 190, "rating": 60, "search": 10, "retraining": 230}


def run_demo(config: Path, out: Path, display: Display, overrides: Sequence[str] = ()) -> None:
    """Runs every stage in `out`; finished stages of an interrupted demo are taken from there, and it says so.

    Args:
        config: the demo's configuration file.
        out: run directory.
        display: where to talk.
        overrides: keys of the configuration to change, "train.epochs=3".
    """
    clock = _Clock(display)
    if (out / "config.yaml").exists():
        display.note(
            f"{out} exists: what is finished there is used again. For a new run choose another --out.", style="yellow"
        )
    run = Run.start(config, out, overrides)
    display.note(f"Search space {run.space.summary()}. Everything goes to {out}.")
    with clock.stage("teacher", f"A teacher learns {len(run.images.train):,} images and is cut into blocks"):
        teacher = prepare_teacher(run, display)
    with clock.stage("supernet", "Student blocks learn to reproduce the teacher's, all candidates at once"):
        train_supernet(run, teacher, display)
    with clock.stage("rating", "Rating: how far is every candidate from the teacher, on images it was not trained on?"):
        rate_candidates(run, teacher, display)
    with clock.stage("search", f"Search: the best of {run.space.num_architectures:,} architectures, proven"):
        finish = stage_record(out, "search", "cpu")
        query = Query.of_run(run)
        found = answer(query)
        print_answer(found, display)
        winner = write_answer(query, found, out)
        finish(True)
    if winner is None:
        raise ValueError("demo: no architecture meets search.max; raise the bound")
    with clock.stage(
        "retraining", "Retraining from scratch, one recipe for all: better than chance, than the largest?"
    ):
        results = compare(run, {"found": winner}, teacher, display)
    plot_comparison(out / "front.png", query, results)
    _conclude(display, results, teacher.macs)
    display.note(f"Saved in {out}: ratings.npz, costs.npz, search.json, architecture.json, models/, front.png")
    clock.total()
    display.note(f"Next: dna-fast report {out}")


def _conclude(display: Display, results: Sequence[Compared], teacher_macs: int) -> None:
    """Says what the intervals allow to be said, and no more."""
    found, *others = results
    display.say(f"The found network needs {found.macs / teacher_macs:.0%} of the teacher's macs.")
    low, high = found.accuracy.interval
    for other in others:
        other_low, other_high = other.accuracy.interval
        if low > other_high:
            verdict = "better, beyond the intervals"
        elif high < other_low:
            verdict = "worse, beyond the intervals"
        else:
            verdict = "not distinguishable on this many images: the intervals overlap"
        display.say(f"  against {other.name} ({other.macs / 1e6:.2f} M macs): {verdict}")


class _Clock:
    """Headings before and times after every stage."""

    def __init__(self, display: Display) -> None:
        self.display, self.start, self.stages = display, time.perf_counter(), 0

    @contextmanager
    def stage(self, name: str, heading: str) -> Iterator[None]:
        self.stages += 1
        self.display.heading(f"{self.stages}. {heading}")
        start = time.perf_counter()
        yield
        self.display.note(f"{name}: {time.perf_counter() - start:.0f} s of {BUDGETS_S[name]} s budgeted", style="dim")

    def total(self) -> None:
        self.display.note(f"\nThe demo took {time.perf_counter() - self.start:.0f} s.")
