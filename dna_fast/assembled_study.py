"""Beyond additivity: networks assembled from a run's blocks, measured end to end, beside the sums of their ratings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dna_fast._files import read_json, write_json
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.inherit import last_feature
from dna_fast.pairwise import Correction, PairClasses, corrected_problem, fit_correction
from dna_fast.query import Query
from dna_fast.retrain_inherited import Inheritance
from dna_fast.search import solve
from dna_fast.space import SearchSpace
from dna_fast.study_statistics import LEVELS, Estimate, Resamples, coefficient, replicates

Floats = NDArray[np.float64]
Choice = tuple[int, ...]

FORMAT, VERSION = "dna_fast.assembled", 1
RESAMPLES = 2000
TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class AssembledNetwork:
    """One network and what it is worth.

    Args:
        role: "best" (of the search), "fit", "held out" or "corrected" (best by the corrected ratings).
        rating: summed.
        corrected: the same with the correction.
        distance: relative_l1 of its last feature from the teacher's, mean over batches of evaluation images.
        head_accuracy: top-1 with a fitted head; None where not asked for.
    """

    role: str
    choice: Choice
    macs: int
    rating: float
    corrected: float
    distance: float
    head_accuracy: float | None = None


@dataclass(frozen=True)
class AssembledStudy:
    """What was found.

    Args:
        agreement: Kendall's tau between summed ratings and distances: of the sampled networks, and of the best alone.
        held_out: the same of the networks that the correction was not fitted to: by ratings, corrected, and the difference.
        correction: whether it was taken and why, its terms, and its error left out.
        gain: distance of the search's best minus that of the best by corrected ratings, with a 95 % interval from the batches; None
            where both are the same network.
        verdict: what this allows to be said.
    """

    networks: tuple[AssembledNetwork, ...]
    agreement: dict[str, Estimate]
    held_out: dict[str, Estimate]
    correction: dict[str, Any]
    gain: Estimate | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class AssembledPlan:
    """What is assembled.

    Args:
        top: how many of the search's best.
        sample: how many random ones, cells uniform: the first half fits the correction, the second judges it.
        seed: of the random ones, and of the resamples behind intervals.
        heads: also fit a head to each of the best.
    """

    top: int
    sample: int
    seed: int = 0
    heads: bool = False

    def __post_init__(self) -> None:
        if self.top < 1 or self.sample < 8:
            raise ValueError(f"assembled: expected --top >= 1 and --sample >= 8, got {self.top} and {self.sample}")


def draw_choices(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Choice]:
    """Distinct architectures, per block a uniform cell and a uniform path in it: uniform candidates would be deep ones nearly always.

    Raises:
        ValueError: the space has not so many.
    """
    if space.num_architectures < 2 * count:
        raise ValueError(
            f"assembled: --sample {count} of a space of {space.num_architectures}; take at most half of them"
        )
    found: dict[Choice, None] = {}
    while len(found) < count:
        picks = []
        for b, block in enumerate(space.blocks):
            cell = int(rng.integers(len(block.cells)))
            picks.append(space.cell_offset(b, cell) + int(rng.integers(space.num_paths(block.cells[cell]))))
        found[tuple(picks)] = None
    return list(found)


class Measurements:
    """Distances of assembled networks from the teacher; kept in a file, so that an interrupted study goes on.

    Args:
        inheritance: of the run.
        path: of the file.
    """

    def __init__(self, inheritance: Inheritance, path: Path) -> None:
        self.inheritance, self.path, self.known = inheritance, path, dict[str, list[float]]()
        if path.exists():
            record = read_json(path)
            if record["identity"] == inheritance.sha256:  # else the supernet has gone on training
                self.known = record["distances"]

    @torch.no_grad()
    def of(self, choice: Choice) -> Floats:
        """[batches] relative_l1 between the network's last feature, through the last cell's adapter, and the teacher's."""
        key = "-".join(map(str, choice))
        if key not in self.known:
            run, teacher = self.inheritance.run, self.inheritance.teacher
            found = self.inheritance.assemble(Architecture.from_space(run.space, choice))
            loader = run.images.loader(run.images.evaluation, run.config.rate.batch_size, training=False)
            distances = []
            for batch in loader.epoch(0):
                images = batch.images.to(run.device)
                target = teacher(images)[-1].double()
                got = found.out_adapter(last_feature(found.model, images)).double()
                distances.append(float((got - target).abs().mean() / target.std()))
            self.known[key] = distances
            write_json(self.path, {"identity": self.inheritance.sha256, "distances": self.known})
        return np.array(self.known[key])


def assembled_study(
    inheritance: Inheritance,
    query: Query,
    plan: AssembledPlan,
    directory: Path,
    on_network: Callable[[int, int], None] | None = None,
) -> AssembledStudy:
    """Assembles networks, measures them on the evaluation images, and judges summed ratings and a correction by them.

    Args:
        inheritance: of a rated run.
        query: the search whose best are assembled, and which is asked again with the correction.
        directory: where measurements are kept.
        on_network: called with how many networks are measured, and of how many.

    Raises:
        ValueError: no architecture meets the query's bounds; too few are in the space.
    """
    space = query.ratings.space
    measure = Measurements(inheritance, directory / "measurements.json")
    best = _best(query, plan.top)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((plan.seed, 2))))
    sample = draw_choices(space, plan.sample, rng)
    distances: dict[Choice, Floats] = {}
    wanted = list(dict.fromkeys([*best, *sample]))
    for number, choice in enumerate(wanted, start=1):
        distances[choice] = measure.of(choice)
        if on_network is not None:
            on_network(number, len(wanted) + 1)
    fitted, held_out = sample[: plan.sample // 2], sample[plan.sample // 2 :]
    ratings = np.array([query.loss(c) for c in fitted])
    truth = np.array([distances[c].mean() for c in fitted])
    correction = fit_correction(fitted, ratings, truth, PairClasses.of_cells(space))
    winner = _best_corrected(query, correction)
    distances[winner] = measure.of(winner)
    roles = [(c, "best") for c in best] + [(c, "fit") for c in fitted] + [(c, "held out") for c in held_out]
    heads = {c: _head_accuracy(inheritance, c) for c in (*best, winner)} if plan.heads else {}
    networks = tuple(
        AssembledNetwork(
            role,
            c,
            architecture_cost(Architecture.from_space(space, c))["macs"],
            query.loss(c),
            query.loss(c) + correction.of(c),
            float(distances[c].mean()),
            heads.get(c),
        )
        for c, role in [*roles, (winner, "corrected")]
    )
    gain = None if winner == best[0] else _paired(distances[best[0]] - distances[winner])
    judged = _held_out([n for n in networks if n.role == "held out"], rng)
    agreement = {
        "sampled": _tau([n for n in networks if n.role in ("fit", "held out")], rng),
        "best": _tau([n for n in networks if n.role == "best"], rng),
    }
    told = {
        "taken": correction.taken,
        "why": correction.why,
        "error": correction.error,
        "plain_error": correction.plain_error,
        "terms": [term.tolist() for term in correction.terms],
    }
    return AssembledStudy(networks, agreement, judged, told, gain, _verdict(correction, judged["difference"], gain))


def _best(query: Query, top: int) -> list[Choice]:
    solution = replace(query, top=top).solve()
    if solution.choice is None:
        raise ValueError("assembled: no architecture meets the run's search.max and search.min; loosen them")
    return [solution.choice, *(alternative.choice for alternative in solution.alternatives)]


def _best_corrected(query: Query, correction: Correction) -> Choice:
    costs = query.specs(query.costs.names)
    problem = corrected_problem(query.ratings.losses(query.metric), costs, query.costs.labels, correction)
    choice = solve(problem.losses, problem.costs, dict(query.bounds), labels=problem.labels).choice
    assert choice is not None, "the query without correction has an answer, and bounds are the same"
    return choice


def _head_accuracy(inheritance: Inheritance, choice: Choice) -> float:
    arch = Architecture.from_space(inheritance.run.space, choice)
    name = "assembled_" + "_".join(map(str, choice))
    return inheritance.fit_head(arch, name)[1].accuracy.top1


def _tau(networks: Sequence[AssembledNetwork], rng: np.random.Generator) -> Estimate:
    resamples = Resamples.draw(np.zeros(len(networks), dtype=np.int64), RESAMPLES, rng)
    rating, distance = (np.array([getattr(n, name) for n in networks]) for name in ("rating", "distance"))
    return coefficient("kendall", rating, distance, resamples)


def _held_out(networks: Sequence[AssembledNetwork], rng: np.random.Generator) -> dict[str, Estimate]:
    """Tau of summed and of corrected ratings, and their difference on the same resamples."""
    resamples = Resamples.draw(np.zeros(len(networks), dtype=np.int64), RESAMPLES, rng)
    distance = np.array([n.distance for n in networks])
    scores = {name: np.array([getattr(n, name) for n in networks]) for name in ("rating", "corrected")}
    found = {name: coefficient("kendall", score, distance, resamples) for name, score in scores.items()}
    plain, corrected = found["rating"].value, found["corrected"].value
    if plain is None or corrected is None:
        return {**found, "difference": Estimate(None, why="not defined")}
    apart = replicates("kendall", scores["corrected"], distance, resamples)
    apart = apart - replicates("kendall", scores["rating"], distance, resamples)
    low, high = np.nanquantile(apart, LEVELS)
    return {**found, "difference": Estimate(corrected - plain, float(low), float(high))}


def _paired(differences: Floats) -> Estimate:
    """Mean over batches with its 95 % interval; the same images for both, so what they share cancels."""
    mean = float(differences.mean())
    if len(differences) < 2:
        return Estimate(mean, why="no interval: one batch")
    half = TWO_SIDED_95 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def _verdict(correction: Correction, difference: Estimate, gain: Estimate | None) -> str:
    """What may be said of the correction, and no more."""
    if not correction.taken:
        return f"no correction: {correction.why}"
    ranks = _side(difference, "it ranks networks held out better", "it ranks networks held out worse")
    if gain is None:
        return f"{correction.why}; {ranks}; the search finds the same network with it"
    return f"{correction.why}; {ranks}; {_side(gain, 'the network found with it is better', 'the network found with it is worse')}"


def _side(estimate: Estimate, better: str, worse: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "whether it helps cannot be told"
    return better if estimate.low > 0 else worse if estimate.high < 0 else f"that {better} cannot be told"
