"""The teacher's forward pass, from bench_teacher.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, ms, table, times
from benchmarks.results import Entry, Race, Result
from benchmarks.summary import RIVAL_DTYPES, standing

TARGET_MODEL = "tf_efficientnet_b7"
RIVALS = {"eager": "eager channels-last", "compile": "torch.compile"}


def _is_compiled(entry: Entry) -> bool:
    return bool(entry.fields["way"] == "compile")


_COUNTED = {"eager": lambda entry: not _is_compiled(entry), "compile": _is_compiled}


def section(result: Result) -> Section:
    """A row per model, dtype and kind of opponent."""
    measured: dict[str, float] = {}
    rows = [row for race in result.races for row in _rows(race, measured)]
    lines = [
        "Images to the feature behind the last stage, random weights; milliseconds, medians. Eager is channels-last: float32, or the",
        "better of autocast, weights cast to bfloat16, and float32. Compiled with freezing, under autocast for bfloat16.",
        "*default* and *tuned* allocator as above; targets count *tuned* and the dtype in which we stand worse.",
        "",
        *table(
            ("model", "dtype", "ours default", "tuned", "opponent", "default", "tuned", "ratio: default", "tuned"), rows
        ),
    ]
    return Section("Teacher forward, CPU", lines, measured)


def _rows(race: Race, measured: dict[str, float]) -> list[list[str]]:
    rows = []
    for dtype in RIVAL_DTYPES:
        for kind, label in RIVALS.items():
            stand = standing(race.entries, dtype, rivals=_COUNTED[kind])
            if stand.ours_tuned is None or stand.tuned is None:
                continue
            ratio, key = stand.ratio_tuned, f"teacher.{kind}"
            if race.facts["model"] == TARGET_MODEL and ratio is not None:
                measured[key] = min(ratio, measured.get(key, ratio))
            found = (stand.ours_default, stand.ours_tuned, stand.default, stand.tuned)
            mine, mine_tuned, theirs, theirs_tuned = (ms(entry.median_s if entry else None) for entry in found)
            name = f"{race.facts['model']}, N = {race.facts['batch']}"
            rows.append(
                [name, dtype, mine, mine_tuned, label, theirs, theirs_tuned, times(stand.ratio_default), times(ratio)]
            )
    return rows
