"""A ranking study of a run's own space: sample architectures by cost, train each by the run's recipe, compare with their ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dna_fast._files import read_json, write_json
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.study import Models
from dna_fast.study_sampling import Choice, cost_edges, per_bucket, stratified_sample
from dna_fast.study_scores import entropy
from dna_fast.tables import RatingTable

if TYPE_CHECKING:
    from dna_fast.display import Display
    from dna_fast.pipeline import Run
    from dna_fast.retrain_step import StepRecord

FORMAT, VERSION = "dna_fast.study_plan", 1
COST = "macs"


@dataclass(frozen=True)
class StudyPlan:
    """Which architectures a study trains.

    Args:
        edges: of the buckets of macs.
        choices: per bucket, the candidate indices of its architectures.
        seed: they were drawn with.
    """

    edges: tuple[int, ...]
    choices: tuple[tuple[Choice, ...], ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "cost": COST,
            "seed": self.seed,
            "edges": list(self.edges),
            "choices": [[list(choice) for choice in bucket] for bucket in self.choices],
        }


def draw_plan(run: Run, sample: int, buckets: int, seed: int, between: tuple[int, int] | None) -> StudyPlan:
    """The architectures that a study of a run trains; the same arguments give the same ones.

    Args:
        sample: at least how many; every bucket gets the same number.
        buckets: of macs.
        between: cheapest and dearest; default those of the space.
    """
    table = run.costs()
    edges = cost_edges(table, COST, buckets, between)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 1))))
    choices = stratified_sample(table, COST, edges, per_bucket(sample, buckets), rng)
    return StudyPlan(edges, tuple(tuple(bucket) for bucket in choices), seed)


def keep_plan(plan: StudyPlan, directory: Path) -> None:
    """Writes `plan.json`, or checks that the one that is there is the same: half a study is never mixed with another.

    Raises:
        ValueError: another plan.
    """
    path = directory / "plan.json"
    if path.exists() and read_json(path) != plan.to_dict():
        raise ValueError(
            f"{path}: a study of other architectures was begun here; give its --sample, --buckets, --between and --seed, or another --out"
        )
    write_json(path, plan.to_dict())


def train_study(run: Run, directory: Path, plan: StudyPlan, display: Display) -> Models:
    """Trains every architecture of a plan by the run's recipe, or reads what an interrupted study finished.

    Args:
        run: rated.
        directory: of the study; `plan.json` goes there, the networks to the run's `models/study_<number>`.

    Returns:
        The models: accuracy on the evaluation images beside summed rating, macs, params and entropy.

    Raises:
        ValueError: not rated, or the directory holds another plan.
    """
    from dna_fast.stages import prepare_teacher

    ratings_file = run.directory / "ratings.npz"
    if not ratings_file.exists():
        raise ValueError(f"{ratings_file}: not rated yet; run: dna-fast rate {run.directory}")
    ratings = RatingTable.load(ratings_file)
    keep_plan(plan, directory)
    choices = [choice for bucket in plan.choices for choice in bucket]
    teacher, accuracies = prepare_teacher(run, display), []
    architectures = [Architecture.from_space(run.space, choice) for choice in choices]
    with display.progress("study") as update:
        for number, arch in enumerate(architectures):

            def on_step(record: StepRecord, number: int = number) -> None:
                share = (number + record.step / record.total_steps) / len(architectures)
                update(number, len(architectures), f"loss {record.loss:.4f}", share)

            accuracies.append(run.retrain(arch, teacher, f"study_{number}", on_step).accuracy)
    return _models(run, plan, architectures, [accuracy.top1 for accuracy in accuracies], _summed(ratings, choices))


def _summed(ratings: RatingTable, choices: Sequence[Choice]) -> list[float]:
    blocks = ratings.losses()
    return [float(sum(block[i] for block, i in zip(blocks, choice, strict=True))) for choice in choices]


def _models(
    run: Run, plan: StudyPlan, architectures: Sequence[Architecture], top1: Sequence[float], ratings: Sequence[float]
) -> Models:
    costs = [architecture_cost(arch) for arch in architectures]
    scores = {
        "rating": ratings,
        "macs": [cost["macs"] for cost in costs],
        "params": [cost["params"] for cost in costs],
        "entropy": [entropy(arch) for arch in architectures],
    }
    columns = {name: np.array(values, dtype=np.float64) for name, values in scores.items()}
    remark = (
        f"one training run per network, seed {run.config.seed}; accuracies are of {len(run.images.evaluation)} images: their "
        "sampling error and the spread between training runs lower every agreement, and are not in the intervals"
    )
    return Models(
        title=f"{len(architectures)} networks of {run.space.name}, {run.config.retrain.epochs} epochs each",
        names=[f"study_{number}" for number in range(len(architectures))],
        truth_name="top1",
        truth=np.array(top1, dtype=np.float64),
        scores=columns,
        cost_name=COST,
        cost=columns[COST],
        lower_is_better=frozenset({"rating"}),
        remarks=(remark,),
        edges=tuple(float(edge) for edge in plan.edges),
    )
