"""The depthwise convolution and its gradients, from bench_depthwise.py's result."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.layout import Section, ms, table, times
from benchmarks.results import Entry, Race, Result
from benchmarks.summary import Standing, spread, standing

PASSES = {"forward": "result", "input": "x's gradient", "weight": "weight's gradient"}
STEP = "all three"  # what a training step runs
DTYPES = ("float32", "bfloat16")
COLUMNS = (
    "layer",
    "dtype",
    *(f"{name} {part}" for name in (*PASSES.values(), STEP) for part in ("ours", "best", "ratio")),
)


def section(result: Result) -> Section:
    """A summary, then a row per layer and dtype."""
    batch = max(race.facts["batch"] for race in result.races)
    most = max(race.facts["threads"] for race in result.races)
    measured: dict[str, float] = {}
    summary = []
    for dtype in DTYPES:
        for key, name in [*PASSES.items(), (STEP, STEP)]:
            if (over := spread(_standing(race, dtype, key).ratio_any for race in result.races)) is None:
                continue
            summary.append(
                [f"{dtype}, {name}", *(times(x) for x in (over.mean, over.worst, over.median)), str(over.count)]
            )
            if key in ("weight", STEP):
                measured[f"depthwise.{'weight' if key == 'weight' else 'step'}_{dtype}"] = over.mean
    rows = [_row(race, dtype) for race in result.races for dtype in DTYPES]
    lines = [
        f"Depthwise layers of the 16-cell space, N = {batch}, {most} threads; milliseconds, medians. *Best* is the faster of torch's own",
        "operators in channels-last and in NCHW, whichever allocator suits them, for bfloat16 also in float32 (without the time to",
        "convert); ours is channels-last, with the allocator that keeps freed memory. *All three* adds up what each side takes in",
        "one dtype and layout.",
        "",
        *table(("", "geometric mean", "worst", "median", "layers"), summary),
        "",
        "<details>",
        "<summary>Every layer</summary>",
        "",
        *table(COLUMNS, rows),
        "",
        "</details>",
    ]
    return Section("Depthwise convolution and its gradients, CPU", lines, measured)


def _row(race: Race, dtype: str) -> list[str]:
    layer = race.facts["layer"]
    cells = []
    for key in (*PASSES, STEP):
        found = _standing(race, dtype, key)
        pair = (found.ours_tuned, found.any)
        cells += [*(ms(entry.median_s if entry else None) for entry in pair), times(found.ratio_any)]
    return [f"c{layer['channels']} @{layer['size']} k{layer['kernel']} s{layer['stride']}", dtype, *cells]


def _standing(race: Race, dtype: str, key: str) -> Standing:
    entries = _steps(race) if key == STEP else [e for e in race.entries if e.fields["pass"] == key]
    return standing(entries, dtype)


def _steps(race: Race) -> list[Entry]:
    """The three passes of one contestant as one entry: their medians added up."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in race.entries:
        way, dtype, allocator = (entry.fields[name] for name in ("way", "dtype", "allocator"))
        groups.setdefault((way, dtype, allocator), []).append(entry)
    return [
        replace(same[0], seconds=same[0].seconds | {"median": sum(entry.median_s for entry in same)})
        for same in groups.values()
        if {entry.fields["pass"] for entry in same} == set(PASSES)
    ]
