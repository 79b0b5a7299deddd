"""Counter-based random numbers: pinned, uniform, and independent of the company they are drawn in."""

import numpy as np
import pytest

from dna_fast.data.keyed import Purpose, keys, uniform


def test_numbers_are_pinned() -> None:
    """Another number here means that no old run can be resumed or repeated."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    state = 0
    for field in (7, 3, 5, 123456):  # seed, epoch, purpose, image
        state = mix((state ^ field) + golden & mask)
    assert int(keys(7, 3, np.array([123456]), Purpose.ERASE)[0]) == state
    expected = (mix(state + 2 * golden & mask) >> 11) / 2**53
    assert uniform(7, 3, np.array([123456]), Purpose.ERASE, 2)[0, 1] == expected


def test_a_row_depends_on_its_image_alone() -> None:
    together = uniform(1, 2, np.arange(100), Purpose.WINDOW, 6)
    assert np.array_equal(uniform(1, 2, np.array([41, 7]), Purpose.WINDOW, 6), together[[41, 7]])
    assert np.array_equal(uniform(1, 2, np.arange(100), Purpose.WINDOW, 3), together[:, :3])


@pytest.mark.parametrize("field", ["seed", "epoch", "purpose", "image"])
def test_every_field_changes_every_number(field: str) -> None:
    base = uniform(1, 2, np.arange(50), Purpose.FLIP, 4)
    other = {
        "seed": uniform(2, 2, np.arange(50), Purpose.FLIP, 4),
        "epoch": uniform(1, 3, np.arange(50), Purpose.FLIP, 4),
        "purpose": uniform(1, 2, np.arange(50), Purpose.COLOR, 4),
        "image": uniform(1, 2, np.arange(50, 100), Purpose.FLIP, 4),
    }[field]
    assert not np.intersect1d(base, other).size


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = uniform(0, 0, np.arange(20_000), Purpose.COLOR, 3)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    counts = np.histogram(numbers, 100, (0, 1))[0]
    chi_square = ((counts - 600) ** 2 / 600).sum()
    assert chi_square < 99 + 5 * np.sqrt(2 * 99)  # mean and five standard deviations of the chi-square law
    correlation = np.corrcoef(np.column_stack([numbers[:-1], numbers[1:]]).T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
