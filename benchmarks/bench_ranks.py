"""Training of all 16 cells behind EfficientNet-B7 on two gloo ranks with a thread each, by both placements, against one process."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench_train import MODEL, SPACE
from benchmarks.races.ranks import WAYS
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

TIERS = {
    "quick": {"batch": 8, "bn_group": 4, "steps": 2, "turns": 1},
    "full": {"batch": 16, "bn_group": 8, "steps": 6, "turns": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_ranks(way: str, races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    facts: dict[str, Any] = {"model": MODEL, "space": SPACE, **TIERS[tier_of(pytestconfig)]}
    answer = races.run("ranks", facts, timeout_s=7200)
    (entry,) = [e for e in answer["entries"] if e["way"] == way]
    report("training on ranks", facts, entry)
