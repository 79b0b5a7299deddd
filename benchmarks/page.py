"""docs/benchmarks.md, generated from the committed results: `make bench-page`, or `python -m benchmarks.page`.

To add a benchmark: benchmarks/bench_<what>.py, a section in benchmarks/sections/<what>.py, its row in SECTIONS below, and what it is
held against in benchmarks/targets.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from benchmarks import predict_training, quality
from benchmarks.layout import Section, table
from benchmarks.results import Result, latest
from benchmarks.sections import depthwise, feature_mse, loader, mbconv, ranks, rate, search, teacher, train
from benchmarks.targets import TARGETS
from benchmarks.worker import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"

# In the page's order; the name is that of the result files.
SECTIONS: dict[str, Callable[[Result], Section]] = {
    "search": search.section,
    "mbconv": mbconv.section,
    "feature_mse": feature_mse.section,
    "depthwise": depthwise.section,
    "rate": rate.section,
    "teacher": teacher.section,
    "train": train.section,
    "ranks": ranks.section,
    "loader": loader.section,
}

INTRODUCTION = """\
# Benchmarks

Generated from `benchmarks/results/` by `make bench-page`; figures are not typed. Measured by `make bench` (a choice of cases, minutes) or
`make bench BENCH_ARGS=--full` (all, hours; `--resume` continues an interrupted session), kept by `make bench-save`.
Every answer is checked against float64 or an exact method before it is timed. Opponents run in the same process as we do, layers and
losses in turns with us; caches are warm; ratios above 1 are in our favour. Times of different results are not compared."""


def render(results: Sequence[Result]) -> str:
    """The page.

    Raises:
        ValueError: a result that no section is for.
    """
    by_name = {result.what: result for result in results}
    if unknown := by_name.keys() - SECTIONS.keys():
        raise ValueError(
            f"page: expected results of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}; add a section"
        )
    sections = {what: SECTIONS[what](by_name[what]) for what in SECTIONS if what in by_name}
    measured = {
        key: (figure, by_name[what].tier)
        for what, section in sections.items()
        for key, figure in section.measured.items()
    }
    parts = [INTRODUCTION, "\n".join(["## Targets", "", *_targets(measured)])]
    for what, section in sections.items():
        parts.append("\n".join([f"## {section.title}", "", _origin(by_name[what]), "", *section.lines]))
    parts.append("\n".join(["## Studies of found networks", "", *quality.lines()]))
    parts.append("\n".join(["## Training on many GPUs, calculated", "", *predict_training.lines()]))
    parts.append("\n".join(["## Machines and versions", "", *_machines([by_name[what] for what in sections])]))
    return "\n\n".join(parts) + "\n"


def _targets(measured: dict[str, tuple[float, str]]) -> list[str]:
    rows, area = [], ""
    for target in TARGETS:
        if target.area != area:
            area = target.area
            rows.append([f"**{area}**", "", "", ""])
        figure, tier = measured.get(target.key, (None, "full"))
        rows.append(
            [
                target.meaning,
                target.goal,
                "–" if figure is None else target.figure(figure),
                target.verdict(figure) + (" (quick tier: a choice of cases)" if tier == "quick" else ""),
            ]
        )
    if unknown := measured.keys() - {target.key for target in TARGETS}:
        raise ValueError(f"page: expected keys of benchmarks/targets.py, got {', '.join(sorted(unknown))}")
    return table(("figure", "target", "measured", "verdict"), rows, text_columns=4)


def _origin(result: Result) -> str:
    modified = ", with uncommitted changes" if result.modified else ""
    contestants = sum(len(race.entries) for race in result.races)
    return (
        f"[{result.file_name}](../benchmarks/results/{result.file_name}): {len(result.races)} races, {contestants} contestants, "
        f"{result.tier} tier, {result.date}, revision {result.revision[:10]}{modified}."
    )


def _machines(results: Sequence[Result]) -> list[str]:
    """One list per machine and set of versions."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for result in results:
        groups.setdefault(tuple(result.machine.items()), []).append(result.what)
    lines: list[str] = []
    for facts, names in groups.items():
        lines += [f"{', '.join(names)}:", "", *(f"- {name}: {_plain(value)}" for name, value in facts), ""]
    return lines[:-1]


def _plain(value: str) -> str:
    """Without what Markdown would take for emphasis or a link."""
    return re.sub(r"([*_\[\]<>])", r"\\\1", value)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(list(latest())), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
