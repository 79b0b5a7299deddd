"""Corrections between neighbours: known terms are found and the better optimum with them, additive tables stay as they are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from toy import SPACE

from dna_fast.cost import cost_table
from dna_fast.pairwise import Correction, PairClasses, corrected_problem, fit_correction
from dna_fast.search import CostSpec, solve

Floats = NDArray[np.float64]
CLASSES = PairClasses.of_cells(SPACE)
SIZES = [SPACE.num_candidates(b) for b in range(2)]
TERMS = np.array([[0.0, -0.3], [0.6, -0.4]])  # of (leaving cell, entering cell)


def tables(seed: int) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.2, 1.0, n) for n in SIZES]


def sample(seed: int, count: int = 60) -> list[tuple[int, int]]:
    """Both cells of both blocks alike: uniform candidates would hardly ever take the small cell."""
    rng = np.random.default_rng((seed, 1))
    picks = []
    for _ in range(count):
        cells = [int(rng.integers(2)) for _ in range(2)]
        picks.append(
            tuple(
                int(SPACE.cell_offset(b, c) + rng.integers(SPACE.num_paths(SPACE.blocks[b].cells[c])))
                for b, c in enumerate(cells)
            )
        )
    return picks  # type: ignore[return-value]


def truth(losses: list[Floats], choice: tuple[int, ...], terms: Floats) -> float:
    pair = terms[CLASSES.leaving[0][choice[0]], CLASSES.entering[1][choice[1]]]
    return float(3 + 2 * (losses[0][choice[0]] + losses[1][choice[1]] + pair))


def fitted(losses: list[Floats], seed: int, terms: Floats, noise: float = 0.0) -> Correction:
    choices, rng = sample(seed), np.random.default_rng((seed, 2))
    summed = np.array([losses[0][a] + losses[1][b] for a, b in choices])
    values = np.array([truth(losses, c, terms) for c in choices]) + noise * rng.standard_normal(len(choices))
    return fit_correction(choices, summed, values, CLASSES)


@pytest.mark.parametrize("seed", range(8))
def test_known_terms_give_the_better_optimum(seed: int) -> None:
    losses, costs = tables(seed), cost_table(SPACE)
    spec = {"macs": CostSpec(costs.costs["macs"])}
    macs = sorted(costs.total(c)["macs"] for c in product(*map(range, SIZES)))
    budget = {"macs": macs[len(macs) // 2]}
    plain = solve(losses, spec, budget, labels=costs.labels)
    assert plain.choice is not None
    terms = TERMS.copy()  # against the pair that ratings alone would choose
    terms[CLASSES.leaving[0][plain.choice[0]], CLASSES.entering[1][plain.choice[1]]] = 0.6
    correction = fitted(losses, seed, terms, noise=0.01)
    assert correction.taken
    # terms are known up to a constant, which the offset takes, and shrunk a little
    found, wanted = (t - t.mean() for t in (correction.terms[0], terms))
    np.testing.assert_allclose(found, wanted, atol=0.03)
    problem = corrected_problem(losses, spec, costs.labels, correction)
    got = solve(problem.losses, problem.costs, budget, labels=problem.labels)
    allowed = [c for c in product(*map(range, SIZES)) if costs.total(c)["macs"] <= budget["macs"]]
    best = min(truth(losses, c, terms) for c in allowed)
    assert got.choice is not None
    assert truth(losses, got.choice, terms) == pytest.approx(best, abs=0.06)  # what an error of 0.03 per term allows
    assert truth(losses, got.choice, terms) < truth(losses, plain.choice, terms) - 0.05
    assert got.costs == {"macs": costs.total(got.choice)["macs"]}
    assert got.loss == pytest.approx(
        sum(t[i] for t, i in zip(losses, got.choice, strict=True)) + correction.of(got.choice)
    )


@pytest.mark.parametrize("noise", [0.0, 0.05], ids=["exact", "noisy"])
@pytest.mark.parametrize("seed", range(8))
def test_additive_tables_stay_as_they_are(seed: int, noise: float) -> None:
    losses = tables(seed)
    correction = fitted(losses, seed, np.zeros((2, 2)), noise)
    assert not correction.taken, correction.why
    assert not any(term.any() for term in correction.terms)
    costs = cost_table(SPACE)
    spec = {"macs": CostSpec(costs.costs["macs"])}
    problem = corrected_problem(losses, spec, costs.labels, correction)
    got = solve(problem.losses, problem.costs, {}, labels=problem.labels, top_k=20)
    plain = solve(losses, spec, {}, labels=costs.labels, top_k=20)
    assert len(got.alternatives) == 19
    assert [(a.choice, a.loss, a.costs) for a in (got, *got.alternatives)] == [
        (a.choice, a.loss, a.costs) for a in (plain, *plain.alternatives)
    ]


def test_errors_of_those_left_out_are_those_of_fits_without_them() -> None:
    from dna_fast.pairwise import _left_out_errors, _ridge

    rng = np.random.default_rng(0)
    design, wanted = rng.standard_normal((12, 4)), rng.standard_normal(12)
    design[:, 0] = 1.0
    for ridge in (0.1, 10.0):
        expected = []
        for i in range(12):
            kept = np.arange(12) != i
            expected.append(wanted[i] - design[i] @ _ridge(design[kept], wanted[kept], ridge, 2))
        np.testing.assert_allclose(_left_out_errors(design, wanted, ridge, 2), expected, rtol=1e-9)


def test_ratings_that_rank_the_wrong_way_are_not_corrected() -> None:
    losses, choices = tables(0), sample(0)
    summed = np.array([losses[0][a] + losses[1][b] for a, b in choices])
    pairs = np.array([TERMS[CLASSES.leaving[0][a], CLASSES.entering[1][b]] for a, b in choices])
    correction = fit_correction(choices, summed, 3 * pairs - summed, CLASSES)
    assert not correction.taken
    assert "opposite ways" in correction.why


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 networks of different quality, got 2"):
        fit_correction([(0, 0), (1, 1)], np.zeros(2), np.arange(2.0), CLASSES)
