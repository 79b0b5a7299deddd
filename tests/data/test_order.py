"""Batches and shards: nothing lost, nothing twice, and the same global batch on any number of ranks."""

import functools
import operator

import numpy as np
import pytest

from dna_fast.data.order import BatchOrder


def batches(order: BatchOrder, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [[int(k) for k in batch] for batch in order.batches(epoch, start)]


WORLDS = range(1, 6)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("num_images", [1, 2, 7, 8, 9, 24, 25, 61])
def test_evaluation_sees_every_image_once_in_order(num_images: int, world_size: int) -> None:
    whole = batches(BatchOrder(num_images, 4, 0, training=False))
    seen, counts = [], []
    for rank in range(world_size):
        order = BatchOrder(num_images, 4, 0, training=False, rank=rank, world_size=world_size)
        mine = batches(order)
        assert len(mine) == len(order)
        seen += mine
        counts.append(len(mine))
    assert seen == whole  # the very batches of one process: per-batch means do not depend on the ranks
    assert max(counts) - min(counts) <= 1
    assert [k for batch in whole for k in batch] == list(range(num_images))
    assert all(len(batch) == 4 for batch in whole[:-1])
    assert len(whole[-1]) == (num_images - 1) % 4 + 1


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("num_images", [59, 60, 61, 179, 307])
def test_training_global_batch_does_not_depend_on_the_ranks(num_images: int, world_size: int) -> None:
    global_batch = 60  # a multiple of every number of ranks
    whole = batches(BatchOrder(num_images, global_batch, 5, training=True), epoch=3)
    each = global_batch // world_size
    ranks = [BatchOrder(num_images, each, 5, True, rank, world_size) for rank in range(world_size)]
    assert {len(order) for order in ranks} == {num_images // global_batch}
    joined = [
        functools.reduce(operator.iadd, parts, [])
        for parts in zip(*(batches(order, epoch=3) for order in ranks), strict=True)
    ]
    assert joined == whole
    flat = functools.reduce(operator.iadd, whole, [])
    assert len(set(flat)) == len(flat) == num_images // global_batch * global_batch


def test_training_shuffles_by_epoch_and_seed() -> None:
    orders = [
        functools.reduce(operator.iadd, batches(BatchOrder(64, 8, seed, True), epoch), [])
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert list(range(64)) not in orders


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_start_enters_the_same_epoch_on_every_rank(training: bool, world_size: int) -> None:
    for rank in range(world_size):
        order = BatchOrder(83, 7, 1, training, rank, world_size)
        for start in range(len(order) + 1):
            assert batches(order, 4, start) == batches(order, 4)[start:]


def test_fewer_images_than_a_global_batch_gives_no_training_batch() -> None:
    assert len(BatchOrder(7, 4, 0, True, rank=0, world_size=2)) == 0


def test_many_images_stay_a_permutation() -> None:
    order = np.concatenate(list(BatchOrder(100_000, 1000, 9, True).batches(0, 0)))
    assert np.array_equal(np.sort(order), np.arange(100_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"world_size": 0}, "world_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be in 0..1, got 2"),
        ({"rank": -1}, "rank must be in 0..0, got -1"),
        ({"seed": -1}, "seed must be"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchOrder(**{"num_images": 8, "batch_size": 2, "seed": 0, "training": True, **change})
