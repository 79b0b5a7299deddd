"""Exact search, from bench_search.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, ms, table, times
from benchmarks.results import Entry, Race, Result

LABELS = {
    "dna_fast": "dna_fast",
    "highs_raw": "HiGHS",
    "highs_filtered": "HiGHS behind a dominance filter",
    "numpy_raw": "numpy",
    "numpy_filtered": "numpy behind a dominance filter",
}
TARGETS = {  # race -> target that our time decides
    "optimum, one budget": "search.one_budget_ms",
    "optimum, three budgets": "search.three_budgets_ms",
    "complete front, one cost": "search.front_ms",
    "top 100, one budget": "search.top_100_ms",
}


def section(result: Result) -> Section:
    """One row per question, every opponent beside us."""
    rows, measured = [], {}
    for race in result.races:
        ours = _ours(race)
        if race.name in TARGETS:
            measured[TARGETS[race.name]] = ours.median_s * 1e3
        rivals: list[Entry | None] = [entry for entry in race.entries if entry is not ours]
        for number, rival in enumerate(rivals or [None]):
            rows.append(
                [
                    race.name if number == 0 else "",
                    ms(ours.median_s) if number == 0 else "",
                    LABELS[rival.fields["opponent"]] if rival else "none",
                    ms(rival.median_s if rival else None),
                    times(rival.median_s / ours.median_s if rival else None),
                ]
            )
    lines = [
        "The 16-cell space, 1.96e17 architectures, from raw arrays of 23,046 candidates. Each answer is checked first. A filter's",
        "time counts against numpy on the raw arrays, but not against whoever starts behind the filter.",
        "",
        *table(("question", "dna_fast, ms", "opponent", "ms", "ratio"), rows),
    ]
    return Section("Exact search", lines, measured)


def _ours(race: Race) -> Entry:
    (entry,) = [e for e in race.entries if e.fields.get("opponent", "dna_fast") == "dna_fast"]
    return entry
