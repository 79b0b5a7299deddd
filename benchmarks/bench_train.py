"""A training step of all 16 cells with EfficientNet-B7 at 224 pixels, random weights: ours against the released recipe.

The released recipe trains one cell at a time, each behind its own teacher pass up to its block's end: its time for all cells is the sum of
16 times, each measured by itself, and the section adds them up. Quick: boundary wide, as released, in float32. Full: a larger batch,
bfloat16 as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races
from dna_fast.space import preset

MODEL, SPACE = "tf_efficientnet_b7", "dna"


@dataclass(frozen=True)
class Tier:
    """How much is measured."""

    batch: int
    cases: tuple[tuple[str, tuple[str, ...]], ...]  # boundary, and the dtypes it is raced in
    pace: Pace


TIERS = {
    "quick": Tier(4, (("wide", ("float32",)),), Pace(turns=1, turn_s=0.0)),
    "full": Tier(16, (("wide", ("float32", "bfloat16")),), Pace(turns=2, turn_s=0.0)),
}


def contestants(tier: Tier) -> list[tuple[str, str, str, str]]:
    """(boundary, way, dtype, cell) of all."""
    from benchmarks.races.train import PARTS

    cells = [f"{b}.{c}" for b, block in enumerate(preset(SPACE).blocks) for c in range(len(block.cells))]
    found = []
    for boundary, dtypes in tier.cases:
        found += [(boundary, "released", "float32", cell) for cell in cells]
        for dtype in dtypes:
            found += [(boundary, "tuned", dtype, cell) for cell in cells]
            found += [(boundary, part, dtype, "all") for part in PARTS]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = contestants(TIERS[tier_of(metafunc.config)])
    metafunc.parametrize(("boundary", "way", "dtype", "cell"), found, ids=["-".join(fields) for fields in found])


def test_step(
    boundary: str, way: str, dtype: str, cell: str, races: Races, report: Report, pytestconfig: pytest.Config
) -> None:
    tier = TIERS[tier_of(pytestconfig)]
    facts: dict[str, Any] = {"model": MODEL, "space": SPACE, "boundary": boundary, "batch": tier.batch}
    facts["threads"] = threads()
    allocator = "default" if way == "released" else "tuned"  # each in a process of its own
    request = facts | {"allocator": allocator, "dtypes": list(dict(tier.cases)[boundary]), "pace": asdict(tier.pace)}
    answer = races.run("train", request, timeout_s=7200)
    (entry,) = [e for e in answer["entries"] if (e["way"], e["dtype"], e["cell"]) == (way, dtype, cell)]
    report(f"training step, boundary {boundary}, N = {tier.batch}", facts | answer["facts"], entry)
