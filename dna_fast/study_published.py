"""The one public set of trained networks of this kind, with its published ratings: 23 architectures, as a study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dna_fast._files import read_json
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.space import Choice, Frame, MBConvSpec
from dna_fast.study import Models
from dna_fast.study_scores import entropy

FILE = Path(__file__).with_suffix(".json")

REMARK = (
    "params and macs are counted here, from the architectures, in the frame of this package (stem, head of 1280 channels, "
    "squeeze-excite of a quarter of a layer's input width). params rank the same without squeeze-excite, stem or head (tau "
    "0.708); with a squeeze-excite of a quarter of the expanded width they rank with tau 0.700"
)


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = read_json(FILE)
    return facts


def published_architectures() -> list[Architecture]:
    """The 23 networks, with every layer; mid and squeeze-excite follow each layer's own input width."""
    choices = [Choice(**choice) for choice in _facts()["operators"]]
    paths = [record["path"] for record in _facts()["architectures"]]
    return [_architecture(number, path, choices) for number, path in enumerate(paths, start=1)]


def _architecture(number: int, path: Sequence[Sequence[int]], choices: Sequence[Choice]) -> Architecture:
    frame = Frame()
    width, blocks = frame.stem_width, []
    for out_channels, stride, operators in zip(_facts()["widths"], _facts()["strides"], path, strict=True):
        layers = []
        for position, operator in enumerate(operators):
            layers.append(
                MBConvSpec(
                    in_channels=width,
                    mid_channels=width * choices[operator].expand_ratio,
                    out_channels=out_channels,
                    kernel=choices[operator].kernel,
                    stride=stride if position == 0 else 1,
                    se_channels=round(width * frame.se_ratio),
                )
            )
            width = out_channels
        blocks.append(tuple(layers))
    return Architecture(f"published {number}", frame, tuple(blocks))


def published_ratings() -> list[float]:
    """The published rating of each network: its blocks' ratings added; lower is better."""
    facts = _facts()
    return [
        sum(block["".join(map(str, path))] for block, path in zip(facts["ratings"], record["path"], strict=True))
        for record in facts["architectures"]
    ]


def published_models() -> Models:
    """The study of the published rating beside macs, params and entropy."""
    architectures = published_architectures()
    costs = [architecture_cost(arch) for arch in architectures]
    macs = np.array([cost["macs"] for cost in costs], dtype=np.float64)
    return Models(
        title="23 networks trained on ImageNet by others",
        names=[arch.name for arch in architectures],
        truth_name="top1",
        truth=np.array([record["top1"] for record in _facts()["architectures"]], dtype=np.float64),
        scores={
            "rating": np.array(published_ratings(), dtype=np.float64),
            "macs": macs,
            "params": np.array([cost["params"] for cost in costs], dtype=np.float64),
            "entropy": np.array([entropy(arch) for arch in architectures], dtype=np.float64),
        },
        cost_name="macs",
        cost=macs,
        lower_is_better=frozenset({"rating"}),
        remarks=(str(_facts()["source"]), REMARK),
    )
