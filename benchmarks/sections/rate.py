"""Rating a cell, from bench_rate.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, table, three_digits, times
from benchmarks.results import Entry, Race, Result

COLUMNS = ("cell, calibration", "paths", "ours, paths/s", "official, paths/s", "official rated", "ratio") + (
    "difference",
    "to float64",
)
OFFICIALS_CALIBRATION = 32  # images: one batch. Targets count the race in which both calibrate with the same


def section(result: Result) -> Section:
    """Speed, then memory."""
    speeds = [race for race in result.races if any(e.fields["way"] == "official" for e in race.entries)]
    memories = [race for race in result.races if any("growth_bytes" in e.fields for e in race.entries)]
    measured: dict[str, float] = {}
    rows = []
    for race in speeds:
        ours, official = (_of(race, way) for way in ("ours", "official"))
        ratio, facts = official.median_s / ours.median_s, race.facts
        if facts["calibration"] == OFFICIALS_CALIBRATION:
            measured[f"rate.{facts['depth']}x{facts['width']}"] = ratio
        measured["rate.agreement"] = max(facts["agreement"], measured.get("rate.agreement", 0.0))
        rows.append(
            [
                f"{facts['depth']}x{facts['width']}, {facts['calibration']} images",
                f"{facts['paths']:,}",
                three_digits(1 / ours.median_s),
                three_digits(1 / official.median_s),
                _how_official(official, facts["paths"]),
                times(ratio),
                f"{facts['agreement']:.1e}",
                f"{facts['agreement_float64']:.1e}",
            ]
        )
    lines = [
        "One cell of the block at 14 pixels, N = 32, 4 rated batches; float32, an allocator that keeps freed memory. *official* is the",
        "released procedure in plain PyTorch, channels-last: one path at a time, recalibrated with one batch of 32 images for every",
        "rated batch. Ours rates the whole cell. Where *official* rated a sample of the paths, drawn at random, its rate is extrapolated",
        "from them. Differences are the largest relative ones between ratings of `trie` and `per_path` on a few paths.",
        "",
        *table(
            COLUMNS,
            rows,
        ),
    ]
    if memories:
        lines += ["", *_memory(memories, measured)]
    return Section("Rating a cell, CPU", lines, measured)


def _memory(races: list[Race], measured: dict[str, float]) -> list[str]:
    rows = []
    for race in races:
        for entry in race.entries:
            limit, growth = entry.fields["max_bytes"], entry.fields["growth_bytes"]
            if limit is not None:
                measured["rate.memory"] = max(100 * growth / limit, measured.get("rate.memory", 0.0))
            rows.append(
                [
                    f"{race.facts['depth']}x{race.facts['width']}, {race.facts['calibration']} images",
                    "none" if limit is None else f"{limit >> 20:,} MiB",
                    f"{growth / 2**20:,.0f} MiB",
                    f"{entry.median_s:.1f}",
                ]
            )
    return [
        "Peak memory: growth of a process's resident memory while it rates the cell, with and without a limit (`--max-memory`); allocator",
        "as it comes. The limit counts features and results, not what lies around them.",
        "",
        *table(("cell, calibration", "limit", "growth", "seconds"), rows),
    ]


def _of(race: Race, way: str) -> Entry:
    (entry,) = [e for e in race.entries if e.fields["way"] == way]
    return entry


def _how_official(entry: Entry, paths: int) -> str:
    timed = entry.fields["paths_timed"]
    return "all" if timed >= paths else f"{timed} of {paths:,}"
