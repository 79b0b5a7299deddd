"""The 16-cell space with exact costs and made-up ratings, as the solver and its opponents take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dna_fast.cost import cost_table
from dna_fast.space import preset


@dataclass(frozen=True)
class Problem:
    """One loss and some costs per candidate; every array [n_b], costs at nominal widths, so that opponents need no labels."""

    losses: list[NDArray[np.float64]]
    costs: dict[str, list[NDArray[np.int64]]]
    budgets: dict[str, int]


def sixteen_cells(names: tuple[str, ...], seed: int = 0) -> Problem:
    """The space `dna`; ratings fall with macs and scatter. Budgets lie a third of the way from the cheapest to the dearest network."""
    space, rng = preset("dna"), np.random.default_rng(seed)
    table = cost_table(space)
    rows = [space.input_widths(b).index(space.nominal_width(b)) for b in range(len(space.blocks))]
    costs = {
        name: [a[row] for a, row in zip(table.costs[name], rows, strict=True)]
        for name in ("macs", "params", "activation_bytes")
    }
    costs["latency_us"] = [(m // 20_000 + rng.integers(0, 2000, len(m))).astype(np.int64) for m in costs["macs"]]
    shares = [(m - m.min()) / max(np.ptp(m), 1) for m in costs["macs"]]
    losses = [1 - 0.5 * np.sqrt(share) + 0.05 * rng.standard_normal(len(share)) for share in shares]
    chosen = {name: costs[name] for name in names}
    budgets = {
        name: int(sum(a.min() for a in arrays) + (sum(a.max() for a in arrays) - sum(a.min() for a in arrays)) // 3)
        for name, arrays in chosen.items()
    }
    return Problem(losses, chosen, budgets)
