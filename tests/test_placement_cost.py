"""What a block is said to cost: the mean over all paths, of which steps are drawn, not the cheapest that was timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks_jobs

from dna_fast import placement_cost
from dna_fast.placement_cost import covering_paths, gradient_bytes, mean_gradient_bytes, measured_costs

BLOCKS = range(len(ranks_jobs.CHANNELS))


def _taken(paths: Sequence[tuple[int, ...]]) -> list[tuple[int, int, int]]:
    return [(c, layer, choice) for c, path in enumerate(paths) for layer, choice in enumerate(path)]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_operator_is_timed_in_one_step(block: int) -> None:
    taken = Counter(o for paths in covering_paths(ranks_jobs.supernet(), block) for o in _taken(paths))
    cells, choices = ranks_jobs.SPACE.blocks[block].cells, range(len(ranks_jobs.SPACE.choices))
    assert taken == Counter(
        (c, layer, choice) for c, cell in enumerate(cells) for layer in range(cell.depth) for choice in choices
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_are_the_mean_over_all_paths(block: int) -> None:
    supernet = ranks_jobs.supernet()
    sizes = [gradient_bytes(supernet.block(block), paths) for paths in covering_paths(supernet, block)]
    assert sum(sizes) / len(sizes) == pytest.approx(mean_gradient_bytes(supernet.block(block)), rel=1e-12)


def test_a_steps_time_is_the_mean_over_all_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators are given times; first calls take longer, and so does one call in three."""
    now, calls = [0.0], Counter[Any]()
    planted: dict[tuple[int, int, int, int], float] = {}
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((3,))))
    for block in BLOCKS:
        for c, cell in enumerate(ranks_jobs.SPACE.blocks[block].cells):
            for layer in range(cell.depth):
                for choice in range(len(ranks_jobs.SPACE.choices)):
                    planted[block, c, layer, choice] = float(rng.uniform(1, 9))

    def step(learner: Any, x: Any, target: Any, paths: Sequence[tuple[int, ...]]) -> None:
        key = (learner.index, tuple(paths))
        calls[key] += 1
        now[0] += 100.0 if calls[key] in (1, 3) else 0.0
        now[0] += sum(planted[(learner.index, *o)] for o in _taken(paths))

    monkeypatch.setattr(placement_cost, "_step", step)
    monkeypatch.setattr(placement_cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    world: Any = SimpleNamespace(rank=0, size=1, gather=lambda said: [said])
    costs = measured_costs(
        lambda block: ranks_jobs.supernet([block]), ranks_jobs.teacher(), None, ranks_jobs.CONFIG, world
    )
    choices = len(ranks_jobs.SPACE.choices)
    for block in BLOCKS:
        mean = sum(seconds for (b, *_), seconds in planted.items() if b == block) / choices
        assert costs[block].student_s * ranks_jobs.CONFIG.bn_group == pytest.approx(mean, rel=1e-9)
