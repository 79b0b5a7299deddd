"""A small run whose networks inherit the supernet's weights, by the command line."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_run import CONFIG

from dna_fast import cli
from dna_fast.architecture import Architecture
from dna_fast.export import load_model
from dna_fast.inherit import last_feature
from dna_fast.pipeline import Run
from dna_fast.retrain_inherited import Inheritance
from dna_fast.space import Frame

RETRAIN = {"epochs": 2, "head_epochs": 1, "random_baselines": 0, "largest": True}


def dna_fast(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dna-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, rated, searched and retrained with inherited weights; a published network beside it."""
    place = tmp_path_factory.mktemp("inherited")
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config["retrain"] |= RETRAIN
    (place / "small.yaml").write_text(yaml.safe_dump(config))
    directory = place / "run"
    assert dna_fast("train", place / "small.yaml", "--out", directory) == 0
    assert dna_fast("rate", directory) == 0
    assert dna_fast("search", directory) == 0
    assert dna_fast("retrain", directory, "--init", "inherited") == 0
    return directory


def training(run: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "models" / name / "training.json").read_text())
    return record


def test_every_network_of_the_space_inherits_alike(run: Path) -> None:
    names = {path.name for path in (run / "models").iterdir()}
    assert names == {"found_inherited", "largest_inherited"}
    for name in names:
        record = training(run, name)
        assert record["init"] == "inherited"
        # as many epochs in all as from scratch
        assert [len(record["head"]["history"]), len(record["history"])] == [1, 1]
        assert record["recipe"]["epochs"] == 1
    heads = [training(run, name)["head"]["accuracy"]["total"] for name in names]
    assert len(set(heads)) == 1


def test_the_found_network_is_a_plain_one_and_can_be_exported(run: Path, tmp_path: Path) -> None:
    model, arch = load_model(run / "models" / "found_inherited")
    assert arch == Architecture.load(run / "architecture.json")
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert dna_fast("export", run, "--model", "found_inherited", "--to", "safetensors", "--out", tmp_path / "out") == 0


def test_it_is_reproducible_and_a_finished_one_is_not_trained_again(run: Path) -> None:
    def weights() -> dict[str, torch.Tensor]:
        return load_model(run / "models" / "found_inherited")[0].state_dict()

    first, seconds = weights(), training(run, "found_inherited")["seconds"]
    assert dna_fast("retrain", run, "--init", "inherited", "--no-baselines", "--resume", "must") == 0
    assert training(run, "found_inherited")["seconds"] == seconds
    for checkpoint in (run / "fit").glob("found_inherited*"):
        checkpoint.unlink()
    assert dna_fast("retrain", run, "--init", "inherited", "--no-baselines", "--resume", "never") == 0
    again = weights()
    assert all(torch.equal(t, again[name]) for name, t in first.items())


def test_a_published_network_of_other_blocks_is_refused_before_anything_is_trained(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "fit").iterdir()}
    assert dna_fast("retrain", run, "--also", "efficientnet_b0", "--set", "retrain.feature_weight=1") == 2
    assert "the teacher is cut into 2 blocks, the network has 6" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (run / "fit").iterdir()} == before


@torch.no_grad()
def test_trained_blocks_together_are_nearer_to_the_teacher_than_initial_ones(run: Path) -> None:
    opened = Run.open(run)
    inheritance = Inheritance(opened, opened.teacher())
    arch = Architecture.load(run / "architecture.json")

    def distance() -> float:
        assembled, images = inheritance.assemble(arch), inheritance.calibration[0]
        got = assembled.out_adapter(last_feature(assembled.model, images))
        expected = inheritance.teacher(images)[-1]
        return float((got - expected).abs().mean() / expected.std())

    trained = distance()
    inheritance.supernet = opened.supernet(inheritance.teacher).eval()
    assert trained < 0.8 * distance()


@pytest.mark.slow
def test_a_recipe_and_published_networks_in_one_command(run: Path) -> None:
    keys = [
        f"retrain.{key}"
        for key in ("epochs=1", "warmup_epochs=0", "batch_size=64", "distill_weight=0.5", "head_epochs=1")
    ]
    sets = [part for key in keys for part in ("--set", key)]
    command = ("retrain", run, "--recipe", "stronger", "--no-baselines", "--also", "efficientnet_b0", *sets)
    assert dna_fast(*command) == 0
    for name in ("found_stronger", "efficientnet_b0_stronger"):
        recipe = training(run, name)["recipe"]
        assert (recipe["optimizer"], recipe["rand_augment"], recipe["epochs"]) == ("rmsproptf", 2, 1)
        assert recipe["lr"] == pytest.approx(0.256 * 64 / 4096)
    assert load_model(run / "models" / "efficientnet_b0_stronger")[1].frame == Frame(num_classes=10, resolution=32)


def test_what_cannot_be_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dna_fast("retrain", run, "--init", "inherited", "--set", "retrain.head_epochs=2") == 2
    assert "retrain.head_epochs: with inherited weights" in capsys.readouterr().err
    assert dna_fast("retrain", run, "--set", "train.epochs=3") == 2
    assert "expected a key of retraining" in capsys.readouterr().err
    assert dna_fast("retrain", run, "--recipe", "best") == 2
    assert "unknown recipe 'best'" in capsys.readouterr().err


# ---- beyond additivity ----------------------------------------------------------------------------------------------


def test_networks_are_assembled_and_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert dna_fast("assembled", run, "--top", 3, "--sample", 16, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    roles = [network["role"] for network in record["networks"]]
    assert [roles.count(role) for role in ("best", "fit", "held out", "corrected")] == [3, 8, 8, 1]
    assert record["networks"][0]["choice"] == list(Architecture.load(run / "architecture.json").candidates or ())
    assert record["gain"] is None or record["networks"][-1]["choice"] != record["networks"][0]["choice"]
    assert all(0 < network["distance"] < 10 for network in record["networks"])
    assert len({tuple(n["choice"]) for n in record["networks"] if n["role"] in ("fit", "held out")}) == 16
    assert record["agreement"]["sampled"]["low"] is not None
    assert record["correction"]["taken"] in (True, False)
    assert json.loads((run / "assembled" / "assembled.json").read_text()) == record
    # what was measured is not measured again, and the same study comes out
    measured = (run / "assembled" / "measurements.json").stat().st_mtime_ns
    assert dna_fast("assembled", run, "--top", 3, "--sample", 16, "--json") == 0
    assert json.loads(capsys.readouterr().out) == record
    assert (run / "assembled" / "measurements.json").stat().st_mtime_ns == measured


@torch.no_grad()
def test_a_distance_is_that_of_plain_code(run: Path) -> None:
    record = json.loads((run / "assembled" / "measurements.json").read_text())["distances"]
    key, distances = next(iter(record.items()))
    opened = Run.open(run)
    inheritance = Inheritance(opened, opened.teacher())
    found = inheritance.assemble(Architecture.from_space(opened.space, tuple(map(int, key.split("-")))))
    batch = next(iter(opened.images.loader(opened.images.evaluation, 64, training=False).epoch(0))).images
    target = inheritance.teacher(batch)[-1]
    got = found.out_adapter(last_feature(found.model, batch))
    assert distances[0] == pytest.approx(float((got - target).abs().mean() / target.std()), rel=1e-5)


@pytest.mark.slow
def test_a_small_comparison_end_to_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert dna_fast("compare", run, "--randoms", 1, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    roles = {network["role"] for network in record["networks"]}
    assert {"found", "uniform", "largest"} <= roles
    assert all(network[init] for network in record["networks"] for init in ("scratch", "head", "inherited"))
    assert (run / "comparison" / "comparison.png").exists()
