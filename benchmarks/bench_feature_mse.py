"""feature_mse, forward and backward, against eager torch and torch.compile: the loss of one training step of one cell.

Tensors are larger than the last-level cache where training's are; whatever the previous call left in it is warm for all.
Quick: without torch.compile.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

# [N, C, H, W] of features at block borders, EfficientNet-B7 at 224, batch 64: the largest and the smallest; and the demo's.
SHAPES = {"b7-block0": (64, 48, 56, 56), "b7-block5": (64, 640, 7, 7), "digits": (64, 24, 7, 7)}
DTYPES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"))  # student, teacher
WAYS = {"quick": ("ours", "eager", "eager-float"), "full": ("ours", "eager", "eager-float", "compile")}
PACES = {"quick": Pace(turns=3, turn_s=0.2), "full": Pace(turns=7, turn_s=0.3)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from benchmarks.races.feature_mse import exists

    tests = [
        (shape, dtypes, way, allocator)
        for shape in SHAPES
        for dtypes in DTYPES
        for allocator in ("default", "tuned")
        for way in WAYS[tier_of(metafunc.config)]
        if exists(way, *dtypes)
    ]
    ids = [f"{shape}-{'-'.join(dtypes)}-{way}-{allocator}" for shape, dtypes, way, allocator in tests]
    metafunc.parametrize(("shape", "dtypes", "way", "allocator"), tests, ids=ids)


def test_loss_and_gradient(
    shape: str,
    dtypes: tuple[str, str],
    way: str,
    allocator: str,
    races: Races,
    report: Report,
    pytestconfig: pytest.Config,
) -> None:
    tier = tier_of(pytestconfig)
    work: dict[str, Any] = {
        "shape": list(SHAPES[shape]),
        "student": dtypes[0],
        "teacher": dtypes[1],
        "threads": threads(),
    }
    answer = races.run("feature_mse", work | {"ways": list(WAYS[tier]), "pace": asdict(PACES[tier])})
    (entry,) = [e for e in answer["entries"] if (e["way"], e["allocator"]) == (way, allocator)]
    report(f"feature_mse {shape}, student {dtypes[0]}, teacher {dtypes[1]}", work | answer["facts"], entry)
