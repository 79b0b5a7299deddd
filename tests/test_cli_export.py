"""`dna-fast export`: what it takes, what it says, and where it stops."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from exported import ARCHITECTURES, saved, wrongly
from small_run import CONFIG

from dna_fast import cli
from dna_fast.architecture import Architecture
from dna_fast.export_check import expect
from dna_fast.export_job import export
from dna_fast.export_source import digit_images, find_source
from dna_fast.pipeline import Run


def run_cli(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dna-fast", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the files that exporting reads, without the training that leaves them."""
    place = tmp_path_factory.mktemp("run")
    (place / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    opened = Run.start(place / "small.yaml", place / "digits")
    directory = place / "digits" / "models" / "found"
    saved(Architecture.from_space(opened.space, [1, 2], name="small-1-2"), directory)
    (directory / "training.json").write_text(json.dumps({"accuracy": {"correct": 350, "total": 360}}))
    return place / "digits"


def test_a_run_brings_its_images_and_what_they_were_normalised_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(run, "--to", "safetensors,timm", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "safetensors: architecture.json, model.safetensors; off by " in said.out
    assert said.err == ""
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["weights"] == "trained"
    assert record["preprocessing"] == {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert record["accuracy"] == {"correct": 350, "total": 360}
    assert record["checked_on"]["real"] == f"evaluation images of {run}"
    config = json.loads((tmp_path / "out" / "timm" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.5] * 3
    assert config["label_names"] == record["classes"]


def test_a_model_of_a_run_is_known_by_its_directory(run: Path) -> None:
    assert find_source(str(run / "models" / "found")).preprocessing == find_source(str(run)).preprocessing is not None


def test_random_weights_are_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ARCHITECTURES["fractional-same-stem1"].save(tmp_path / "arch.json")
    assert run_cli(tmp_path / "arch.json", "--to", "safetensors", "--out", tmp_path / "out", "--json") == 0
    said = capsys.readouterr()
    assert "RANDOM" in said.err
    assert json.loads(said.out)["weights"] == "random"
    assert find_source(str(tmp_path / "out")).weights == "random"  # and stay so


def test_a_failed_check_ends_with_exit_code_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dna_fast.export_job.expect", lambda *_: expect(wrong, {"real": digit_images(32)}))
    wrong = wrongly(find_source(str(run)).model, "weight")
    assert run_cli(run, "--to", "safetensors", "--out", tmp_path) == 2
    assert "the file was not kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nothing", "--to", "onnx"],
            r"expected a run directory, .* or one of dna_a, .*; got 'nothing', which is none",
        ),
        (["dna_a", "--to", "tflite"], "--to: expected some of timm, torch-export, onnx, safetensors, .*; got 'tflite'"),
        (["dna_a", "--to", ""], "--to: expected some of timm"),
        (["dna_a", "--to", "timm", "--opset", "18"], "--opset 18: goes with --to onnx, and --to is timm"),
        (["dna_a", "--to", "timm", "--model", "found"], "--model found: goes with a run directory, and dna_a is none"),
        (
            ["RUN", "--to", "timm", "--model", "best"],
            r"models/best: no such model in this run, it has found \(--model NAME\)",
        ),
        (["EMPTY", "--to", "timm"], "architecture.json: no such file"),
        (["RUN/config.yaml", "--to", "timm"], "which is none of them"),
        (["missing.json", "--to", "timm"], "missing.json: no such file"),
        (["ARCH", "--to", "onnx", "--opset", "17"], "--opset: expected one from 18, the oldest .*; got 17"),
    ],
    ids=["source", "format", "no-format", "opset", "model", "unknown-model", "empty", "file", "missing", "old-opset"],
)
def test_wrong_input_is_one_message(
    run: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ARCHITECTURES["fractional-same-stem1"].save(tmp_path / "arch.json")
    (tmp_path / "empty").mkdir()
    known = {
        "RUN": run,
        "EMPTY": tmp_path / "empty",
        "ARCH": tmp_path / "arch.json",
        "RUN/config.yaml": run / "config.yaml",
    }
    assert run_cli(*(known.get(a, a) for a in arguments), "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()  # and so what an earlier export left is not removed, either


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else there(name))
    source = find_source(str(saved(ARCHITECTURES["fractional-same-stem1"], tmp_path / "saved")))
    with pytest.raises(RuntimeError, match=r"needs onnxruntime, .* pip install 'dna_fast\[onnx\]'"):
        export(source, ["safetensors", "onnx"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
