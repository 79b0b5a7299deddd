"""Loading of photographs, from bench_loader.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, table, times
from benchmarks.results import Entry, Race, Result

OPPONENTS = {
    "torchvision-pil": "torchvision, Pillow",
    "torchvision-tensor": "torchvision, tensors",
    "dali-plain": "plain DALI",
}
COUNTED = ("torchvision-pil", "torchvision-tensor")  # whose faster one the target is about


def section(result: Result) -> Section:
    """A row per kind of loading and contestant."""
    measured: dict[str, float] = {}
    rows = [row for race in result.races for row in _rows(race, measured)]
    facts = result.races[0].facts
    lines = [
        f"Photographs to normalised float32 batches of {facts['batch_size']} at {facts['size']} pixels,",
        f"{facts['threads']} threads or processes, {facts['images']:,} images in an epoch, files in the page cache; medians over epochs.",
        "*Difference* is the worst image's mean absolute difference to timm's evaluation transform, of 255. Ours also makes order and",
        "crops a function of seed, epoch and image.",
        "",
        *table(("images", "loader", "images/s", "ours over it", "difference"), rows, text_columns=2),
    ]
    return Section("Loading photographs, CPU", lines, measured)


def _rows(race: Race, measured: dict[str, float]) -> list[list[str]]:
    by_way = {entry.fields["way"]: entry for entry in race.entries}
    ours = by_way.get("ours")
    if ours is None:
        return []
    if race.facts["training"]:
        rivals = [by_way[way].median_s for way in COUNTED if way in by_way]
        if rivals:
            measured["loader.speed"] = min(rivals) / ours.median_s
    elif "difference" in ours.fields:
        measured["loader.difference"] = ours.fields["difference"]
    kind = "training" if race.facts["training"] else "evaluation"
    shown = {"ours": "ours", **OPPONENTS}
    return [[kind, shown[way], *_figures(by_way[way], ours, race.facts["images"])] for way in shown if way in by_way]


def _figures(entry: Entry, ours: Entry, images: int) -> list[str]:
    difference = entry.fields.get("difference")
    return [
        f"{images / entry.median_s:,.0f}",
        "" if entry is ours else times(entry.median_s / ours.median_s),
        "–" if difference is None else f"{difference:.2f}/255",
    ]
