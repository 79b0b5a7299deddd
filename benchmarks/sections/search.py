"""Exact search, from bench_search.py's result."""

from __future__ import annotations

from benchmarks.layout import Section, ms, table, times
from benchmarks.results import Entry, Race, Result

LABELS = {
    "dna_fast": "dna_fast",
    "highs_raw": "HiGHS",
    "highs_filtered": "HiGHS behind a dominance filter",
    "cp_sat_raw": "CP-SAT",
    "cp_sat_filtered": "CP-SAT behind a dominance filter",
    "cp_sat_cuts": "CP-SAT, again and again with cuts",
    "numpy_raw": "numpy",
    "numpy_filtered": "numpy behind a dominance filter",
    "highs": "HiGHS",
    "cp_sat": "CP-SAT",
}
TARGETS = {  # race -> target that our time decides; of two races with one target the later
    "optimum, one budget": "search.one_budget_ms",
    "optimum, three budgets": "search.three_budgets_ms",
    "optimum, three budgets, costs by the width before": "search.three_budgets_ms",
    "complete front, one cost": "search.front_ms",
    "top 100, one budget": "search.top_100_ms",
}
CLOSED = 1e-8  # what the opponents' whole or scaled numbers leave of a closed gap
HUGE = "1e100 architectures, two budgets"


def section(result: Result) -> Section:
    """One row per question, every opponent beside us; then the spaces that are searched once, for what is proven of them."""
    rows: list[list[str]] = []
    measured: dict[str, float] = {}
    timed = [race for race in result.races if race.name != HUGE and "exponent" not in race.facts]
    for race in timed:
        rows += _rows(race, measured)
    lines = [
        "The 16-cell space, 1.96e17 architectures, from raw arrays of 23,046 candidates. Each answer is checked first. A filter's",
        "time counts against numpy on the raw arrays, but not against whoever starts behind the filter.",
        "",
        *table(("question", "dna_fast, ms", "opponent", "ms", "ratio"), rows),
    ]
    once = [race for race in result.races if race not in timed]
    if once:
        lines += ["", "Searched once, cold, with a time limit; memory is what the search added to the process.", ""]
        head = ("architectures", "who", "s", "loss", "proven gap", "memory, MB")
        lines += table(head, [row for race in once for row in _once_rows(race)])
    if any("exponent" in race.facts for race in once):
        lines += ["", "![time and memory against the number of architectures](images/search_sizes.png)"]
    for race in once:
        if race.name == HUGE:
            measured["search.huge_gap"] = _ours(race).fields["gap"] * 100
    return Section("Exact search", lines, measured)


def _rows(race: Race, measured: dict[str, float]) -> list[list[str]]:
    ours, rows = _ours(race), []
    if race.name in TARGETS:
        measured[TARGETS[race.name]] = ours.median_s * 1e3
    rivals: list[Entry | None] = [entry for entry in race.entries if entry is not ours]
    for number, rival in enumerate(rivals or [None]):
        if rival is not None and rival.fields["opponent"] == "cp_sat_raw" and race.name == "optimum, one budget":
            measured["search.one_budget_ratio"] = rival.median_s / ours.median_s
        rows.append(
            [
                race.name if number == 0 else "",
                ms(ours.median_s) if number == 0 else "",
                LABELS[rival.fields["opponent"]] if rival else "none",
                ms(rival.median_s if rival else None),
                times(rival.median_s / ours.median_s if rival else None),
            ]
        )
    return rows


def _once_rows(race: Race) -> list[list[str]]:
    return [
        [
            race.name if number == 0 else "",
            LABELS[entry.fields["opponent"]],
            f"{entry.median_s:.3f}",
            f"{entry.fields['loss']:.6f}",
            "none" if entry.fields["gap"] <= CLOSED else f"{entry.fields['gap']:.3%}",
            f"{entry.fields['peak_bytes'] / 1e6:,.0f}",
        ]
        for number, entry in enumerate(race.entries)
    ]


def _ours(race: Race) -> Entry:
    (entry,) = [e for e in race.entries if e.fields.get("opponent", "dna_fast") == "dna_fast"]
    return entry
