"""A depthwise convolution and both of its gradients against torch's: every depthwise layer that the 16-cell space trains.

Quick: seven layers at a small batch. Full: all layers, a training step's batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.race import Pace
from benchmarks.races.depthwise import PASSES, WAYS
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races
from dna_fast.space import preset

BATCHES = {"quick": 4, "full": 16}
DTYPES = ("float32", "bfloat16")
PACES = {"quick": Pace(turns=3, turn_s=0.02), "full": Pace(turns=5, turn_s=0.1)}


@dataclass(frozen=True)
class Depthwise:
    """One convolution of images of `size` pixels a side, padded by half its kernel."""

    channels: int
    size: int
    kernel: int
    stride: int

    @property
    def id(self) -> str:
        return f"c{self.channels}-{self.size}-k{self.kernel}-s{self.stride}"


# Both strides, every kernel and size: what a training step spends most of its time on, and the smallest.
QUICK = (
    Depthwise(96, 112, 3, 2),
    Depthwise(192, 56, 3, 1),
    Depthwise(192, 56, 7, 1),
    Depthwise(144, 56, 5, 2),
    Depthwise(240, 28, 5, 1),
    Depthwise(672, 14, 5, 1),
    Depthwise(1152, 7, 7, 1),
)


def distinct_layers() -> list[Depthwise]:
    """Of all operators of the 16-cell space at nominal widths, the largest images first."""
    space = preset("dna")
    found = {
        Depthwise(spec.mid_channels, layer.in_size, spec.kernel, spec.stride)
        for b, block in enumerate(space.blocks)
        for c in range(len(block.cells))
        for layer in space.layers(b, c)
        for spec in (space.mbconv(layer, choice) for choice in range(len(space.choices)))
    }
    return sorted(found, key=lambda d: (-d.size, d.stride, d.channels, d.kernel))


def layers(tier: str) -> list[Depthwise]:
    return [layer for layer in distinct_layers() if tier == "full" or layer in QUICK]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tests = [
        (layer, dtype, wanted, way, allocator)
        for layer in layers(tier_of(metafunc.config))
        for dtype in DTYPES
        for wanted in PASSES
        for way in WAYS
        for allocator in ("default", "tuned")
    ]
    ids = [f"{layer.id}-{'-'.join(rest)}" for layer, *rest in tests]
    metafunc.parametrize(("layer", "dtype", "wanted", "way", "allocator"), tests, ids=ids)


def test_pass(
    layer: Depthwise,
    dtype: str,
    wanted: str,
    way: str,
    allocator: str,
    races: Races,
    report: Report,
    pytestconfig: pytest.Config,
) -> None:
    tier = tier_of(pytestconfig)
    work: dict[str, Any] = {"layer": asdict(layer), "batch": BATCHES[tier], "threads": threads()}
    asked = {"dtypes": list(DTYPES), "passes": list(PASSES), "ways": list(WAYS), "pace": asdict(PACES[tier])}
    answer = races.run("depthwise", work | asked)
    fields = {"way": way, "dtype": dtype, "pass": wanted, "allocator": allocator}
    (entry,) = [e for e in answer["entries"] if fields.items() <= e.items()]
    name = f"depthwise c{layer.channels} @{layer.size} k{layer.kernel} s{layer.stride}, N = {BATCHES[tier]}"
    report(name, work | answer["facts"], entry)
