"""One small run from end to end through the command line, and what goes wrong on the way."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from small_run import CONFIG

from dna_fast import cli
from dna_fast.architecture import Architecture
from dna_fast.config import load_config, shipped_config
from dna_fast.cost import architecture_cost
from dna_fast.export import load_model
from dna_fast.images import RunImages
from dna_fast.pipeline import Run
from dna_fast.space import preset
from dna_fast.stages import baseline_architectures
from dna_fast.tables import CostTable, RatingTable
from dna_fast.train import Trainer


def _dna_fast(*arguments: object, expect: int = 0, capsys: pytest.CaptureFixture[str] | None = None) -> str:
    """Runs the command line in this process; its standard output, or standard error where a failure is expected."""
    old, sys.argv = sys.argv, ["dna-fast", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = old
    captured = capsys.readouterr() if capsys else None
    assert (stop.value.code or 0) == expect, captured
    return "" if captured is None else (captured.err if expect == 2 else captured.out)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "small"
    _dna_fast("train", config, "--out", directory)
    _dna_fast("rate", directory)
    _dna_fast("search", directory)
    _dna_fast("retrain", directory)
    return directory


def test_the_run_leaves_what_semantics_promises(run: Path) -> None:
    for name in ("config.yaml", "teacher.json", "splits.npz", "supernet/state.json", "ratings.npz", "costs.npz"):
        assert (run / name).exists(), name
    for name in (
        "search.json",
        "architecture.json",
        "models/found/model.safetensors",
        "models/largest/training.json",
        "front.png",
    ):
        assert (run / name).exists(), name
    ratings = RatingTable.load(run / "ratings.npz")
    assert [len(block) for block in ratings.blocks] == [2 + 4, 4 + 2]
    assert ratings.metadata["mode"] == "trie"
    assert ratings.metadata["teacher_cuts"] == ["blocks.1", "blocks.2"]
    assert ratings.metadata["rated_images"] == 128


def test_the_winner_is_the_best_by_brute_force(run: Path) -> None:
    ratings, costs = RatingTable.load(run / "ratings.npz").losses(), CostTable.load(run / "costs.npz")
    limit = int(json.loads((run / "teacher.json").read_text())["macs"] / 1.1)
    every = [(ratings[0][a] + ratings[1][b], (a, b)) for a in range(6) for b in range(6)]
    allowed = sorted((loss, choice) for loss, choice in every if costs.total(choice)["macs"] <= limit)
    assert 0 < len(allowed) < 36, "the budget of this test should bind"
    found = json.loads((run / "search.json").read_text())
    assert found["status"] == "optimal"
    assert [tuple(s["candidates"]) for s in found["solutions"]] == [choice for _, choice in allowed[:3]]


def test_the_retrained_model_is_the_architecture(run: Path) -> None:
    model, arch = load_model(run / "models" / "found")
    assert arch == Architecture.load(run / "architecture.json")
    assert isinstance(model, timm.models.EfficientNet)
    assert sum(p.numel() for p in model.parameters()) == architecture_cost(arch)["params"]
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_rated_images_are_held_out_of_training_and_balanced(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, seen = Run.open(run), []
    monkeypatch.setattr(Trainer, "run", lambda self, loader, on_progress=None: seen.extend(loader.index.files))
    opened.train(opened.teacher())
    images = opened.images
    rated, calibrating = ({images.train.files[i] for i in images.splits[n]} for n in ("rating", "calibration"))
    assert len(rated) == 128
    assert len(calibrating) == 100
    assert not rated & calibrating
    assert set(seen) == set(images.train.files) - rated
    counts = np.bincount(images.train.labels[images.splits["rating"]])
    assert counts.max() - counts.min() <= 1


def test_a_teacher_read_from_its_file_computes_as_the_one_just_trained(tmp_path: Path) -> None:
    """Layouts of weights choose kernels, and kernels differ in the last bit: a resumed run would drift from an uninterrupted one."""
    overrides = ["teacher.fit.epochs=1", "teacher.fit.warmup_epochs=0", "teacher.fit.min_accuracy=0"]
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    fresh = Run.start(shipped_config("digits"), tmp_path / "run", overrides).teacher()(images)
    again = Run.open(tmp_path / "run").teacher()(images)
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True))


@pytest.mark.parametrize(
    ("model", "mean", "crop_pct"),
    [
        ("tf_efficientnet_b7.ap_in1k", 0.5, 0.949),
        ("tf_efficientnet_b7.aa_in1k", 0.485, 0.949),
        ("resnet50.a1_in1k", 0.485, 0.95),
    ],
)
def test_images_are_normalised_as_the_teacher_was_trained(
    model: str, mean: float, crop_pct: float, tmp_path: Path
) -> None:
    config = load_config(shipped_config("digits"), [f"teacher.model={model}", "teacher.arch=null", "teacher.fit=null"])
    statistics = RunImages(tmp_path, config).statistics
    assert statistics["mean"][0] == mean
    assert statistics["crop_pct"] == crop_pct


def test_every_stage_leaves_its_log_and_its_record(run: Path) -> None:
    logs = {
        path.relative_to(run / "logs").as_posix(): list(csv.DictReader(path.read_text().splitlines()))
        for path in run.glob("logs/**/*.csv")
    }
    models = {path.name for path in (run / "models").iterdir()}
    assert set(logs) == {"supernet.csv", "teacher.csv", "rating.csv", *(f"models/{m}.csv" for m in models)}
    steps = [int(row["step"]) for row in logs["supernet.csv"]]
    assert steps == list(range(10, steps[-1] + 1, 10))
    history = json.loads((run / "supernet" / "state.json").read_text())["kept"][0]["measured"]["history"]
    rows = [row for row in logs["supernet.csv"] if row["epoch"] == "1"]
    for b in range(2):
        losses = [float(row[f"loss_{b}"]) for row in rows]
        assert min(losses) < history[1]["losses"][b] < max(losses)  # means of ten steps around the epoch's
    assert logs["rating.csv"][-1]["paths"] == logs["rating.csv"][-1]["total_paths"] == "12"
    records = json.loads((run / "provenance.json").read_text())
    assert set(records) == {"teacher", "train", "rate", "search", *(f"retrain/{m}" for m in models)}
    assert records["teacher"]["command"][1] == "train"  # later stages found it trained
    assert {records[stage]["torch"].split("+")[0] for stage in records} == {torch.__version__.split("+")[0]}


def test_quiet_and_verbose_anywhere_on_the_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = _dna_fast("search", run, "--max", "macs=1G", "--out", tmp_path, capsys=capsys)
    for quiet in (("-q", "search"), ("search", "--quiet")):
        answer = _dna_fast(*quiet, run, "--max", "macs=1G", "--out", tmp_path, capsys=capsys)
        assert answer.splitlines()[1:-1] == usual.splitlines()[1:-1]  # the answer itself; its last line has a time
    copy = _copy(run, tmp_path)
    assert _dna_fast("rate", copy, "-q", capsys=capsys) == ""
    assert "candidates rated" in _dna_fast("rate", copy, capsys=capsys)
    assert "operator_1.npy written" not in capsys.readouterr().err
    _dna_fast("rate", "-vv", copy)
    assert "operator_1.npy written: 1 paths rated" in capsys.readouterr().err


def test_a_second_search_and_retraining_in_the_same_run(run: Path, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    first = Architecture.load(copy / "architecture.json")
    _dna_fast("search", copy, "--min", f"macs={architecture_cost(first)['macs'] + 1}")
    _dna_fast("retrain", copy)
    second = load_model(copy / "models" / "found")[1]
    assert second == Architecture.load(copy / "architecture.json")
    assert second.candidates != first.candidates


def test_baselines_have_the_winners_macs_and_are_other_networks(run: Path) -> None:
    opened = Run.open(run)
    winner = Architecture.from_space(opened.space, (5, 5))
    opened.config = replace(opened.config, retrain=replace(opened.config.retrain, random_baselines=3))
    found = baseline_architectures(opened, winner)
    macs = architecture_cost(winner)["macs"]
    randoms = [arch for name, arch in found.items() if name.startswith("random")]
    assert len({arch.candidates for arch in randoms} | {winner.candidates}) == len(randoms) + 1
    assert all(abs(architecture_cost(arch)["macs"] - macs) <= 0.01 * macs for arch in randoms)
    costs = opened.costs()
    assert architecture_cost(found["largest"])["macs"] == max(
        costs.total((a, b))["macs"] for a in range(6) for b in range(6)
    )


def test_search_as_json_with_other_bounds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _dna_fast("search", run, "--max", "params=10k", "--top", 1, "--json", "--out", tmp_path, capsys=capsys)
    answer = json.loads(text)
    assert answer["bounds"] == {"params": [None, 10000]}
    assert answer["solutions"][0]["costs"]["params"] <= 10000
    assert Architecture.load(tmp_path / "architecture.json").candidates == tuple(answer["solutions"][0]["candidates"])


def test_search_from_files_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _dna_fast("search", "--ratings", run / "ratings.npz", "--max", "macs=1G", capsys=capsys)
    assert "optimal: relative_l1 under macs <= 1,000,000,000" in text
    assert "1x8" in text or "2x10" in text


def test_search_writes_the_front_and_draws_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = tmp_path / "front.csv", tmp_path / "front.png"
    files = ("--front", table, "--plot", picture, "--out", tmp_path)
    text = _dna_fast("search", run, "--max", "params=10k", "--top", 3, *files, capsys=capsys)
    header, *rows = csv.reader(table.read_text(encoding="utf-8").splitlines())
    assert header[:4] == ["relative_l1", "params", "block0", "block0_layers_x_width_operators"]
    assert f"{len(rows)} points" in text
    costs, ratings = CostTable.load(run / "costs.npz"), RatingTable.load(run / "ratings.npz")
    everything = list(itertools.product(range(6), range(6)))
    losses = {choice: sum(b[i] for b, i in zip(ratings.losses(), choice, strict=True)) for choice in everything}
    totals = {choice: costs.total(choice)["params"] for choice in everything}
    kept = {
        (totals[c], losses[c])
        for c in everything
        if not any(
            totals[o] <= totals[c] and losses[o] <= losses[c] and (totals[o], losses[o]) != (totals[c], losses[c])
            for o in everything
        )
    }
    assert {(int(row[1]), float(row[0])) for row in rows} == kept
    assert all(totals[int(row[2]), int(row[4])] == int(row[1]) for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_search_keeps_to_rules_and_explains(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = json.loads(_dna_fast("search", run, "--max", "macs=1G", "--json", "--out", tmp_path, capsys=capsys))
    best = free["solutions"][0]["blocks"][0]
    rule = f"0:{best.replace(' ', ':')}"
    costs = CostTable.load(run / "costs.npz")
    totals = sorted(costs.total(choice)["macs"] for choice in itertools.product(range(6), range(6)))
    bound = f"macs={totals[27]}"
    options = ("--forbid", rule, "--apart", 2, "--top", 3, "--explain", "--json", "--out", tmp_path)
    ruled = json.loads(_dna_fast("search", run, "--max", bound, *options, capsys=capsys))
    found = [s["candidates"] for s in ruled["solutions"]]
    assert len(found) == 3
    assert best not in [s["blocks"][0] for s in ruled["solutions"]]
    assert all(a != b for x, y in itertools.combinations(found, 2) for a, b in zip(x, y, strict=True))
    assert any(line.startswith("macs: ") for line in ruled["explanation"])


def test_an_impossible_budget_says_what_would_do(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = _dna_fast("search", run, "--max", "macs=1k", "--out", tmp_path, expect=1, capsys=capsys)
    costs = CostTable.load(run / "costs.npz")
    smallest = min(costs.total((a, b))["macs"] for a in range(6) for b in range(6))
    assert f"the smallest feasible bound is {smallest:,}" in text


def test_an_infeasible_search_leaves_no_architecture_and_strict_json(run: Path, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path)
    _dna_fast("search", copy, "--max", "macs=1k", expect=1)
    assert not (copy / "architecture.json").exists()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads((copy / "search.json").read_text(), parse_constant=refuse)
    assert (found["status"], found["bound"], found["solutions"]) == ("infeasible", None, [])


def test_cost_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    costs = json.loads(_dna_fast("cost", "--model", "dna_c", "--json", capsys=capsys))
    assert (costs["params"], costs["macs"], costs["macs_official"]) == (5273896, 450138976, 465909920)


def test_info_names_what_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(_dna_fast("info", "--json", capsys=capsys))
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["solver (dna_fast._solver)"].startswith("built")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rate", "{tmp}"], "not a run directory"),
        (["rate", "{run}", "--max-memory", "4GB"], "--max-memory: expected a number"),
        (["rate", "{run}", "--max-memory", "0"], "max_memory_bytes must be > 0"),
        (["search", "{tmp}"], "not a run directory"),
        (["search"], "give a run directory, or --ratings FILE"),
        (["search", "{run}", "--max", "mac=1M"], "no cost 'mac'; did you mean 'macs'"),
        (["search", "{run}", "--max", "macs"], "expects COST=BOUND such as macs=460M, got 'macs'"),
        (["search", "{run}", "--max", "macs=many"], "bound of macs: expected a number"),
        (["search", "--ratings", "{tmp}/none.npz"], "no such file"),
        (["train", "{config}"], "--out: expected a run directory"),
        (["train", "{config}", "--out", "{run}", "--set", "train.epochs=3"], "train.epochs is 2 there and 3 here"),
        (["train", "{config}", "--out", "{run}", "--set", "rate.batch_size=32"], "rate.batch_size is 64 there and 32"),
        (["search", "{run}", "--max", "macs=1M", "--max", "macs=2M"], "--max gives macs twice (1M and 2M)"),
        (["train", "{config}", "--out", "{tmp}/x", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["cost"], "give either a run directory or --model"),
        (["cost", "--model", "dna_e"], "did you mean 'dna_"),
        (["retrain", "{run}", "--arch", "{tmp}/none.json"], "no architecture yet"),
    ],
    ids=lambda value: "_".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_input(
    arguments: list[str], message: str, run: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [a.format(tmp=tmp_path, run=run, config=config) for a in arguments]
    error = _dna_fast(*filled, expect=2, capsys=capsys)
    assert message in error
    assert "Traceback" not in error


def test_an_image_folder_with_a_timm_teacher_and_wide_boundaries(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command is a process of its own for the user, so nothing may depend on what an earlier one drew at random."""
    space = preset("digits").to_dict() | {
        "blocks": [{"stride": 2, "cells": [{"depth": 1, "width": w}]} for w in (8, 12, 16)]
    }
    changes = {
        "space": {**space, "choices": space["choices"][:2]},
        "data": {"kind": "folder", "root": str(run / "digits"), "eval_dir": "test"},
        "teacher": {"model": "tf_efficientnet_b0.in1k", "pretrained": False},
        "supernet": {"boundary": "wide"},
        "train": {**CONFIG["train"], "epochs": 1},
        "retrain": {**CONFIG["retrain"], "distill_weight": 0.0, "amp_dtype": "bfloat16"},
    }
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    text = _dna_fast("train", tmp_path / "folder.yaml", "--out", tmp_path / "run", capsys=capsys)
    assert "random weights" in text
    torch.manual_seed(123)
    _dna_fast("rate", tmp_path / "run")
    _dna_fast("search", tmp_path / "run", "--max", "macs=1G")
    _dna_fast("retrain", tmp_path / "run")
    assert RatingTable.load(tmp_path / "run" / "ratings.npz").metadata["boundary"] == "wide"


def _copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_supernet_that_is_not_trained_is_not_rated(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copy(run, tmp_path)
    shutil.rmtree(copy / "supernet")
    assert "is not trained yet; run: dna-fast train" in _dna_fast("rate", copy, expect=2, capsys=capsys)


def test_other_images_than_the_run_began_with_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copy(run, tmp_path)
    with np.load(copy / "splits.npz") as stored:
        np.savez(copy / "splits.npz", **{**stored, "fingerprint": np.array("0" * 64)})
    assert "not those this run began with" in _dna_fast("rate", copy, expect=2, capsys=capsys)


def test_another_teacher_than_the_run_began_with_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copy(run, tmp_path)
    record = json.loads((copy / "teacher.json").read_text())
    (copy / "teacher.json").write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    assert "teacher: it is not the one this run began with" in _dna_fast("rate", copy, expect=2, capsys=capsys)


def test_a_damaged_table_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = _copy(run, tmp_path)
    (copy / "ratings.npz").write_bytes((copy / "ratings.npz").read_bytes()[:500])
    assert "ratings.npz: cannot be read as a table" in _dna_fast("search", copy, expect=2, capsys=capsys)


def test_a_teacher_that_does_not_match_the_space_is_shown(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "train",
        config,
        "--out",
        tmp_path / "x",
        "--set",
        "teacher.cuts=[blocks.0, blocks.2]",
    )
    error = _dna_fast(*arguments, expect=2, capsys=capsys)
    assert "a teacher whose cuts do not match the space" in error
    assert "8x16x16 (blocks.0)" in error
    assert "8x8" in error
    assert not (tmp_path / "x" / "fit").exists(), "the teacher was trained before its cuts were checked"


def test_classes_that_the_costs_do_not_count_are_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = {**CONFIG["space"]["frame"], "num_classes": 12}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**CONFIG, "space": {**CONFIG["space"], "frame": frame}}))
    error = _dna_fast("train", other, "--out", tmp_path / "x", expect=2, capsys=capsys)
    assert "the images have 10 classes, the space counts costs for a classifier of 12" in error


def test_ctrl_c_saves_says_how_to_go_on_and_changes_nothing(run: Path, config: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dna_fast",
        "train",
        str(config),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "train.epochs=4",
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    whole = subprocess.run(
        [*command[:-3], str(tmp_path / "whole"), *command[-2:]], env=env, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run" / "supernet" / "state.json"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:  # the first epoch is done
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert "dna-fast train" in err
    stopped = json.loads(state.read_text())["kept"][0]["position"]
    assert 0 < stopped["step"] < 4 * 20
    subprocess.run(command, env=env, check=True, capture_output=True)
    for name in ("block_0.safetensors", "block_1.safetensors"):
        ours, theirs = (max((tmp_path / d / "supernet").glob(f"step_*/{name}")) for d in ("run", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name
