"""Problems for the solver and its opponents: the 16-cell space with exact costs and made-up ratings, and spaces of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dna_fast.cost import cost_table
from dna_fast.space import SearchSpace, preset


@dataclass(frozen=True)
class Problem:
    """One loss and some costs per candidate, [n_b], and the upper end of every cost.

    Where there are labels (what each candidate shows to the next block, as codes 0, 1, ...), costs may be [labels_in, n_b].
    """

    losses: list[NDArray[np.float64]]
    costs: dict[str, list[NDArray[np.int64]]]
    budgets: dict[str, int]
    labels: list[NDArray[np.int64]] | None = None


def sixteen_cells(names: tuple[str, ...], seed: int = 0) -> Problem:
    """The space `dna` at nominal widths, so that opponents need no labels; ratings fall with macs and scatter.

    Budgets lie a third of the way from the cheapest to the dearest network.
    """
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
    return Problem(losses, chosen, _a_third_of_the_way(chosen))


def sixteen_cells_coupled(names: tuple[str, ...], seed: int = 0) -> Problem:
    """The same with every cost as it is: a candidate's depends on the width that the block before shows."""
    space, nominal = preset("dna"), sixteen_cells(names, seed)
    table = cost_table(space)
    labels = _label_codes(space)
    costs = {}
    for name in names:
        if name == "latency_us":  # as macs: more for a wider input
            extra = [np.arange(a.shape[0])[:, None] * 50 for a in table.costs["macs"]]
            costs[name] = [a + e for a, e in zip(nominal.costs[name], extra, strict=True)]
        else:
            costs[name] = [np.ascontiguousarray(a) for a in table.costs[name]]
    return Problem(nominal.losses, costs, nominal.budgets, labels)


def any_size(blocks: int, candidates: int, seed: int = 0) -> Problem:
    """A space of candidates ** blocks architectures under two budgets; losses fall with effort and scatter, as do costs around it."""
    rng = np.random.default_rng(seed)
    losses, macs, params = [], [], []
    for _ in range(blocks):
        effort = rng.lognormal(0.0, 0.5, candidates)
        losses.append(0.2 + 0.25 / effort**0.7 + rng.normal(0.0, 0.02, candidates))
        macs.append((60e6 * effort * rng.lognormal(0.0, 0.1, candidates)).astype(np.int64))
        params.append((8e5 * effort * rng.lognormal(0.0, 0.2, candidates)).astype(np.int64))
    costs = {"macs": macs, "params": params}
    budgets = {name: int(sum(np.quantile(a, 0.35) for a in arrays)) for name, arrays in costs.items()}
    return Problem(losses, costs, budgets)


def _a_third_of_the_way(costs: dict[str, list[NDArray[np.int64]]]) -> dict[str, int]:
    ends = {}
    for name, arrays in costs.items():
        least, largest = sum(int(a.min()) for a in arrays), sum(int(a.max()) for a in arrays)
        ends[name] = least + (largest - least) // 3
    return ends


def _label_codes(space: SearchSpace) -> list[NDArray[np.int64]]:
    """Per block [n_b]: the rank of each candidate's width among the block's."""
    return [np.unique(space.labels(b), return_inverse=True)[1].astype(np.int64) for b in range(len(space.blocks))]
