"""A report: one page of HTML about a run, or about several side by side, that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dna_fast import __version__
from dna_fast import report_charts as charts
from dna_fast._files import written_aside
from dna_fast.report import in_units
from dna_fast.report_facts import RunFacts, read_run
from dna_fast.report_html import Html, element, joined, paragraph, table
from dna_fast.report_measured import measured_sections
from dna_fast.report_origin import configuration_section, differing, provenance_section
from dna_fast.report_search import asked_words, cloud, ratings_section, search_section
from dna_fast.report_sections import (
    UNKNOWN,
    architecture_section,
    headline,
    losses_section,
    percent,
    result_section,
    teacher_section,
)
from dna_fast.report_style import style_sheet

Section = tuple[str, str, Callable[[RunFacts, str], Html]]

SECTIONS: tuple[Section, ...] = (
    ("result", "Result", result_section),
    ("architecture", "Architecture", lambda facts, name: architecture_section(facts)),
    ("search", "Search", search_section),
    ("ratings", "Ratings by block", ratings_section),
    ("teacher", "Teacher", lambda facts, name: teacher_section(facts)),
    ("losses", "Training", losses_section),
    ("configuration", "Configuration", lambda facts, name: configuration_section(facts)),
    ("provenance", "Provenance", lambda facts, name: provenance_section(facts)),
)


def write_report(directories: Sequence[str | Path], path: str | Path) -> None:
    """Writes the report of one run or of several, atomically; equal runs give equal bytes.

    Args:
        directories: of the runs; they are read, not changed.
        path: of the page.

    Raises:
        ValueError: no runs or the same one twice, a directory that holds none, a damaged file; the message names it.
        RuntimeError: matplotlib is missing.
    """
    page = report_page([read_run(directory) for directory in directories])
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def report_page(runs: Sequence[RunFacts]) -> str:
    """The page of runs that were read; arguments and errors as `write_report`."""
    places = [run.directory.resolve() for run in runs]
    if not runs or len(set(places)) < len(places):
        raise ValueError(
            f"report: expected one run directory or several different ones, got {[str(r.directory) for r in runs]}"
        )
    names = _names(runs)
    title = f"{names[0]}: dna_fast report" if len(runs) == 1 else f"{len(runs)} runs: dna_fast report"
    if len(runs) == 1:
        body = joined([element("h1", names[0]), _lead(runs[0]), _contents(runs, names), *_sections(runs[0], "")])
    else:
        compared = _comparison(runs, names)
        each = [
            joined([element("h1", name, id=f"run{i}"), _lead(run), *_sections(run, f"run{i}-")])
            for i, (run, name) in enumerate(zip(runs, names, strict=True))
        ]
        body = joined([element("h1", f"{len(runs)} runs compared"), _contents(runs, names), *compared, *each])
    footer = element("footer", f"Written by dna_fast {__version__}. This page needs no network and no script.")
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Html(style_sheet())),
        ]
    )
    document = element("html", element("head", head), element("body", element("main", body, footer)), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _names(runs: Sequence[RunFacts]) -> list[str]:
    """The directories' names; where two are alike, as many parents as tell them apart."""
    parts = [run.directory.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def _lead(run: RunFacts) -> Html:
    sentence = headline(run)
    figures = _figures(run)
    return joined([paragraph(sentence[:1].upper() + sentence[1:], class_="lead"), figures])


def _figures(run: RunFacts) -> Html:
    """The numbers that are looked for first."""
    entries: list[tuple[str, str, str]] = []
    found = run.found
    if found is not None and found.training is not None:
        score = found.training.score
        interval = f"95 %: {100 * score.low:.1f} to {100 * score.high:.1f}"
        entries.append(("top-1", f"{100 * score.top1:.1f} %", interval))
    if run.search is not None and run.search.solutions:
        best = run.search.solutions[0]
        entries += [(name, f"{best['costs'][name]:,}", "") for name in ("macs", "params") if name in best["costs"]]
        entries.append((f"sum of {run.search.metric}", f"{best['loss']:.4f}", run.search.status))
    entries.append(("seed", str(run.config.seed), ""))
    items = [
        element("div", element("dt", term), element("dd", value, element("small", more)))
        for term, value, more in entries
    ]
    return element("dl", *items, class_="figures")


def _contents(runs: Sequence[RunFacts], names: Sequence[str]) -> Html:
    def links(run: RunFacts, prefix: str) -> Html:
        entries = [element("li", element("a", title, href=f"#{prefix}{key}")) for key, title, _ in _sections_of(run)]
        return element("ul", *entries)

    if len(names) == 1:
        return element("nav", links(runs[0], ""), aria_label="contents")
    parts: list[object] = [element("ul", element("li", element("a", "Comparison", href="#comparison")))]
    for i, name in enumerate(names):
        parts += [element("strong", element("a", name, href=f"#run{i}")), links(runs[i], f"run{i}-")]
    return element("nav", *parts, aria_label="contents")


def _sections(run: RunFacts, prefix: str) -> list[Html]:
    return [
        joined([_heading(title, f"{prefix}{key}"), write(run, f"{prefix}{key}")])
        for key, title, write in _sections_of(run)
    ]


def _sections_of(run: RunFacts) -> list[Section]:
    """Those that every run has, and, before where it all came from, what was measured beside it."""
    return [*SECTIONS[:-2], *measured_sections(run), *SECTIONS[-2:]]


def _heading(title: str, anchor: str) -> Html:
    return element("h2", element("a", title, href=f"#{anchor}"), id=anchor)


# ---- several runs ----------------------------------------------------------------------------------------------------


def _comparison(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Html]:
    head = ("run", "macs", "params", "rating", "top-1, 95 % interval", "teacher macs", "budgets", "space", "seed")
    rows = [_compared(run, name) for run, name in zip(runs, names, strict=True)]
    parts = [_heading("Comparison", "comparison"), table(head, rows, label="runs")]
    scores = [
        (name, s.top1, s.low, s.high, charts.series(i))
        for i, (run, name) in enumerate(zip(runs, names, strict=True))
        if run.found is not None and run.found.training is not None and (s := run.found.training.score)
    ]
    if len(scores) > 1:
        caption = "The found network of every run. Wilson intervals: the sampling error of the evaluation images alone."
        parts.append(element("figure", charts.accuracies("compared-top1", scores), element("figcaption", caption)))
    parts += [_compared_fronts(runs, names), element("h3", "What differs in their configurations")]
    settings = differing({name: run.config for name, run in zip(names, runs, strict=True)})
    parts.append(
        table(("key", *names), settings, label="configurations")
        if settings
        else paragraph("Nothing: they are the same, but for budgets given on the command line.")
    )
    return parts


def _compared(run: RunFacts, name: str) -> tuple[str, ...]:
    best = run.search.solutions[0] if run.search is not None and run.search.solutions else None
    costs = {} if best is None else best["costs"]
    found = run.found
    return (
        name,
        *(f"{costs[n]:,}" if n in costs else UNKNOWN for n in ("macs", "params")),
        UNKNOWN if best is None else f"{best['loss']:.4f}",
        UNKNOWN if found is None or found.training is None else percent(found.training.score),
        UNKNOWN if run.teacher is None else in_units(run.teacher.macs),
        UNKNOWN if run.search is None else asked_words(run.search) or "none",
        run.costs.space.name,
        str(run.config.seed),
    )


def _compared_fronts(runs: Sequence[RunFacts], names: Sequence[str]) -> Html:
    """All fronts in one picture, where their axes mean the same."""
    rated = [(run, name, query) for run, name in zip(runs, names, strict=True) if (query := run.query())]
    if len(rated) < 2:
        return paragraph("Fronts are drawn here once two runs have ratings.", class_="note")
    kinds = {(run.costs.space.sha256, run.metric) for run, _, _ in rated}
    if len(kinds) > 1 or not all("macs" in run.costs.names for run, _, _ in rated):
        return paragraph("The runs differ in space or metric: their ratings cannot share a picture.", class_="note")
    marks: list[charts.Mark] = []
    drawn: dict[
        tuple[bytes, bytes], int
    ] = {}  # runs of the same ratings have the same front: it is drawn once, for all
    for i, (run, name, query) in enumerate(rated):
        front = query.front("macs")
        points = (front.costs["macs"].tobytes(), front.loss.tobytes())
        if points in drawn:
            same = marks[drawn[points]]
            marks[drawn[points]] = replace(same, label=f"{same.label}, {name}")
        else:
            drawn[points] = len(marks)
            marks.append(charts.Mark(f"front of {name}", front.costs["macs"], front.loss, charts.series(i), "-"))
        if run.search is not None and run.search.solutions:
            best = run.search.solutions[0]
            point = ([best["costs"]["macs"]], [best["loss"]])
            marks.append(charts.Mark(f"winner of {name}", *point, charts.series(i), "*"))
    scene = charts.Scene(cloud(rated[0][2]), marks, None, str(rated[0][0].metric))
    same_teacher = len({run.teacher.sha256 for run, _, _ in rated if run.teacher is not None}) <= 1
    caption = f"Exact Pareto fronts; dots: random architectures as rated by {rated[0][1]}."
    if not same_teacher:
        caption += " The teachers differ: compare shapes, not heights."
    key = charts.legend([(mark.label, mark.colour, mark.shape) for mark in marks])
    picture = charts.front("compared-fronts", "Pareto fronts of the runs", scene)
    return element("figure", picture, key, element("figcaption", caption))
