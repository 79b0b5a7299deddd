"""Synthetic ratings and costs in the size of the 16-cell space: 1.96e17 choices."""

from __future__ import annotations

import numpy as np

SIXTEEN_CELLS = (288, 1548, 1548, 2808, 16848, 6)


def sixteen_cells(seed: int) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Losses that fall with cost, with noise; macs, params and latency_us that go roughly together."""
    rng = np.random.default_rng(seed)
    losses, costs = [], {"macs": [], "params": [], "latency_us": []}
    for size in SIXTEEN_CELLS:
        effort = rng.lognormal(0.0, 0.35, size)
        losses.append(0.2 + 0.25 / effort**0.7 + rng.normal(0.0, 0.02, size))
        costs["macs"].append((60e6 * effort * rng.lognormal(0.0, 0.05, size)).astype(np.int64))
        costs["params"].append((8e5 * effort * rng.lognormal(0.0, 0.15, size)).astype(np.int64))
        costs["latency_us"].append((900 * effort * rng.lognormal(0.0, 0.2, size)).astype(np.int64))
    return losses, costs


def middling_budgets(costs: dict[str, list[np.ndarray]], share: float = 0.35) -> dict[str, int]:
    """Upper ends at a share of the way from the least to the largest total."""
    budgets = {}
    for name, arrays in costs.items():
        least, largest = sum(int(a.min()) for a in arrays), sum(int(np.median(a)) for a in arrays) * 2
        budgets[name] = int(least + share * (largest - least))
    return budgets


def wide_space(seed: int, *, blocks: int, size: int) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """As ``sixteen_cells``, with any number of blocks of any size; latency follows macs less closely than params do."""
    rng = np.random.default_rng(seed)
    losses, costs = [], {"macs": [], "params": [], "latency_us": []}
    for _ in range(blocks):
        effort = rng.lognormal(0.0, 0.5, size)
        losses.append(0.2 + 0.25 / effort**0.7 + rng.normal(0.0, 0.02, size))
        costs["macs"].append((60e6 * effort * rng.lognormal(0.0, 0.1, size)).astype(np.int64))
        costs["params"].append((8e5 * effort * rng.lognormal(0.0, 0.2, size)).astype(np.int64))
        costs["latency_us"].append((900 * effort * rng.lognormal(0.0, 0.3, size)).astype(np.int64))
    return losses, costs
