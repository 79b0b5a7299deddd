"""The front behind a search: as a file for a spreadsheet, and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dna_fast._files import written_aside
from dna_fast.architecture import random_choice
from dna_fast.query import Answer, Query, in_words
from dna_fast.report import Point, SearchPlot, plot_search

CLOUD = 2000  # random architectures that show what the space is like


def write_front(query: Query, path: Path) -> int:
    """Writes the complete exact front of the rating against the bounded costs, macs where none is bounded.

    CSV, a line per point: the rating, the costs, and per block the candidate's number and words. The query's rules
    narrow it, its bounds do not.

    Returns:
        The number of points.

    Raises:
        RuntimeError: the front of several costs is too large to be complete.
    """
    names = list(query.bounds) or ["macs"]
    front = query.front(*names)
    blocks = range(len(query.ratings.space.blocks))
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        words = [column for b in blocks for column in (f"block{b}", f"block{b}_layers_x_width_operators")]
        rows.writerow([query.metric or query.ratings.metric, *names, *words])
        for i, loss in enumerate(front.loss.tolist()):
            choice = front.choice[i].tolist()
            described = zip(choice, in_words(query.ratings.space, choice), strict=True)
            costs = (int(front.costs[name][i]) for name in names)
            rows.writerow([repr(loss), *costs, *(column for pair in described for column in pair)])
    return len(front.loss)


def plot_answer(query: Query, answer: Answer, path: Path) -> None:
    """Draws the front of the rating against macs, the solutions, and random architectures for scale.

    Raises:
        ValueError: nothing was found, or the costs have no macs.
    """
    if not answer.solutions:
        raise ValueError("search: --plot draws what was found, and nothing was; raise a bound")
    if "macs" not in query.costs.names:
        raise ValueError(f"search: --plot draws macs, got costs {', '.join(query.costs.names)}; use --front")
    points = [
        Point("best" if rank == 1 else f"number {rank}", s.costs["macs"], s.loss)
        for rank, s in enumerate(answer.solutions, start=1)
    ]
    plot_points(query, points, path)


def plot_points(query: Query, points: Sequence[Point], path: Path) -> None:
    """The same for any architectures; the first is the winner."""
    rng = np.random.Generator(np.random.Philox(0))
    cloud = [random_choice(query.costs.space, rng) for _ in range(CLOUD)]
    front = query.front("macs")
    plot = SearchPlot(
        title=query.costs.space.summary(),
        front_macs=front.costs["macs"],
        front_loss=front.loss,
        winner=points[0],
        baselines=points[1:],
        cloud_macs=[query.costs.total(choice)["macs"] for choice in cloud],
        cloud_loss=[query.loss(choice) for choice in cloud],
        budget_macs=query.bounds.get("macs", (None, None))[1],
        metric=query.metric or query.ratings.metric,
    )
    plot_search(path, plot)
