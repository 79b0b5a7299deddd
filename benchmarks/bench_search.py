"""Exact search on the 16-cell space (1.96e17 architectures) from raw arrays of 23,046 candidates, and on spaces up to 1e100.

Every answer is checked first. Opponents: HiGHS and CP-SAT on the raw problem and behind a dominance filter (whose time is not counted
against them), CP-SAT solving again and again with cuts for the best 100, front merging in numpy. One race per question, in a process
of its own; those of `huge` and of the sizes run once per contestant, each in a process of its own, for their memory.

Quick: without the contestants that need minutes. CP-SAT needs OR-tools; without it, its cases are skipped.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict

import pytest

from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

# question -> its name on the page, the contestants of both tiers, those of the full one alone
QUESTIONS = {
    "one": ("optimum, one budget", ["dna_fast", "highs_filtered", "cp_sat_raw", "cp_sat_filtered"], ["highs_raw"]),
    "three": ("optimum, three budgets", ["dna_fast", "highs_filtered", "cp_sat_raw", "cp_sat_filtered"], ["highs_raw"]),
    "coupled": ("optimum, three budgets, costs by the width before", ["dna_fast", "cp_sat_raw"], ["highs_raw"]),
    "top_100": ("top 100, one budget", ["dna_fast"], ["cp_sat_cuts"]),
    "front": ("complete front, one cost", ["dna_fast", "numpy_raw", "numpy_filtered"], []),
}
PACES = {"quick": Pace(turns=3, turn_s=0.5), "full": Pace(turns=5, turn_s=2.0)}
# Ours gets a second where the others get a minute.
HUGE_LIMITS_S = {"dna_fast": 1.0, "highs": 60.0, "cp_sat": 60.0}
SIZES = {  # exponent of the number of architectures -> (blocks, candidates per block)
    5: (5, 10),
    10: (5, 100),
    17: (6, 681),
    25: (8, 1334),
    40: (12, 2155),
    60: (17, 3384),
    80: (22, 4330),
    100: (27, 5054),
}
SIZE_LIMIT_S = {"quick": 10.0, "full": 60.0}


def contestants(question: str, tier: str) -> list[str]:
    """Who answers a question."""
    _, always, in_full = QUESTIONS[question]
    return always + (in_full if tier == "full" else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "question" in metafunc.fixturenames:
        tier = tier_of(metafunc.config)
        pairs = [(question, way) for question in QUESTIONS for way in contestants(question, tier)]
        metafunc.parametrize(("question", "way"), pairs, ids=["-".join(pair) for pair in pairs])


def test_question(question: str, way: str, races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    skip_without_ortools(way)
    tier = tier_of(pytestconfig)
    ways = [w for w in contestants(question, tier) if "cp_sat" not in w or has_ortools()]
    answer = races.run("search", {"question": question, "ways": ways, "pace": asdict(PACES[tier])}, timeout_s=7200)
    (entry,) = [e for e in answer["entries"] if e["opponent"] == way]
    facts = {"points": entry.pop("points")} if "points" in entry else {}
    report(QUESTIONS[question][0], facts, entry)


@pytest.mark.parametrize("way", ["dna_fast", "highs", "cp_sat"])
def test_huge(way: str, races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    skip_without_ortools(way)
    answer = races.run("search", {"question": "huge", "way": way, "limit_s": HUGE_LIMITS_S[way]})
    report("1e100 architectures, two budgets", {}, answer["entries"][0])


@pytest.mark.parametrize("way", ["dna_fast", "highs", "cp_sat"])
@pytest.mark.parametrize("exponent", SIZES)
def test_size(exponent: int, way: str, races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    skip_without_ortools(way)
    tier = tier_of(pytestconfig)
    if tier == "quick" and way != "dna_fast" and exponent > 25:
        pytest.skip("takes up to a minute; run with --full")
    blocks, candidates = SIZES[exponent]
    request = {"question": "size", "blocks": blocks, "candidates": candidates, "way": way}
    answer = races.run("search", request | {"limit_s": SIZE_LIMIT_S[tier]})
    report(f"size 1e{exponent}", {"exponent": exponent, "limit_s": SIZE_LIMIT_S[tier]}, answer["entries"][0])


def skip_without_ortools(way: str) -> None:
    if "cp_sat" in way and not has_ortools():
        pytest.skip("needs OR-tools; pip install ortools")


def has_ortools() -> bool:
    return importlib.util.find_spec("ortools") is not None
