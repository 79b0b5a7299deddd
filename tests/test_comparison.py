"""The found network against others: which ones, and what differences and intervals say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats
from toy import SPACE

from dna_fast.architecture import Architecture
from dna_fast.comparison import UNIFORM_TOLERANCE, compare_all, uniform_architectures, write_comparison
from dna_fast.cost import architecture_cost
from dna_fast.recipe import Accuracy
from dna_fast.stages import Compared

ARCH = Architecture.from_space(SPACE, (5, 30))


def compared(name: str, correct: int, head: int | None = None) -> Compared:
    accuracy = None if head is None else Accuracy(head, 1000)
    return Compared(name, ARCH, 1_000_000, 5_000, Accuracy(correct, 1000), 1.0, accuracy)


NAMES = ("found", *(f"random_{i}" for i in range(8)), "uniform_e2k3", "largest")
SCRATCH = [compared(name, 900 - 5 * i) for i, name in enumerate(NAMES)]
HEIRS = [compared(f"{name}_inherited", 930 - 5 * i, 800 - i) for i, name in enumerate(NAMES)]


def test_uniform_networks_take_one_operator_and_the_nearest_macs() -> None:
    macs = architecture_cost(ARCH)["macs"]
    found = uniform_architectures(SPACE, macs)
    assert found
    for name, arch in found.items():
        assert arch.candidates is not None
        paths = [SPACE.candidate(b, c)[1] for b, c in enumerate(arch.candidates)]
        (operator,) = {choice for path in paths for choice in path}
        assert name == f"uniform_{SPACE.choices[operator].name}"
        assert abs(architecture_cost(arch)["macs"] - macs) <= UNIFORM_TOLERANCE * macs or len(found) == 1


def test_where_none_is_near_the_nearest_stands_alone() -> None:
    assert len(uniform_architectures(SPACE, 10)) == 1


def test_differences_are_those_worked_out_by_hand() -> None:
    found = compare_all(SCRATCH, HEIRS).findings
    randoms = [0.895 - 0.005 * i for i in range(8)]
    against = found["scratch: found minus random"]
    assert against.value == pytest.approx(0.9 - sum(randoms) / 8)
    variance = sum((r - sum(randoms) / 8) ** 2 for r in randoms) / 7 / 8 + 0.9 * 0.1 / 1000
    assert against.low == pytest.approx(against.value - stats.t.ppf(0.975, 7) * variance**0.5)
    largest = found["inherited: found minus largest"]
    half = 1.96 * (0.93 * 0.07 / 1000 + 0.88 * 0.12 / 1000) ** 0.5
    assert (largest.value, largest.high) == (pytest.approx(0.05), pytest.approx(0.05 + half))
    paired = found["inherited minus scratch, the same networks"]
    assert (paired.value, paired.low) == (pytest.approx(0.03), pytest.approx(0.03))  # the same for each of them
    assert found["head: found minus largest"].value == pytest.approx(0.01)


def test_without_inherited_weights_nothing_is_said_of_them() -> None:
    found = compare_all(SCRATCH, [])
    assert all(name.startswith("scratch") for name in found.findings)


def test_files_are_written(tmp_path: Path) -> None:
    figures, picture = write_comparison(compare_all(SCRATCH, HEIRS), tmp_path)
    record = json.loads(figures.read_text())
    assert [network["name"] for network in record["networks"]] == list(NAMES)
    assert {n["role"] for n in record["networks"]} == {"found", "random", "uniform", "largest"}
    assert record["networks"][0]["inherited"]["top1"] == 0.93
    assert picture.read_bytes().startswith(b"\x89PNG")
