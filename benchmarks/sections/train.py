"""A training step of all cells, from bench_train.py's result."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from typing import Any

from benchmarks.layout import Section, table, three_digits, times
from benchmarks.results import Entry, Race, Result

WAYS = {
    "released": "the released recipe, as published: channels first, allocator as it comes",
    "tuned": "the released recipe, channels-last, allocator keeps freed memory, huge pages",
    "shared": "the same cells behind one plain teacher pass",
    "teacher": "+ fused teacher",
    "students": "+ our supernet: gradients of depthwise convolutions, one stem",
    "loss": "+ feature_mse",
    "ours": "+ fused Adam: our step",
}
TARGETS = {"training.sharing": "shared", "training.fused": "ours"}
COUNTED = ("wide", "float32")  # boundary and dtype
HEAD = ("dtype", "way", "images/s", "ms/image", "against published", "against tuned", "against the row above")


def section(result: Result) -> Section:
    """A table per boundary with a row per way and dtype; the released recipe's time is the sum over its cells."""
    facts = result.races[0].facts
    measured: dict[str, float] = {}
    lines = [
        f"{facts['model']} teaches the {facts['cells']} cells of the space `{facts['space']}`, random weights, {facts['batch']} images a",
        f"step, {facts['threads']} threads; a step whose paths are of average work. No images are decoded.",
        "",
        "The released recipe trains one cell at a time, each behind a teacher pass that ends with its block. So the time in which it",
        f"has shown one image to every cell is a sum: a step of each of the {facts['cells']} cells is measured by itself, the medians are",
        "added up, and the sum is divided by the batch; nothing is extrapolated. All start from the same weights and follow the same",
        "paths; the loss of every cell is checked against float64 first. Targets count float32 with `boundary: wide`, as released,",
        "against the tuned opponent.",
    ]
    for race in result.races:
        rows = [row for dtype in ("float32", "bfloat16") for row in _rows(race, dtype, measured)]
        lines += ["", *_arithmetic(race.facts), "", *table(HEAD, rows, text_columns=2)]
    return Section("Training all cells, CPU", lines, measured)


def _arithmetic(facts: dict[str, Any]) -> list[str]:
    released, ours, teacher = (facts[key] / 1e9 for key in ("macs_released", "macs_ours", "teacher_macs"))
    return [
        f"`boundary: {facts['boundary']}`: by arithmetic alone the recipe takes {released:.1f} GMAC per image and epoch, one shared pass",
        f"{ours:.1f}, of which the teacher {teacher:.1f}: {released / ours:.2f}x less.",
    ]


def _rows(race: Race, dtype: str, measured: dict[str, float]) -> list[list[str]]:
    seconds = {way: total_s(race.entries, way, dtype) for way in WAYS}
    for key, way in TARGETS.items():
        tuned, ours = seconds["tuned"], seconds[way]
        if (race.facts["boundary"], dtype) == COUNTED and tuned is not None and ours is not None:
            measured[key] = tuned / ours
    rows, above = [], None
    for way, label in WAYS.items():
        if (taken := seconds[way]) is None:
            continue
        per_image = taken / race.facts["batch"]
        ratios = [None if other is None else other / taken for other in (seconds["released"], seconds["tuned"], above)]
        figures = (three_digits(1 / per_image), three_digits(per_image * 1e3))
        rows.append([dtype, label, *figures, *(times(ratio) for ratio in ratios)])
        above = taken
    return rows


def total_s(entries: Iterable[Entry], way: str, dtype: str) -> float | None:
    """Seconds of a batch through all cells: of one step, or the sum of one step for every cell; None if it was not measured."""
    found = [e.median_s for e in entries if (e.fields["way"], e.fields["dtype"]) == (way, dtype)]
    return fsum(found) if found else None
