"""The teacher's forward pass, EfficientNet-B7 and B0 at 224 pixels, random weights: fused layers against plain PyTorch.

Quick: B7 without torch.compile, which takes minutes to compile it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

MODELS = {"b0": "tf_efficientnet_b0", "b7": "tf_efficientnet_b7"}
BATCH, SIZE = 8, 224
DTYPES = ["float32", "bfloat16"]
PACES = {"quick": Pace(turns=3, turn_s=0.5), "full": Pace(turns=5, turn_s=2.0)}


def ways(model: str, tier: str) -> list[str]:
    """Contestants of one model."""
    plain = ["ours", "eager", "eager-cast", "autocast"]
    return [*plain, "compile"] if tier == "full" or model == "b0" else plain


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from benchmarks.races.teacher import fields_of

    tests = [
        (model, fields | {"allocator": allocator})
        for model in MODELS
        for allocator in ("default", "tuned")
        for fields in fields_of(ways(model, tier_of(metafunc.config)), DTYPES)
    ]
    ids = ["-".join((model, *fields.values())) for model, fields in tests]
    metafunc.parametrize(("model", "fields"), tests, ids=ids)


def test_forward(model: str, fields: dict[str, str], races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    tier = tier_of(pytestconfig)
    work: dict[str, Any] = {"model": MODELS[model], "batch": BATCH, "size": SIZE, "threads": threads()}
    answer = races.run(
        "teacher",
        work | {"dtypes": DTYPES, "ways": ways(model, tier), "pace": asdict(PACES[tier])},
        timeout_s=7200,
    )
    (entry,) = [e for e in answer["entries"] if fields.items() <= e.items()]
    report(f"teacher {MODELS[model]} @{SIZE}, N = {BATCH}", work, entry)
