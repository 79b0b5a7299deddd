"""Architectures for a study: the same number for every bucket of cost, uniform within each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dna_fast.cost import cheapest_cost, largest_choice, range_sampler
from dna_fast.tables import CostTable

# Of a bucket's architectures that were drawn before; a bucket with hardly more of them than were asked for needs many.
MAX_REPEATS = 1000

Choice = tuple[int, ...]


def cost_edges(table: CostTable, name: str, buckets: int, between: tuple[int, int] | None = None) -> tuple[int, ...]:
    """Borders of buckets of one ratio: bucket i holds costs from edge i on and below edge i + 1, the last one its upper edge.

    Args:
        name: a cost that adds up over blocks.
        buckets: how many.
        between: cheapest and dearest; default those of the space.

    Returns:
        buckets + 1 whole numbers, ascending.

    Raises:
        ValueError: no bucket, a range that is none, or buckets narrower than one unit of cost.
    """
    if buckets < 1:
        raise ValueError(f"study: expected at least one bucket, got {buckets}")
    low, high = between or (cheapest_cost(table, name), table.total(largest_choice(table, name))[name])
    if not 0 < low < high:
        raise ValueError(f"study: {name} must range from a positive number to a greater one, got {low:,} to {high:,}")
    edges = [low, *(round(low * (high / low) ** (i / buckets)) for i in range(1, buckets)), high]
    if any(a >= b for a, b in pairwise(edges)):
        raise ValueError(
            f"study: {buckets} buckets between {low:,} and {high:,} are narrower than one unit; take fewer"
        )
    return tuple(edges)


def stratified_sample(
    table: CostTable, name: str, edges: Sequence[int], per_bucket: int, rng: np.random.Generator
) -> list[list[Choice]]:
    """Draws different architectures, the same number from every bucket; each subset of a bucket of that size is as likely.

    Args:
        table: the space's costs.
        name: a cost that adds up over blocks.
        edges: of `cost_edges`.
        per_bucket: how many of each.
        rng: the same generator state gives the same sample.

    Returns:
        Per bucket `per_bucket` choices, in the order of drawing.

    Raises:
        ValueError: a bucket with fewer architectures; the message names it.
    """
    if per_bucket < 1:
        raise ValueError(f"study: expected at least one architecture per bucket, got {per_bucket}")
    sample, last = [], len(edges) - 2
    for i, (low, high) in enumerate(pairwise(edges)):
        highest = high if i == last else high - 1
        try:
            found = _different(table, name, (low, highest), per_bucket, rng)
        except ValueError as error:
            raise ValueError(
                f"study: bucket {i} ({name} from {low:,} to {highest:,}) holds no {per_bucket} architectures; take wider "
                "buckets, fewer of each, or another range"
            ) from error
        sample.append(found)
    return sample


def _different(
    table: CostTable, name: str, limits: tuple[int, int], count: int, rng: np.random.Generator
) -> list[Choice]:
    draw, found, repeats = range_sampler(table, name, *limits), dict[Choice, None](), 0
    while len(found) < count:
        choice = draw(rng)
        repeats += choice in found
        if repeats > MAX_REPEATS:
            raise ValueError(f"only {len(found)} different architectures")
        found[choice] = None
    return list(found)


def per_bucket(total: int, buckets: int) -> int:
    """How many of each bucket make at least a total."""
    return math.ceil(total / buckets)
