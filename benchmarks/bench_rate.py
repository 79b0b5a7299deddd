"""Rating the cells 3x112 and 4x112 of the block at 14 pixels: the trie against mode official; and the trie's peak memory.

The times are seconds per path. Official rates a sample of the paths, drawn at random, in the quick tier, all of them in the full one;
ours rates the whole cell in both. With 32 calibration images both see the same and must agree; 512 are for ours alone,
as official takes one batch whatever there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

WORK: dict[str, Any] = {"batch": 32, "rated_batches": 4}
# Bytes, by calibration images; the least is a few times what one path needs.
MEMORY_LIMITS = {32: (None, 256 << 20, 128 << 20), 512: (None, 1 << 30, 512 << 20)}


@dataclass(frozen=True)
class Case:
    """One cell with so many calibration images."""

    depth: int
    width: int
    calibration: int
    sample: int  # paths that official rates; 0: all
    rounds: int

    @property
    def work(self) -> dict[str, Any]:
        cell = {"depth": self.depth, "width": self.width, "calibration": self.calibration, "threads": threads()}
        return cell | WORK

    @property
    def name(self) -> str:
        return f"rating {self.depth}x{self.width} @14, {self.calibration} calibration images"


def cases(tier: str) -> list[Case]:
    """Of the speed races."""
    if tier == "quick":
        return [Case(3, 112, 32, 12, 2), Case(4, 112, 32, 6, 1)]
    return [Case(depth, 112, images, sample, 3) for depth in (3, 4) for images, sample in ((32, 0), (512, 36))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tier = tier_of(metafunc.config)
    if "way" in metafunc.fixturenames:
        tests: list[tuple[Any, ...]] = [(case, way) for case in cases(tier) for way in ("ours", "official")]
        ids = [f"{case.depth}x{case.width}-{case.calibration}-{way}" for case, way in tests]
        metafunc.parametrize(("case", "way"), tests, ids=ids)
    else:
        held = cases(tier)[:1] if tier == "quick" else cases(tier)
        tests = [(case, limit) for case in held for limit in MEMORY_LIMITS[case.calibration]]
        ids = [f"{case.depth}x{case.width}-{case.calibration}-{limit or 'unlimited'}" for case, limit in tests]
        metafunc.parametrize(("case", "max_bytes"), tests, ids=ids)


def test_speed(case: Case, way: str, races: Races, report: Report) -> None:
    request = case.work | {"kind": "speed", "sample": case.sample, "rounds": case.rounds}
    answer = races.run("rate", request, timeout_s=6 * 3600)
    (entry,) = [e for e in answer["entries"] if e["way"] == way]
    report(f"{case.name}, seconds per path", case.work | answer["facts"], entry)


def test_peak_memory(case: Case, max_bytes: int | None, races: Races, report: Report) -> None:
    answer = races.run("rate", case.work | {"kind": "memory", "max_bytes": max_bytes}, timeout_s=3600)
    (entry,) = answer["entries"]
    report(f"{case.name}, peak memory", case.work, entry)
