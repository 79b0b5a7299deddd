"""Exact integer costs of layers, architectures and every candidate of a space, as docs/semantics.md defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dna_fast.architecture import Architecture
from dna_fast.space import Frame, Layer, MBConvSpec, SearchSpace
from dna_fast.tables import CostTable

COSTS = ("params", "macs", "macs_official", "activation_bytes")
REDUCE = {"params": "sum", "macs": "sum", "macs_official": "sum", "activation_bytes": "max"}

_FLOAT32_BYTES = 4
_BN_PARAMS = 2  # weight and bias per channel


# ---- one piece of the network ---------------------------------------------------------------------------------------


def layer_cost(spec: MBConvSpec, in_size: int) -> dict[str, int]:
    """Costs of one MBConv layer.

    Args:
        in_size: pixels per side of its input.

    Returns:
        Every name of `COSTS`; batch 1.
    """
    cin, mid, out, se = spec.in_channels, spec.mid_channels, spec.out_channels, spec.se_channels
    pixels, out_pixels = in_size**2, math.ceil(in_size / spec.stride) ** 2
    taps = spec.kernel**2
    convolutions = cin * mid + mid * taps + mid * out
    macs = cin * mid * pixels + (mid * taps + mid * out) * out_pixels + 2 * mid * se
    waiting = cin * pixels if spec.has_residual else 0
    # conv_pw reads the waiting input itself, so there it is counted once
    alive = max((cin + mid) * pixels, mid * (pixels + out_pixels) + waiting, (mid + out) * out_pixels + waiting)
    return {
        "params": convolutions + _BN_PARAMS * (2 * mid + out) + _se_params(mid, se),
        "macs": macs,
        "macs_official": macs + 2 * (mid * pixels + (mid + out) * out_pixels),
        "activation_bytes": _FLOAT32_BYTES * alive,
    }


def stem_cost(frame: Frame) -> dict[str, int]:
    """Costs of the stem: 3x3 convolution of the image, then the depthwise-separable 3x3 layer."""
    mid, out, se = frame.stem_channels, frame.stem_width, frame.stem_se_channels
    image, pixels = 3 * frame.resolution**2, frame.stem_size**2
    convolutions = 3 * 9 * mid + 9 * mid + mid * out
    macs = convolutions * pixels + 2 * mid * se
    # timm's depthwise-separable layer has a residual if the widths agree; conv_dw reads the waiting input itself
    waiting = mid * pixels if mid == out else 0
    alive = max(image + mid * pixels, 2 * mid * pixels, (mid + out) * pixels + waiting)
    return {
        "params": convolutions + _BN_PARAMS * (2 * mid + out) + _se_params(mid, se),
        "macs": macs,
        "macs_official": macs + 2 * (2 * mid + out) * pixels,
        "activation_bytes": _FLOAT32_BYTES * alive,
    }


def head_cost(frame: Frame, width: int, size: int) -> dict[str, int]:
    """Costs of the head.

    Args:
        width: channels of its input, the last block's width.
        size: pixels per side of its input.
    """
    head, classes, pixels = frame.head_channels, frame.num_classes, size**2
    macs = width * head * pixels + head * classes
    return {
        "params": width * head + _BN_PARAMS * head + head * classes + classes,
        "macs": macs,
        "macs_official": macs + 2 * head * pixels + head * pixels,  # BN, and the average pool
        "activation_bytes": _FLOAT32_BYTES * (width + head) * pixels,
    }


def _se_params(channels: int, reduced: int) -> int:
    return 2 * channels * reduced + reduced + channels if reduced else 0


# ---- whole networks -------------------------------------------------------------------------------------------------


def architecture_cost(arch: Architecture, resolution: int | None = None) -> dict[str, int]:
    """Costs of a whole network, stem and head included.

    Args:
        resolution: pixels per side of the image; default the architecture's own.

    Raises:
        ValueError: a resolution that is not positive.
    """
    frame = arch.frame if resolution is None else replace(arch.frame, resolution=resolution)
    size, parts = frame.stem_size, [stem_cost(frame)]
    for spec in (spec for layers in arch.blocks for spec in layers):
        parts.append(layer_cost(spec, size))
        size = math.ceil(size / spec.stride)
    parts.append(head_cost(frame, arch.blocks[-1][-1].out_channels, size))
    combine: dict[str, Callable[[Sequence[int]], int]] = {"sum": sum, "max": max}
    return {name: combine[REDUCE[name]]([part[name] for part in parts]) for name in COSTS}


def cost_table(space: SearchSpace) -> CostTable:
    """Costs of every candidate for every width its block's input can have; stem in block 0, head in the last block."""
    blocks = [_block_costs(space, b) for b in range(len(space.blocks))]
    costs = {name: [block[name] for block in blocks] for name in COSTS}
    return CostTable(space, costs, REDUCE)


def _block_costs(space: SearchSpace, block: int) -> dict[str, NDArray[np.int64]]:
    """name -> [labels_in, n_b]."""
    cells = [_cell_costs(space, block, c) for c in range(len(space.blocks[block].cells))]
    return {name: np.concatenate([cell[name] for cell in cells], axis=1) for name in COSTS}


def _cell_costs(space: SearchSpace, block: int, cell: int) -> dict[str, NDArray[np.int64]]:
    """name -> [labels_in, paths]."""
    variants = [space.layers(block, cell, width) for width in space.input_widths(block)]
    layers = [
        [layers[0] for layers in variants],
        *([layer] for layer in variants[0][1:]),
    ]  # variants differ in the first
    fixed = []
    if block == 0:
        fixed.append(stem_cost(space.frame))
    if block == len(space.blocks) - 1:
        fixed.append(head_cost(space.frame, layers[-1][0].out_channels, space.out_size(block)))
    per_layer = [[_operator_costs(space, layer) for layer in position] for position in layers]
    costs = {}
    for name in COSTS:
        ufunc = np.add if REDUCE[name] == "sum" else np.maximum
        total = np.zeros((len(variants), 1), dtype=np.int64)
        for position in per_layer:
            rows = np.array([[cost[name] for cost in operators] for operators in position], dtype=np.int64)
            # a new layer becomes the last axis: that makes the first layer of a path the most significant digit
            total = ufunc(total[:, :, None], rows[:, None, :]).reshape(len(variants), -1)
        for part in fixed:
            total = ufunc(total, part[name])
        costs[name] = total
    return costs


def _operator_costs(space: SearchSpace, layer: Layer) -> list[dict[str, int]]:
    return [layer_cost(space.mbconv(layer, operator), layer.in_size) for operator in range(len(space.choices))]


# ---- choosing by cost alone -----------------------------------------------------------------------------------------


def largest_choice(table: CostTable, name: str) -> tuple[int, ...]:
    """The candidates that cost most together; the first in lexicographic order where several do.

    Args:
        name: a cost that adds up over blocks.

    Raises:
        ValueError: an unknown cost or one that is a maximum.
    """
    arrays, next_rows = _additive("largest_choice", table, name), _next_rows(table.space)
    # per block [labels_in, n_b]: a candidate's cost and the most that can follow it
    totals: list[NDArray[np.int64]] = []
    most = np.zeros(1, dtype=np.int64)  # [labels_in of the block behind]
    for b in reversed(range(len(arrays))):
        totals.insert(0, arrays[b] + most[next_rows[b]])
        most = totals[0].max(axis=1)
    choice, row = [], 0
    for b, total in enumerate(totals):
        choice.append(int(total[row].argmax()))
        row = int(next_rows[b][choice[-1]])
    return tuple(choice)


def cheapest_cost(table: CostTable, name: str) -> int:
    """What the cheapest architecture costs.

    Args:
        name: a cost that adds up over blocks.

    Raises:
        ValueError: an unknown cost or one that is a maximum.
    """
    arrays, next_rows = _additive("cheapest_cost", table, name), _next_rows(table.space)
    least = np.zeros(1, dtype=np.int64)  # [labels_in of the block behind]
    for b in reversed(range(len(arrays))):
        least = (arrays[b] + least[next_rows[b]]).min(axis=1)
    return int(least[0])


_MAX_BINS = 1 << 16
# Bins of the accepted range per block. Rounding loses up to a bin per block, so all blocks lose up to 1/32 of the range:
# few draws lie outside, unless the target is so far out that most of what is near the range is just below it.
_BINS_PER_BLOCK = 32
_MAX_DRAWS = 10_000


def random_at_cost(
    table: CostTable, name: str, target: int, tolerance: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """Draws an architecture uniformly from all whose cost lies within a tolerance of a target.

    Args:
        name: a cost that adds up over blocks.
        tolerance: share of the target by which the cost may differ from it.

    Returns:
        One candidate index per block.

    Raises:
        ValueError: an unknown cost or one that is a maximum, a negative target or tolerance, no architecture in the
            range, or so few that none was drawn.
    """
    if target < 0 or not 0 <= tolerance < math.inf:
        raise ValueError(f"random_at_cost: target and tolerance must be >= 0, got {target} and {tolerance}")
    lowest, highest = max(target - int(target * tolerance), 0), target + int(target * tolerance)
    return range_sampler(table, name, lowest, highest)(rng)


def range_sampler(
    table: CostTable, name: str, lowest: int, highest: int
) -> Callable[[np.random.Generator], tuple[int, ...]]:
    """Prepares uniform draws of architectures that cost from `lowest` to `highest`, both included.

    Costs are rounded down to bins, the completions of every partial architecture counted per bin, candidates drawn in
    proportion to those counts, and draws whose exact cost lies outside rejected: what is left is uniform, however rare.

    Args:
        name: a cost that adds up over blocks.

    Returns:
        To be called with a generator: one candidate index per block. ValueError if there is no architecture in the range,
        or so few that none was drawn.

    Raises:
        ValueError: an unknown cost or one that is a maximum.
    """
    arrays = _additive("random_at_cost", table, name)
    width = max(1, (highest - lowest) // (_BINS_PER_BLOCK * len(arrays)), highest // _MAX_BINS)
    binned = [array // width for array in arrays]
    next_rows = _next_rows(table.space)
    completions = _completions(binned, next_rows, lowest // width - len(arrays), highest // width)

    def draw(rng: np.random.Generator) -> tuple[int, ...]:
        for _ in range(_MAX_DRAWS):
            choice = _draw(binned, next_rows, completions, rng)
            if choice is None:
                break
            if lowest <= table.total(choice)[name] <= highest:
                return choice
        raise ValueError(
            f"random_at_cost: found no architecture with {name} from {lowest:,} to {highest:,}; move or widen it"
        )

    return draw


def _next_rows(space: SearchSpace) -> list[NDArray[np.intp]]:
    """Per block [n_b] the row of the next block's tables that each candidate leads to; 0 behind the last block."""
    last = len(space.blocks) - 1
    rows = [np.searchsorted(space.input_widths(b + 1), space.labels(b)) for b in range(last)]
    return [*rows, np.zeros(space.num_candidates(last), dtype=np.intp)]


def _completions(
    binned: Sequence[NDArray[np.int64]], next_rows: Sequence[NDArray[np.intp]], lowest: int, highest: int
) -> list[NDArray[np.float64]]:
    """Per block, and behind the last, [labels_in, bins spent]: how many completions end in bins lowest..highest, scaled."""
    completions = [(np.arange(highest + 1) >= lowest).astype(np.float64)[None]]
    for b in reversed(range(len(binned))):
        following = completions[0]
        counts = np.zeros((len(binned[b]), highest + 1))
        for row, bins in enumerate(binned[b]):
            groups, sizes = np.unique(np.stack([next_rows[b], bins], axis=1), axis=0, return_counts=True)
            for (next_row, cost), size in zip(groups.tolist(), sizes.tolist(), strict=True):
                if cost <= highest:
                    counts[row, : highest + 1 - cost] += size * following[next_row, cost:]
        # only proportions matter, and a space of hundreds of blocks has more architectures than float64 can count
        completions.insert(0, counts / max(counts.max(), 1.0))
    return completions


def _draw(
    binned: Sequence[NDArray[np.int64]],
    next_rows: Sequence[NDArray[np.intp]],
    completions: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
) -> tuple[int, ...] | None:
    """One architecture in the accepted bins, None if there is none."""
    choice, spent, row = [], 0, 0
    for bins, rows, following in zip(binned, next_rows, completions[1:], strict=True):
        ends = spent + bins[row]
        inside = ends < following.shape[1]
        weights = np.where(inside, following[rows, np.where(inside, ends, 0)], 0.0)
        if not weights.any():
            return None
        choice.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        spent, row = int(ends[choice[-1]]), int(rows[choice[-1]])
    return tuple(choice)


def _additive(what: str, table: CostTable, name: str) -> Sequence[NDArray[np.int64]]:
    if table.reduce.get(name) != "sum":
        known = ", ".join(n for n in table.names if table.reduce[n] == "sum")
        raise ValueError(f"{what}: the cost must be one that adds up over blocks ({known}), got {name!r}")
    return table.costs[name]
