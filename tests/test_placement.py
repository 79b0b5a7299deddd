"""Placements: the best one against all, the words for them, and what they refuse."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from dna_fast.config import RunConfig
from dna_fast.placement import Batch, BlockCost, Placement, candidates, check_words, choose, expected, table
from dna_fast.rate_share import balanced

BATCH = Batch(images=64, bn_group=8)


def _costs(seed: int, blocks: int) -> list[BlockCost]:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed,))))
    times = rng.integers(1, 100, size=(blocks, 2)) / 64  # sums of these are exact
    return [BlockCost(float(t), float(s), 1000 * (b + 1), 100.0 * (b + 1)) for b, (t, s) in enumerate(times)]


def _all_counts(blocks: int, stages: int) -> list[list[int]]:
    cuts = ([0, *inner, blocks] for inner in combinations(range(1, blocks), stages - 1))
    return [[b - a for a, b in pairwise(c)] for c in cuts]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_stages_are_balanced_as_well_as_any_could_be(stages: int, seed: int) -> None:
    costs = _costs(seed, 6)
    (found,) = candidates(f"{stages}x1", stages, costs, BATCH, can_cut=True)
    slowest = [max(expected(Placement.of(c, 1), costs, BATCH, 0.0).stage_s) for c in _all_counts(6, stages)]
    assert max(expected(found, costs, BATCH, 0.0).stage_s) == min(slowest)


@pytest.mark.parametrize("seed", range(20))
def test_auto_takes_the_fastest_of_all(seed: int) -> None:
    costs = _costs(seed, 6)
    best, considered = choose(candidates("auto", 4, costs, BATCH, can_cut=True), costs, BATCH, 1e-3)
    assert {str(e.placement).partition("x")[2] for e in considered} == {"1", "2", "4"}
    every = [Placement.of(c, 4 // n) for n in (1, 2, 4) for c in _all_counts(6, n)]
    assert best.step_s == min(expected(p, costs, BATCH, 1e-3).step_s for p in every)


def test_slow_averaging_makes_it_blocks_and_one_heavy_block_makes_it_data() -> None:
    even = [BlockCost(1.0, 1.0, 1, 1e6)] * 4
    one_heavy = [BlockCost(1.0, 1.0, 1, 1.0), BlockCost(50.0, 50.0, 1, 1.0)]
    for costs, byte_s, words in ((even, 1.0, "1+1+1+1x1"), (even, 0.0, "4x4"), (one_heavy, 1e-9, "2x2")):
        ranks = 2 if len(costs) == 2 else 4
        best, _ = choose(candidates("auto", ranks, costs, BATCH, can_cut=True), costs, BATCH, byte_s)
        assert str(best.placement) == words


@pytest.mark.parametrize(
    ("words", "ranks", "found"),
    [
        ("data", 4, "6x4"),
        ("block", 3, "2+2+2x1"),
        ("2x2", 4, "3+3x2"),
        ("3+2+1", 3, "3+2+1x1"),
        ("5+1x2", 4, "5+1x2"),
    ],
)
def test_words_mean(words: str, ranks: int, found: str) -> None:
    costs = [BlockCost(1.0, 1.0, 1, 1.0)] * 6
    check_words(words, 6)
    assert [str(p) for p in candidates(words, ranks, costs, BATCH, can_cut=True)] == [found]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("blocks", r"expected auto, data, block, a grid such as 2x4 .*, got 'blocks'"),
        ("4", r"expected auto, data, block, a grid .*, got '4'"),
        ("0x2", r"expected numbers of at least 1, got '0x2'"),
        ("7x1", r"expected at most 6 stages \(the blocks of the space\), got '7x1'"),
        ("3+2", r"expected the 6 blocks of the space, got '3\+2', which are 5"),
        ("6+0", r"expected numbers of at least 1"),
    ],
)
def test_wrong_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_words(words, 6)


@pytest.mark.parametrize(
    ("words", "ranks", "images", "can_cut", "message"),
    [
        ("2x2", 3, 64, True, r"2x2 on 3 ranks: 2x2 does not make 3 ranks of 6 blocks"),
        ("block", 7, 64, True, r"block does not make 7 ranks of 6 blocks"),
        ("block", 2, 64, False, r"cannot be run block by block; take train\.placement=data"),
        ("data", 3, 64, True, r"batch_size = 64 cannot be shared by 3 data ranks .* a multiple of 24"),
        ("data", 2, 8, True, r"batch_size = 8 cannot be shared by 2 data ranks .* a multiple of 16"),
        ("data", 2, 6, True, r"batch_size = 6 cannot be shared by 2 data ranks"),
    ],
)
def test_what_is_not_possible_says_why(words: str, ranks: int, images: int, can_cut: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidates(words, ranks, [BlockCost(1.0, 1.0, 1, 1.0)] * 6, Batch(images, 8), can_cut=can_cut)


def test_auto_leaves_out_what_is_not_possible() -> None:
    costs = [BlockCost(1.0, 1.0, 1, 1.0)] * 6
    assert [str(p) for p in candidates("auto", 2, costs, Batch(8, 8), can_cut=True)] == ["3+3x1"]
    assert [str(p) for p in candidates("auto", 2, costs, BATCH, can_cut=False)] == ["6x2"]


def test_the_table_shows_ranks_blocks_and_bytes() -> None:
    costs = [BlockCost(1e-3, 2e-3, 1000, 500.0), BlockCost(1e-3, 1e-3, 3000, 700.0), BlockCost(2e-3, 0.0, 7, 900.0)]
    _, rows = table(expected(Placement.of([1, 2], 2), costs, BATCH, 0.0), costs, BATCH)
    assert rows == [
        ("0..1", "0", "32", "32.0", "64.0", "75 %", "0.032 MB", "0.001 MB"),
        ("2..3", "1..2", "32", "96.0", "32.0", "100 %", "-", "0.002 MB"),
    ]


def test_placement_is_no_part_of_a_runs_identity() -> None:
    base = {"name": "a", "space": "digits", "data": {"kind": "digits"}}
    a, b = (
        RunConfig.from_mapping({**base, "train": {"learning_rates": [0.1], "placement": p}}) for p in ("auto", "2x2")
    )
    assert a.identity() == b.identity()
    with pytest.raises(ValueError, match=r"train\.placement: expected auto, data, block"):
        RunConfig.from_mapping({**base, "train": {"learning_rates": [0.1], "placement": "both"}})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ratings_are_shared_out_once_and_evenly(ranks: int, seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed,))))
    work = {(b, c, o): float(rng.integers(1, 1000)) for b in range(3) for c in range(2) for o in range(6)}
    shares = balanced(work, ranks)
    assert sorted(unit for share in shares for unit in share) == sorted(work)
    loads = [sum(work[unit] for unit in share) for share in shares]
    # No rank is over the mean by more than one unit, the last that it was given.
    assert max(loads) <= sum(work.values()) / ranks + max(work.values())
