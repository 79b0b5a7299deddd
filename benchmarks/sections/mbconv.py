"""The fused MBConv layer, from bench_mbconv.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, ms, percent, table, three_digits, times
from benchmarks.results import Entry, Race, Result
from benchmarks.roofs import SILU_CYCLES, SILU_LANES, counted_bound_s
from benchmarks.summary import OURS, Spread, Standing, fastest, geometric_mean, spread, standing

COLUMNS = (
    ("layer", "dtype", "ours", "default", "tuned", "any", "any is")
    + ("ratio: default", "tuned", "any")
    + ("GFLOP/s", "of bound")
)
DTYPES = {"float32": "fp32_gflops", "bfloat16": "bf16_gflops"}  # and the peak that bounds ours


def section(result: Result) -> Section:
    """Summary, threads and latency, then a row per layer and dtype."""
    most = max(race.facts["threads"] for race in result.races)
    batch = max(race.facts["batch"] for race in result.races)
    throughput = [r for r in result.races if (r.facts["threads"], r.facts["batch"]) == (most, batch)]
    single = [r for r in result.races if (r.facts["threads"], r.facts["batch"]) == (most, 1)]
    measured: dict[str, float] = {}
    lines = [
        f"The layers of the 16-cell space at 224 pixels with their operators, {len(throughput)} pairs; N = {batch}, {most} threads,",
        "squeeze-excite included; milliseconds, medians. Three opponents: *default*, the best that plain PyTorch does with the whole",
        "batch and the allocator as it comes; *tuned*, the same with an allocator that keeps freed memory (much of *default* is page",
        "faults); *any*, the best of everything, also in smaller pieces of the batch, and for bfloat16 also in float32. A claim counts",
        "against *any*. They run timm's layer: eager (NCHW, channels-last, autocast, cast to bfloat16) and compiled with freezing.",
        "",
        "*Bound* counts multiply-adds at the peak that registers alone reach, measured in the same run, and SiLUs at",
        f"{SILU_CYCLES} cycles per {SILU_LANES} values, nothing overlapped and no memory touched.",
        "",
        *_summary(throughput, measured),
        *_scaling(result, most, batch, measured),
        *_folded(f"Every layer, N = {batch}", throughput),
        *(_folded("One image at a time", single) if batch > 1 else []),
    ]
    return Section("The fused MBConv layer, CPU", lines, measured)


def _summary(races: list[Race], measured: dict[str, float]) -> list[str]:
    rows, all_any, all_shares = [], [], []
    for dtype in DTYPES:
        standings = [standing(race.entries, dtype) for race in races]
        kinds = {
            "default": [s.ratio_default for s in standings],
            "tuned": [s.ratio_tuned for s in standings],
            "any": [s.ratio_any for s in standings],
        }
        shares = [share for race in races if (share := _share(race, dtype)) is not None]
        for kind, ratios in kinds.items():
            if (over := spread(ratios)) is not None:
                rows.append([f"{dtype} against *{kind}*", *_figures(over)])
        if (against_any := spread(kinds["any"])) is not None:
            measured[f"mbconv.{dtype}"] = against_any.mean
            all_any.append(against_any.worst)
        if (bounded := spread(shares)) is not None:
            rows.append(
                [
                    f"{dtype}, share of the bound",
                    "",
                    percent(bounded.worst),
                    percent(bounded.median),
                    str(bounded.count),
                ]
            )
        all_shares += shares
    if all_any:
        measured["mbconv.worst"] = min(all_any)
    if (bounded := spread(all_shares)) is not None:
        measured["mbconv.bound"] = 100 * bounded.median
    return table(("", "geometric mean", "worst", "median", "layers"), rows)


def _folded(title: str, races: list[Race]) -> list[str]:
    """A table that a reader unfolds."""
    rows = [row for race in races for row in _rows(race)]
    return ["", "<details>", f"<summary>{title}</summary>", "", *table(COLUMNS, rows), "", "</details>"] if rows else []


def _figures(over: Spread) -> list[str]:
    return [times(over.mean), times(over.worst), times(over.median), str(over.count)]


def _rows(race: Race) -> list[list[str]]:
    name, rows = race.name.removeprefix("mbconv ").partition(",")[0], []
    for dtype in DTYPES:
        stand = standing(race.entries, dtype)
        ours = stand.ours_tuned
        if ours is None:
            continue
        rows.append(
            [
                name,
                dtype,
                ms(ours.median_s),
                *(ms(e.median_s if e else None) for e in (stand.default, stand.tuned, stand.any)),
                _who(stand),
                *(times(ratio) for ratio in (stand.ratio_default, stand.ratio_tuned, stand.ratio_any)),
                three_digits(2 * race.facts["macs"] / ours.median_s * 1e-9),
                percent(_share(race, dtype)),
            ]
        )
    return rows


def _who(stand: Standing) -> str:
    if stand.any is None:
        return "–"
    fields = stand.any.fields
    pieces = f", {fields['pieces']} a piece" if fields["pieces"] else ""
    return f"{fields['way']} {fields['dtype']}{pieces}"


def _share(race: Race, dtype: str) -> float | None:
    """Bound over our time; None where the machine has no such arithmetic or we were not raced."""
    peak, ours = race.facts["peak"], standing(race.entries, dtype).ours_tuned
    if ours is None or not peak[DTYPES[dtype]]:
        return None
    facts = race.facts
    bound_s = counted_bound_s(facts["macs"], facts["silus"], peak[DTYPES[dtype]], peak["clock_ghz"], facts["threads"])
    return bound_s / ours.median_s


def _scaling(result: Result, most: int, batch: int, measured: dict[str, float]) -> list[str]:
    """One image's latency, and what the second thread is worth."""
    found: dict[tuple[str, int, int], Race] = {}
    for race in result.races:
        found[race.name.partition(",")[0], race.facts["batch"], race.facts["threads"]] = race
    rows = []
    gains: dict[tuple[int, str, str], list[float]] = {}
    for dtype in DTYPES:
        for images in (1, batch):
            layers = [name for name, n, t in found if (n, t) == (images, 1) and (name, images, most) in found]
            ratios = []
            for name in layers:
                one, all_threads = found[name, images, 1], found[name, images, most]
                ratios.append(standing(all_threads.entries, dtype).ratio_tuned)
                for who in ("ours", "tuned"):
                    slow, fast = (_time(race.entries, dtype, who) for race in (one, all_threads))
                    if slow is not None and fast is not None:
                        gains.setdefault((images, dtype, who), []).append(slow.median_s / fast.median_s)
            mine, theirs = (gains.get((images, dtype, who)) for who in ("ours", "tuned"))
            if mine and theirs and (over := spread(ratios)) is not None:
                rows.append(
                    [
                        f"N = {images}, {dtype}",
                        times(geometric_mean(mine)),
                        times(geometric_mean(theirs)),
                        times(over.mean),
                        str(over.count),
                    ]
                )
    if most == 1 or not rows:
        return []
    one_image = [gain for (images, _, who), some in gains.items() if (images, who) == (1, "ours") for gain in some]
    if one_image:
        measured["mbconv.one_image"] = geometric_mean(one_image)
    head = (
        "",
        f"ours: {most} threads over 1",
        "best opponent: the same",
        f"ours over *tuned*, {most} threads",
        "layers",
    )
    return ["", *table(head, rows)]


def _time(entries: tuple[Entry, ...], dtype: str, who: str) -> Entry | None:
    if who == "ours":
        return fastest(entries, lambda e: e.fields["way"] == OURS and e.fields["dtype"] == dtype and _is_tuned(e))
    return standing(entries, dtype).tuned


def _is_tuned(entry: Entry) -> bool:
    return bool(entry.fields["allocator"] == "tuned")
