"""The shipped configurations run end to end on images made here: small sets, few steps, random or briefly trained teachers."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvidia.dali", reason="needs DALI")

from PIL import Image

from dna_fast import cli
from dna_fast.data.cifar10 import PARTS
from dna_fast.space import preset

ROOT = Path(__file__).resolve().parents[1]
# Every block keeps a cell of one layer: what a few images can train and rate in minutes.
SHALLOW = [
    {"stride": block.stride, "cells": [{"depth": 1, "width": block.cells[0].width}]} for block in preset("dna").blocks
]


def run(command: str, *more: str) -> None:
    """A dna-fast command in this process; it must end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dna-fast", *command.split(), *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert (stop.value.code or 0) == 0, command


def overrides(**keys: object) -> list[str]:
    return [word for key, value in keys.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def _photographs(folder: Path) -> Path:
    """Two classes of JPEGs of many sizes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                coarse = rng.integers(0, 256, (12, 15, 3), np.uint8)
                image = Image.fromarray(coarse).resize((int(rng.integers(240, 400)), 260), Image.Resampling.BICUBIC)
                image.save(folder / part / name / f"{k:02}.jpg")
    return folder


@pytest.mark.slow
def test_imagenet_b7_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = preset("dna").to_dict() | {"name": "shallow", "blocks": SHALLOW}
    space["frame"]["num_classes"] = 2
    (tmp_path / "space.json").write_text(json.dumps(space))
    place, out = _photographs(tmp_path / "photos"), tmp_path / "run"
    given = overrides(
        **{
            "data.root": str(place),
            "data.device": "cpu",
            "space": str(tmp_path / "space.json"),
            "teacher.pretrained": False,
            "train.epochs": 2,
            "train.batch_size": 4,
            "train.bn_group": 4,
            "rate.images": 4,
            "rate.batch_size": 4,
            "rate.calibration_images": 4,
            "retrain.epochs": 1,
            "retrain.warmup_epochs": 0,
            "retrain.batch_size": 8,
            "retrain.random_baselines": 0,
            "retrain.largest": False,
        }
    )
    run("train", str(ROOT / "configs" / "imagenet_b7.yaml"), "--out", str(out), "--profile", *given)
    assert "random weights" in capsys.readouterr().out
    trace = json.loads((out / "logs" / "profile" / "train.pt.trace.json").read_text())
    assert any(event.get("name") == "dna_fast::mbconv" for event in trace["traceEvents"])
    with (out / "logs" / "supernet.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)  # of 10 steps
    assert sum(float(value) for name, value in row.items() if name.startswith("share_")) == pytest.approx(1, abs=5e-4)
    assert float(row["loss_5_0"]) > 0
    run(f"rate {out}")
    run(f"search {out} --max macs=460M")
    run(f"retrain {out}")
    assert (out / "models" / "found" / "model.safetensors").exists()


@pytest.mark.slow
def test_cifar10_runs_end_to_end_from_the_binary_version(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "bin").mkdir()
    for name in (name for names in PARTS.values() for name in names):
        records = rng.integers(0, 256, (60, 3073), np.uint8)
        records[:, 0] = np.arange(60) % 10
        records.tofile(tmp_path / "bin" / name)
    run(f"data cifar10 {tmp_path / 'bin'} --out {tmp_path / 'cifar10'}")
    out = tmp_path / "run"
    given = overrides(
        **{
            "data.root": str(tmp_path / "cifar10"),
            "teacher.fit.epochs": 1,
            "teacher.fit.warmup_epochs": 0,
            "teacher.fit.batch_size": 32,
            "teacher.fit.min_accuracy": 0,
            "train.epochs": 1,
            "train.batch_size": 64,
            "rate.images": 32,
            "rate.batch_size": 32,
            "rate.calibration_images": 32,
            "search.max": {"macs": "teacher/2"},
            "retrain.epochs": 1,
            "retrain.warmup_epochs": 0,
            "retrain.batch_size": 32,
            "retrain.random_baselines": 0,
            "retrain.largest": False,
        }
    )
    run("train", str(ROOT / "configs" / "cifar10.yaml"), "--out", str(out), *given)
    run(f"rate {out}")
    run(f"search {out}")
    run(f"retrain {out}")
    assert json.loads((out / "models" / "found" / "training.json").read_text())["accuracy"]["total"] == 60
