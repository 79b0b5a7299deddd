"""The fused MBConv layer against plain PyTorch: throughput of all layers of the 16-cell space, latency of one image, threads.

Quick: eight layers x two operators, the whole batch at once. Full: all layers x six operators, opponents also in pieces; with the
allocator as it comes only the quick tier's, because what it costs is the allocator's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from benchmarks.machine import threads
from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races
from dna_fast.space import Choice, Layer, MBConvSpec, preset

BATCH = 32
DTYPES = ("float32", "bfloat16")
WAYS = ("ours", "eager-nchw", "eager", "eager-cast", "autocast", "compile")
PIECES = (4, 8)  # images per call
# Expanded tensors below this stay in the last-level cache anyway, and pieces only add calls.
WORTH_SPLITTING_BYTES = 16 << 20
PACES = {"quick": Pace(turns=3, turn_s=0.1), "full": Pace(turns=4, turn_s=0.1)}
# By number among the distinct layers: both strides, every size, widths that are and are not multiples of 16.
QUICK_LAYERS = (0, 1, 4, 5, 7, 9, 12, 13)
QUICK_CHOICES = ("e6k3", "e3k7")
ONE_IMAGE_CHOICES = (
    "e6k3",
)  # latency and threads: this operator of the quick layers, or of one of them in the quick tier
ONE_IMAGE_QUICK = (5,)


@dataclass(frozen=True)
class Case:
    """One race."""

    spec: MBConvSpec
    size: int
    operator: str
    batch: int
    threads: int
    allocators: tuple[str, ...]
    pieces: tuple[int, ...]

    @property
    def name(self) -> str:
        s = self.spec
        shape = f"{s.in_channels}->{s.out_channels} s{s.stride} @{self.size} {self.operator}"
        return f"mbconv {shape}, N = {self.batch}, {self.threads} threads"

    @property
    def id(self) -> str:
        """For names of tests, and to choose by with -k."""
        s = self.spec
        shape = f"{s.in_channels}-{s.out_channels}-s{s.stride}-{self.size}-{self.operator}"
        return f"{shape}-n{self.batch}-t{self.threads}"

    @property
    def facts(self) -> dict[str, Any]:
        kept = {"size": self.size, "operator": self.operator, "batch": self.batch, "threads": self.threads}
        return {"layer": asdict(self.spec)} | kept

    def request(self, pace: Pace) -> dict[str, Any]:
        """For benchmarks.races.mbconv."""
        return {
            "layer": asdict(self.spec),
            "size": self.size,
            "batch": self.batch,
            "dtypes": list(DTYPES),
            "ways": list(WAYS),
            "pieces": list(self.pieces),
            "allocators": list(self.allocators),
            "threads": self.threads,
            "pace": asdict(pace),
        }


def distinct_layers() -> list[Layer]:
    """Of the 16-cell space at nominal widths, in its order."""
    space = preset("dna")
    blocks = enumerate(space.blocks)
    return list(
        dict.fromkeys(layer for b, block in blocks for c in range(len(block.cells)) for layer in space.layers(b, c))
    )


def cases(tier: str) -> list[Case]:
    """All races of a tier."""
    space, layers, all_threads = preset("dna"), distinct_layers(), threads()
    both, chosen = ("default", "tuned"), range(len(layers)) if tier == "full" else QUICK_LAYERS

    def case(layer: Layer, choice: Choice, batch: int, threads: int, allocators: tuple[str, ...]) -> Case:
        spec = layer.mbconv(choice, space.frame.se_ratio)
        expanded_bytes = 4 * batch * spec.mid_channels * layer.in_size**2
        pieces = PIECES if tier == "full" and batch > 1 and expanded_bytes > WORTH_SPLITTING_BYTES else ()
        return Case(spec, layer.in_size, choice.name, batch, threads, allocators, pieces)

    throughput = [
        case(
            layers[number],
            choice,
            BATCH,
            all_threads,
            both if number in QUICK_LAYERS and choice.name in QUICK_CHOICES else ("tuned",),
        )
        for number in chosen
        for choice in space.choices
        if tier == "full" or choice.name in QUICK_CHOICES
    ]
    # One image, and one thread: with the tuned allocator only, which does all of them good.
    scaling = [
        case(layers[number], choice, batch, count, ("tuned",))
        for number in (QUICK_LAYERS if tier == "full" else ONE_IMAGE_QUICK)
        for choice in space.choices
        if choice.name in ONE_IMAGE_CHOICES
        for batch, count in sorted({(1, 1), (1, all_threads), (BATCH, 1)} - {(BATCH, all_threads)})
    ]
    return throughput + scaling


def entrants(case: Case) -> list[dict[str, Any]]:
    """Fields of a race's contestants, as benchmarks.races.mbconv names them."""
    import torch

    from benchmarks.races.mbconv import fields_of

    return [
        {**fields, "allocator": allocator}
        for allocator in case.allocators
        for dtype in DTYPES
        for fields in fields_of(WAYS, case.pieces, case.batch, getattr(torch, dtype))
        if fields["pieces"] == 0 or allocator == "tuned"
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tests = [(case, fields) for case in cases(tier_of(metafunc.config)) for fields in entrants(case)]
    ids = [
        "-".join((case.id, fields["way"], fields["dtype"], fields["allocator"], str(fields["pieces"] or "whole")))
        for case, fields in tests
    ]
    metafunc.parametrize(("case", "fields"), tests, ids=ids)


def test_layer(case: Case, fields: dict[str, Any], races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    answer = races.run("mbconv", case.request(PACES[tier_of(pytestconfig)]))
    (entry,) = [e for e in answer["entries"] if fields.items() <= e.items()]
    report(case.name, case.facts | answer["facts"], entry)
