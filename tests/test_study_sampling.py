"""Stratified sampling: uniform within buckets of cost, seeded, and a study of a run's own space from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import chisquare
from small_run import CONFIG

from dna_fast import cli
from dna_fast.cost import cheapest_cost, cost_table
from dna_fast.display import Display
from dna_fast.pipeline import Run
from dna_fast.recipe import Accuracy
from dna_fast.space import SearchSpace
from dna_fast.study import study
from dna_fast.study_plan import draw_plan, train_study
from dna_fast.study_sampling import cost_edges, stratified_sample
from dna_fast.tables import RatingTable

SPACE = SearchSpace.from_dict(CONFIG["space"])
TABLE = cost_table(SPACE)
ALL = list(product(*(range(SPACE.num_candidates(b)) for b in range(len(SPACE.blocks)))))
MACS = {choice: TABLE.total(choice)["macs"] for choice in ALL}


def rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def bucket_of(choice: tuple[int, ...], edges: tuple[int, ...]) -> int:
    last = len(edges) - 2
    return next(i for i in range(last + 1) if edges[i] <= MACS[choice] < edges[i + 1] + (i == last))


def test_the_cheapest_is_the_cheapest() -> None:
    assert cheapest_cost(TABLE, "macs") == min(MACS.values())


def test_edges_are_of_one_ratio_and_hold_the_whole_space() -> None:
    edges = cost_edges(TABLE, "macs", 4)
    assert (edges[0], edges[-1]) == (min(MACS.values()), max(MACS.values()))
    ratios = [high / low for low, high in pairwise(edges)]
    assert max(ratios) / min(ratios) == pytest.approx(1, abs=8 / edges[0])  # edges are rounded to whole macs


def test_every_bucket_gets_its_number_of_different_architectures() -> None:
    edges = cost_edges(TABLE, "macs", 3)
    sample = stratified_sample(TABLE, "macs", edges, 4, rng(0))
    assert [len(bucket) for bucket in sample] == [4, 4, 4]
    for i, bucket in enumerate(sample):
        assert len(set(bucket)) == 4
        assert {bucket_of(choice, edges) for choice in bucket} == {i}


def test_a_bucket_can_be_drawn_to_the_last_and_ends_below_its_upper_edge() -> None:
    """The edge between two buckets is an architecture's own cost: it belongs to the upper one."""
    costs = sorted(set(MACS.values()))
    edges = (costs[0], costs[6], costs[13])
    members = [
        {choice for choice in ALL if costs[0] <= MACS[choice] < costs[6]},
        {choice for choice in ALL if costs[6] <= MACS[choice] <= costs[13]},
    ]
    fewest = min(map(len, members))
    sample = stratified_sample(TABLE, "macs", edges, fewest, rng(6))
    assert all(set(bucket) <= all_of_it for bucket, all_of_it in zip(sample, members, strict=True))
    assert any(set(bucket) == all_of_it for bucket, all_of_it in zip(sample, members, strict=True))


def test_a_sample_repeats_with_its_seed() -> None:
    edges = cost_edges(TABLE, "macs", 3)
    first, again, other = (stratified_sample(TABLE, "macs", edges, 3, rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_draws_are_uniform_within_a_bucket() -> None:
    """Every architecture of the bucket is as often the first one drawn; chi-squared at a level of 1 in 1000."""
    edges = cost_edges(TABLE, "macs", 3)
    members = sorted(choice for choice in ALL if bucket_of(choice, edges) == 1)
    draw, draws = rng(3), 20 * len(members)
    counts = Counter(stratified_sample(TABLE, "macs", edges, 1, draw)[1][0] for _ in range(draws))
    assert set(counts) <= set(members)
    assert chisquare([counts[member] for member in members]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None), "expected at least one bucket"),
        ((2, (5, 5)), "macs must range from a positive number to a greater one, got 5 to 5"),
        ((9, (10, 12)), "narrower than one unit"),
    ],
    ids=["none", "empty", "narrow"],
)
def test_buckets_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost_edges(TABLE, "macs", *arguments)


def test_a_bucket_with_too_few_architectures_is_named() -> None:
    with pytest.raises(ValueError, match=r"bucket 0 \(macs from .* holds no 5000 architectures"):
        stratified_sample(TABLE, "macs", cost_edges(TABLE, "macs", 1), 5000, rng(4))


# ---- a study of a run, with training replaced -----------------------------------------------------------------------


class TrainedElsewhere(Run):
    """A rated run whose networks are trained in no time: the more macs, the more of 1000 images are answered."""

    images = SimpleNamespace(evaluation=range(1000))

    def retrain(self, arch: Any, teacher: Any, name: str, on_step: Any = None) -> Any:
        on_step(SimpleNamespace(step=1, total_steps=1, loss=0.5))
        return SimpleNamespace(accuracy=Accuracy(MACS[arch.candidates] % 997, 1000))


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("dna_fast.stages.prepare_teacher", lambda run, display: None)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    return TrainedElsewhere.start(tmp_path / "small.yaml", tmp_path / "run")


def test_a_plan_is_sampled_trained_and_joined_with_its_ratings(untrained: Run) -> None:
    losses = [rng(b).random(SPACE.num_candidates(b)) for b in range(2)]
    RatingTable.from_losses(SPACE, losses).save(untrained.directory / "ratings.npz")
    plan = draw_plan(untrained, 11, 3, 7, None)
    models = train_study(untrained, untrained.directory / "study", plan, Display())
    choices = [choice for bucket in plan.choices for choice in bucket]
    assert len(choices) == 12  # four of each bucket are the fewest that make 11
    assert models.cost.tolist() == [MACS[choice] for choice in choices]
    assert models.truth.tolist() == [MACS[choice] % 997 / 1000 for choice in choices]
    assert models.scores["rating"].tolist() == [losses[0][a] + losses[1][b] for a, b in choices]
    assert [set(bucket.models) for bucket in study(models, rng(0)).buckets] == [
        {0, 1, 2, 3},
        {4, 5, 6, 7},
        {8, 9, 10, 11},
    ]
    other = draw_plan(untrained, 11, 3, 8, None)
    with pytest.raises(ValueError, match="a study of other architectures was begun here"):
        train_study(untrained, untrained.directory / "study", other, Display())


def test_a_run_that_is_not_rated_is_not_studied(untrained: Run) -> None:
    with pytest.raises(ValueError, match="not rated yet; run: dna-fast rate"):
        train_study(untrained, untrained.directory / "study", draw_plan(untrained, 3, 1, 0, None), Display())


# ---- a whole run -----------------------------------------------------------------------------------------------


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dna-fast", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("study")
    (place / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        assert run("train", place / "small.yaml", "--out", place / "run", monkeypatch=patch) == 0
        assert run("rate", place / "run", monkeypatch=patch) == 0
    return place / "run"


@pytest.mark.slow
def test_a_run_is_studied_and_goes_on_where_it_stopped(
    rated: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    pytest.importorskip("matplotlib")
    directory = tmp_path / "run"
    shutil.copytree(rated, directory)
    command = ("study", directory, "--sample", 3, "--buckets", 1, "--json")

    trained = []
    from dna_fast.pipeline import Run

    whole = Run.retrain

    def stopping(self: Any, arch: Any, teacher: Any, name: str, on_step: Any = None) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(name)
        return whole(self, arch, teacher, name, on_step)

    monkeypatch.setattr(Run, "retrain", stopping)
    assert run(*command, monkeypatch=monkeypatch) == 130
    plan = json.loads((directory / "study" / "plan.json").read_text())
    before = (directory / "models" / "study_0" / "training.json").read_bytes()

    monkeypatch.setattr(Run, "retrain", whole)
    capsys.readouterr()
    assert run(*command, monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((directory / "study" / "plan.json").read_text()) == plan
    assert (directory / "models" / "study_0" / "training.json").read_bytes() == before
    assert [model["name"] for model in found["models"]] == ["study_0", "study_1", "study_2"]
    assert [model["macs"] for model in found["models"]] == [MACS[tuple(choice)] for choice in plan["choices"][0]]
    assert {agreement["score"] for agreement in found["agreements"]} == {"rating", "macs", "params", "entropy"}
    for model, choice in zip(found["models"], plan["choices"][0], strict=True):
        with np.load(directory / "ratings.npz") as ratings:
            expected = sum(ratings[f"block_{b}"]["relative_l1"][i] for b, i in enumerate(choice))
        assert model["rating"] == pytest.approx(expected, rel=1e-12)

    assert run(*command, "--seed", 1, monkeypatch=monkeypatch) == 2
    assert "a study of other architectures was begun here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_needs_a_sample_and_ratings(rated: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run("study", rated, monkeypatch=monkeypatch) == 2
    assert "--sample says how many" in capsys.readouterr().err
    shutil.copytree(rated, tmp_path / "run", ignore=shutil.ignore_patterns("ratings.npz"))
    assert run("study", tmp_path / "run", "--sample", 4, monkeypatch=monkeypatch) == 2
    assert "not rated yet" in capsys.readouterr().err
