"""`torchrun -m dna_fast`: ranks train and rate one run, the first talks, and whatever launcher or user do, no bit is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import yaml
from small_run import CONFIG
from zygote import ROOT, zygote

from dna_fast._files import read_json

SETTINGS = {**CONFIG, "device": "cpu", "train": {**CONFIG["train"], "bn_group": 16, "epochs": 3}}
INHERITED = [
    *("--init", "inherited", "--no-baselines", "--set", "retrain.epochs=2", "--set", "retrain.head_epochs=1"),
    *("--set", "retrain.sync_bn=true", "--set", "retrain.feature_weight=0.5"),
]
PLACED = "placement 1+1x1: expected "


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, trained and rated."""
    directory = tmp_path_factory.mktemp("alone")
    for command in (["train", str(config), "--out", str(directory / "run")], ["rate", str(directory / "run")]):
        ranks.run(directory, 1, "command", command=command)
    return directory / "run"


@pytest.fixture(scope="module")
def searched(alone: Path) -> Path:
    """The same, searched; and its winner retrained from trained blocks by one process."""
    run = alone.parent / "searched"
    shutil.copytree(alone, run)
    ranks.run(run, 1, "command", command=["search", str(run)])
    ranks.run(run, 1, "command", command=["retrain", str(run), *INHERITED])
    return run


def _result(run: Path) -> dict[str, Any]:
    """All that must not depend on ranks: checkpoints that count, by their bytes, and the table."""
    kept = {c["position"]["step"]: c["files"] for c in read_json(run / "supernet" / "state.json")["kept"]}
    return {"kept": kept, "ratings": (run / "ratings.npz").read_bytes(), "splits": (run / "splits.npz").read_bytes()}


def test_two_ranks_train_and_rate_what_one_process_does(config: Path, alone: Path, tmp_path: Path) -> None:
    """Rank 0 talks and logs; the other says nothing."""
    run = tmp_path / "run"
    train = ["train", str(config), "--out", str(run), "--placement", "block"]
    first, second = ranks.run(tmp_path, 2, "command", command=train)
    assert PLACED in first.said
    assert second.said == ""
    first, second = ranks.run(tmp_path, 2, "command", command=["rate", str(run)])
    assert "12 candidates rated in" in first.said
    assert second.said == ""
    assert _result(run) == _result(alone)
    logs = [(directory / "logs" / "supernet.csv").read_text().splitlines() for directory in (run, alone)]
    columns = [i for i, name in enumerate(logs[0][0].split(",")) if name == "step" or name.startswith("loss_")]
    with_losses = [[[line.split(",")[i] for i in columns] for line in lines] for lines in logs]
    assert len(columns) == 1 + 2 + 4  # the step, blocks, cells
    assert with_losses[0] == with_losses[1], "the losses of all blocks are not in rank 0's log"
    assert set(read_json(run / "provenance.json")) == {"teacher", "train", "rate"}


def test_two_ranks_share_the_images_of_every_batch(config: Path, alone: Path, tmp_path: Path) -> None:
    """Each its own part: the losses are those of the whole batch, up to the rounding of 60 steps."""
    run = tmp_path / "run"
    first, _ = ranks.run(
        tmp_path, 2, "command", command=["train", str(config), "--out", str(run), "--placement", "data"]
    )
    assert "placement 2x2: expected " in first.said
    ours, theirs = (
        [record["losses"] for record in read_json(d / "supernet" / "state.json")["kept"][0]["measured"]["history"]]
        for d in (run, alone)
    )
    assert np.allclose(ours, theirs, rtol=60 * 4 * 2**-23, atol=0)


def _training(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = read_json(run / "models" / "found_inherited" / "training.json")
    return record


def test_two_ranks_retrain_what_one_process_does(searched: Path, tmp_path: Path) -> None:
    """The head, then the whole network, with the teacher's logits and features; and one process finds it done."""
    run = tmp_path / "run"
    shutil.copytree(searched, run, ignore=shutil.ignore_patterns("fit", "models", "provenance.json"))
    shutil.copytree(searched / "fit", run / "fit", ignore=shutil.ignore_patterns("found_*"))
    first, second = ranks.run(tmp_path, 2, "command", command=["retrain", str(run), *INHERITED])
    assert "found_inherited" in first.said
    assert second.said == ""
    ours, theirs = _training(run), _training(searched)
    for part in (lambda r: r["head"], lambda r: r):
        a, b = part(ours), part(theirs)
        # Steps of AdamW: of a gradient that is all rounding it makes a whole step, in any direction, that nothing depends on.
        assert [x["loss"] for x in a["history"]] == pytest.approx([x["loss"] for x in b["history"]], rel=1e-3)
        assert a["accuracy"]["total"] == b["accuracy"]["total"] == 360
    assert (run / "models" / "found_inherited" / "model.safetensors").exists()
    assert set(read_json(run / "provenance.json")) == {"teacher", "retrain/found_inherited"}
    header, *rows = (run / "logs" / "models" / "found_inherited.csv").read_text().splitlines()
    assert header == "time_s,epoch,step,lr,loss,images_per_s"
    assert [row.split(",")[2] for row in rows] == ["10", "20"]
    assert all(float(row.split(",")[5]) > 0 for row in rows)
    (again,) = ranks.run(tmp_path, 1, "command", command=["retrain", str(run), *INHERITED, "--resume", "must"])
    assert "found_inherited" in again.said
    assert _training(run) == ours


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--placement", "3x1"], "error: rank 0: --placement: expected at most 2 stages"),
        (
            ["train", "--placement", "1+1x2"],
            "error: rank 0: train.placement: 1+1x2 on 2 ranks: 1+1x2 does not make 2 ranks",
        ),
        (
            ["train", "--resume", "never"],
            "error: rank 0: --resume never: training of teacher and supernet was begun before",
        ),
        (
            ["retrain", "--set", "retrain.batch_size=63"],
            "error: rank 0: retrain.batch_size: 63 images are the batch of all ranks together, and 2 ranks cannot share them",
        ),
        (["retrain"], "error: rank 0: {run}/architecture.json: no architecture yet"),
        (["search"], "error: dna-fast search is done by one process, and 2 were started; give it without torchrun"),
    ],
    ids=["words", "number", "resume", "batch", "no architecture", "another command"],
)
def test_what_is_wrong_is_said_once(command: list[str], message: str, alone: Path, tmp_path: Path) -> None:
    job = ranks.start(tmp_path, 2, "command", command=[command[0], str(alone), *command[1:]])
    ended = job.wait()
    assert [e.code for e in ended] == [2, 2]
    (line,) = "".join(e.said for e in ended if "error" in e.said).splitlines()[-1:]
    assert line.startswith(message.format(run=alone))
    assert "error" not in ended[1].said


def test_a_placement_needs_ranks(alone: Path, tmp_path: Path) -> None:
    (ended,) = ranks.start(tmp_path, 1, "command", command=["train", str(alone), "--placement", "data"]).wait()
    assert ended.code == 2
    assert "error: --placement data: says which of several ranks trains what, and this is one process" in ended.said


# ---- with torchrun itself --------------------------------------------------------------------------------------------


def _torchrun(log: Path, size: int, *command: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    with log.open("wb") as file:
        return subprocess.Popen([*torchrun, "-m", "dna_fast", *command], stdout=file, stderr=file, env=env)


def _until(directory: Path, pattern: str) -> None:
    end = time.monotonic() + 240
    while not list(directory.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} does not come"
        time.sleep(0.02)


def _workers(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if b"dna_fast" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SIGINT", "SIGTERM", "a worker killed"])
def test_torchrun_is_interrupted_and_one_process_goes_on(what: str, config: Path, alone: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    command = ["train", str(config), "--out", str(run)]
    launcher = _torchrun(log, 2, *command, "--placement", "1+1", "--set", "train.checkpoint_minutes=0.0001")
    _until(run, "supernet/state.json")
    struck = time.monotonic()
    if what == "a worker killed":
        os.kill(_workers(launcher.pid)[1], signal.SIGKILL)
    else:
        launcher.send_signal(getattr(signal, what))
    assert launcher.wait(ranks.OVER_S) != 0
    assert time.monotonic() - struck < ranks.OVER_S
    said = log.read_text(errors="replace")
    if what == "a worker killed":
        assert said.count("error: rank 1 died (process ") == 1
    else:
        assert said.count("interrupted; what was finished is saved") == 1
    step = read_json(run / "supernet" / "state.json")["kept"][0]["position"]["step"]
    assert 0 < step < 60
    go_on = zygote().run(tmp_path / "on.txt", "ranks_jobs:command", env={}, command=["train", str(run)])
    assert go_on.code == 0, go_on.said
    ranks.run(tmp_path, 1, "command", command=["rate", str(run)])
    ours, theirs = _result(run), _result(alone)
    assert ours["kept"][60] == theirs["kept"][60]
    assert ours["splits"] == theirs["splits"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SIGTERM", "a worker killed"])
def test_torchrun_retrains_and_one_process_goes_on(what: str, searched: Path, tmp_path: Path) -> None:
    """From where it was stopped, inside an epoch."""
    run, log = tmp_path / "run", tmp_path / "log.txt"
    shutil.copytree(searched, run, ignore=shutil.ignore_patterns("fit", "models"))
    shutil.copytree(searched / "fit", run / "fit", ignore=shutil.ignore_patterns("found*"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["train"]["checkpoint_minutes"] = 1e-4
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["retrain", str(run), "--no-baselines", "--set", "retrain.epochs=4"]
    launcher = _torchrun(log, 2, *command)
    _until(run / "fit", "found-*.safetensors")
    struck = time.monotonic()
    if what == "a worker killed":
        os.kill(_workers(launcher.pid)[1], signal.SIGKILL)
    else:
        launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(ranks.OVER_S) != 0
    assert time.monotonic() - struck < ranks.OVER_S
    said = log.read_text(errors="replace")
    expected = (
        "error: rank 1 died (process " if what == "a worker killed" else "interrupted; what was finished is saved"
    )
    assert said.count(expected) == 1
    assert not (run / "models" / "found").exists()
    (go_on,) = ranks.run(tmp_path, 1, "command", command=[*command, "--resume", "must"])
    assert "found" in go_on.said
    assert len(read_json(run / "models" / "found" / "training.json")["history"]) == 4
