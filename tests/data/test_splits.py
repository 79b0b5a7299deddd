"""Class-balanced splits: disjoint, complete, level, reproducible."""

import numpy as np
import pytest

from dna_fast.data.splits import class_balanced_split

LEVEL = np.repeat(np.arange(5), 12)
SKEWED = np.repeat(np.arange(4), [1, 3, 20, 40])


@pytest.mark.parametrize("labels", [LEVEL, SKEWED, LEVEL[::-1] * 3 - 7], ids=["level", "skewed", "odd-labels"])
@pytest.mark.parametrize("counts", [{}, {"a": 0}, {"a": 1}, {"a": 13, "b": 8}, {"a": 60}], ids=str)
def test_parts_are_disjoint_and_complete(labels: np.ndarray, counts: dict[str, int]) -> None:
    parts = class_balanced_split(labels, counts, seed=3)
    assert list(parts) == [*counts, "rest"]
    assert {name: len(part) for name, part in parts.items() if name != "rest"} == counts
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    assert all(np.all(np.diff(part) > 0) and part.dtype == np.int64 for part in parts.values())


@pytest.mark.parametrize("count", [1, 4, 5, 13, 29])
def test_classes_differ_by_at_most_one(count: int) -> None:
    parts = class_balanced_split(LEVEL, {"a": count, "b": count}, seed=0)
    for name in ("a", "b"):
        per_class = np.bincount(LEVEL[parts[name]], minlength=5)
        assert per_class.max() - per_class.min() <= 1


def test_a_class_that_runs_out_is_made_up_for() -> None:
    per_class = np.bincount(SKEWED[class_balanced_split(SKEWED, {"a": 20}, seed=0)["a"]], minlength=4)
    assert per_class.tolist() == [1, 3, 8, 8]


def test_the_odd_images_do_not_always_come_from_the_same_classes() -> None:
    parts = class_balanced_split(LEVEL, {str(k): 1 for k in range(20)}, seed=0)
    assert len({int(LEVEL[part[0]]) for name, part in parts.items() if name != "rest"}) > 2


def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = (class_balanced_split(LEVEL, {"a": 20}, seed)["a"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    relabelled = class_balanced_split(LEVEL * 10, {"a": 20}, 1)["a"]
    assert np.array_equal(first, relabelled)


@pytest.mark.parametrize(
    ("labels", "counts", "seed", "message"),
    [
        (LEVEL, {"a": 50, "b": 11}, 0, r"asked for 50 \(a\) \+ 11 \(b\) = 61 images, but there are 60"),
        (LEVEL, {"a": -1}, 0, "count of 'a' must not be negative"),
        (LEVEL, {"rest": 1}, 0, "'rest' is kept"),
        (LEVEL, {"a": 1}, -1, "seed must not be negative"),
        (LEVEL.reshape(5, 12), {"a": 1}, 0, r"1-D, got shape \(5, 12\)"),
    ],
    ids=["too-many", "negative-count", "reserved-name", "negative-seed", "two-dimensional"],
)
def test_impossible_requests_say_why(labels: np.ndarray, counts: dict[str, int], seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_balanced_split(labels, counts, seed)
