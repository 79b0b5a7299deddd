"""The whole job on the embedded data set, told as it goes: from a teacher to a retrained architecture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dna_fast.architecture import random_choice
from dna_fast.display import Display
from dna_fast.pipeline import Run
from dna_fast.query import Query, answer, print_answer, write_answer
from dna_fast.report import Point, SearchPlot, plot_search
from dna_fast.stages import Compared, compare, prepare_teacher, rate_candidates, train_supernet

# Seconds that each stage may take on two CPU cores; together below ten minutes. Printed beside what it took.
BUDGETS_S = {"teacher": 120, "supernet": 180, "rating": 60, "search": 10, "retraining": 210}
CLOUD = 2000  # random architectures in the plot


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
        display.say(
            f"[yellow]{out} exists: what is finished there is used again. For a new run choose another --out.[/yellow]"
        )
    run = Run.start(config, out, overrides)
    display.say(f"Search space {run.space.summary()}. Everything goes to {out}.")
    with clock.stage(
        "teacher", "1. A teacher: a small EfficientNet learns the 1,797 handwritten digits, then is cut into blocks"
    ):
        teacher = prepare_teacher(run, display)
    with clock.stage(
        "supernet", "2. A supernet: every student block learns to reproduce the teacher's block, all candidates at once"
    ):
        train_supernet(run, teacher, display)
    with clock.stage(
        "rating", "3. Rating: how far is every candidate from the teacher, on images it was not trained on?"
    ):
        rate_candidates(run, teacher, display)
    with clock.stage("search", "4. Search: the best of all architectures within a third of the teacher's macs, proven"):
        query = Query.of_run(run)
        found = answer(query)
        print_answer(found, display)
        winner = write_answer(query, found, out)
    if winner is None:
        raise ValueError("demo: no architecture meets search.max; raise the bound")
    with clock.stage(
        "retraining", "5. Retraining from scratch, one recipe for all: is it better than chance, and than the largest?"
    ):
        results = compare(run, winner, teacher, display)
    _plot(out / "front.png", query, results)
    _conclude(display, results, teacher.macs)
    display.say(f"Saved in {out}: ratings.npz, costs.npz, search.json, architecture.json, models/, front.png")
    clock.total()


def _plot(path: Path, query: Query, results: Sequence[Compared]) -> None:
    """Rating against macs: the front, the winner, the baselines, and random architectures for scale."""
    rng = np.random.Generator(np.random.Philox(0))
    cloud = [random_choice(query.costs.space, rng) for _ in range(CLOUD)]
    front = query.front("macs")
    points = [Point(r.name, r.macs, query.loss(r.arch.candidates or ())) for r in results]
    plot = SearchPlot(
        title=f"{query.costs.space.summary()}",
        front_macs=front.costs["macs"],
        front_loss=front.loss,
        winner=points[0],
        baselines=points[1:],
        cloud_macs=[query.costs.total(choice)["macs"] for choice in cloud],
        cloud_loss=[query.loss(choice) for choice in cloud],
        budget_macs=query.bounds.get("macs", (None, None))[1],
        metric=query.ratings.metric,
    )
    plot_search(path, plot)


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
        self.display, self.start = display, time.perf_counter()

    @contextmanager
    def stage(self, name: str, heading: str) -> Iterator[None]:
        self.display.heading(heading)
        start = time.perf_counter()
        yield
        self.display.say(f"[dim]{name}: {time.perf_counter() - start:.0f} s of {BUDGETS_S[name]} s budgeted[/dim]")

    def total(self) -> None:
        self.display.say(f"\nThe demo took {time.perf_counter() - self.start:.0f} s.")
