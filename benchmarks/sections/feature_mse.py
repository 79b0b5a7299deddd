"""feature_mse, from bench_feature_mse.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, ms, percent, table, times
from benchmarks.results import Race, Result
from benchmarks.summary import Standing, spread, standing

COLUMNS = (
    ("student, teacher", "ours default", "tuned", "eager default", "tuned", "compile tuned")
    + ("ratio: eager default", "tuned")
    + ("of a copy",)
)
EAGER = ("eager", "eager-float")


def section(result: Result) -> Section:
    """A row per shape and pair of dtypes."""
    measured: dict[str, float] = {}
    for key, is_mixed in (("same", False), ("mixed", True)):
        ratios = [_eager(race).ratio_any for race in result.races if _is_mixed(race) == is_mixed]
        if (over := spread(ratios)) is not None:
            measured[f"feature_mse.{key}"] = over.mean
    lines = [
        "Loss and gradient of one training step; milliseconds, medians. *default* and *tuned* allocator as above; eager is the better of",
        "`F.mse_loss` as it is and on float32 copies. The last column sets the least bytes that anyone moves (both tensors read, the",
        "gradient written) over our time against what a copy moves per second in the same run. Where tensors fit into the",
        "cache this can exceed 100 %. Targets count eager with the allocator that suits it better, geometric mean over shapes.",
        "",
        *table(
            COLUMNS,
            [_row(race) for race in result.races],
        ),
    ]
    return Section("feature_mse, CPU", lines, measured)


def _row(race: Race) -> list[str]:
    eager = _eager(race)
    compiled = standing(race.entries, race.facts["student"], rivals=lambda e: e.fields["way"] == "compile")
    ours = eager.ours_tuned
    speed = race.facts["least_bytes"] / ours.median_s if ours else None
    found = (eager.ours_default, ours, eager.default, eager.tuned, compiled.tuned)
    return [
        f"{'x'.join(map(str, race.facts['shape']))} {race.facts['student']}, {race.facts['teacher']}",
        *(ms(entry.median_s if entry else None) for entry in found),
        times(eager.ratio_default),
        times(eager.ratio_tuned),
        percent(speed / race.facts["copy_bytes_per_s"] if speed else None),
    ]


def _eager(race: Race) -> Standing:
    return standing(race.entries, race.facts["student"], rivals=lambda e: e.fields["way"] in EAGER)


def _is_mixed(race: Race) -> bool:
    return bool(race.facts["student"] != race.facts["teacher"])
