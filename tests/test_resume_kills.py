"""SIGKILL at random moments of real commands: run again, they end with the bits of commands that nobody killed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_run import CONFIG
from zygote import Ended, zygote

from dna_fast.checkpoint import find_checkpoint
from dna_fast.checkpoint_state import read_state
from dna_fast.config import load_config
from dna_fast.data import write_digits
from dna_fast.resume import DamagedWarning, Which
from dna_fast.tables import RatingTable
from dna_fast.tensor_files import check_tensors, read_tensors, tensors_sha256

KILLS = 20
SAVED_S = (
    0.1  # between checkpoints: a step takes some 20 ms, and a moment may hit a save, a step, or what is before both
)
SCRATCH = re.compile(r"/\.[^/]+\.tmp/")


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed."""

    directory: Path
    config: Path
    seconds: dict[str, float]  # of processor time, by stage: what a moment is a share of, however busy the machine


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("kills")
    config = {
        **CONFIG,
        "data": {**CONFIG["data"], "root": str(root / "digits")},  # written once
        "teacher": {**CONFIG["teacher"], "fit": {**CONFIG["teacher"]["fit"], "ema_decay": 0.9}},
        "train": {**CONFIG["train"], "checkpoint_minutes": SAVED_S / 60},
        "retrain": {**CONFIG["retrain"], "ema_decay": 0.9, "largest": False, "random_baselines": 0},
    }
    (root / "small.yaml").write_text(yaml.safe_dump(config))
    write_digits(
        root / "digits", size=config["space"]["frame"]["resolution"]
    )  # neither this nor imports count as time of a stage
    assert zygote().run(root / "log.txt", "zygote:command", argv=["info"]).code == 0
    run, seconds = root / "whole", dict[str, float]()
    for stage, argv in commands(root / "small.yaml", run).items():
        pid = zygote().start(root / "log.txt", "zygote:command", argv=argv)
        seconds[stage] = _worked(pid)
        ended = zygote().wait(pid, root / "log.txt")
        assert ended.code == 0, ended.said
    return Whole(run, root / "small.yaml", seconds)


def commands(config: Path, run: Path) -> dict[str, list[str]]:
    return {
        "train": ["train", str(config), "--out", str(run)],
        "rate": ["rate", str(run)],
        "search": ["search", str(run)],
        "retrain": ["retrain", str(run)],
    }


def killed_and_resumed(whole: Whole, run: Path, stage: str, moments: Iterator[float], kills: int) -> int:
    """Gives a command again and again, killed each time at the next moment (a share of what it takes), until it ends by itself.

    Returns:
        How often it was killed, at most `kills` times.
    """
    log, number = run.with_suffix(".log"), 0
    while True:
        pid = zygote().start(log, "zygote:command", argv=commands(whole.config, run)[stage])
        if number < kills:
            _worked(pid, next(moments) * whole.seconds[stage])
            # Its parent has not waited for it: until then the number is its own, dead or alive.
            os.kill(pid, signal.SIGKILL)
        ended = zygote().wait(pid, log)
        assert_readable(run)
        if not ended.killed:
            assert ended.code == 0, ended.said
            return number
        number += 1


def _worked(pid: int, until: float = math.inf) -> float:
    """Waits until a process has worked for some seconds of processor time, or has ended; how long it has worked by then."""
    while True:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        worked = (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")
        if state == "Z" or worked >= until:
            return worked
        time.sleep(0.004)


def assert_readable(run: Path) -> None:
    """Every file of a run is a whole one, whatever moment it was left at; what is being written does not count."""
    if (run / "config.yaml").exists():
        load_config(run / "config.yaml")
    files = [path for path in run.rglob("*") if path.is_file() and not SCRATCH.search(str(path))]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            check_tensors(path)
        elif path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            dict(np.load(path, allow_pickle=False))
    state = run / "supernet" / "state.json"
    if state.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("error", DamagedWarning)
            assert find_checkpoint(state.parent, json.loads(state.read_text())["identity"]) is not None


def trained(run: Path) -> Any:
    """All that training leaves, but for times."""
    root = run / "supernet"
    identity = json.loads((root / "state.json").read_text())["identity"]
    kept = {}
    for which in Which:
        found = find_checkpoint(root, identity, which)
        assert found is not None
        history = [{k: record[k] for k in ("epoch", "losses", "steps")} for record in found.measured.history]
        kept[which] = found.position, history, found.measured.losses, found.files
    assert read_state(root, identity)[0].directory.name == max(path.name for path in root.glob("step_*"))
    return kept, (run / "teacher.safetensors").read_bytes(), json.loads((run / "teacher.json").read_text())


def rated(run: Path) -> bytes:
    RatingTable.load(run / "ratings.npz")
    assert list((run / "rating").glob("*.npy")) == []
    return (run / "ratings.npz").read_bytes()


MOST_KILLS = {
    "train": 8,
    "rate": 3,
}  # of one run's stage: rating takes a sixth of the time, and fewer moments of it differ


def _kill_training_and_rating(whole: Whole, directory: Path, kills: int, seed: int) -> dict[str, int]:
    """Runs, killed until `kills` kills are spread over both stages, each compared with the whole one; kills by stage."""
    rng = np.random.default_rng(seed)
    done, number = dict.fromkeys(MOST_KILLS, 0), 0
    while (left := kills - sum(done.values())) > 0:
        run = directory / f"run_{number}"
        for stage, most in MOST_KILLS.items():
            moments = iter(lambda: float(rng.uniform(0.1, 0.8)), None)
            done[stage] += killed_and_resumed(whole, run, stage, moments, min(most, left))
            left = kills - sum(done.values())
        assert trained(run) == trained(whole.directory), f"run {number}: training ended with other bits"
        assert rated(run) == rated(whole.directory), f"run {number}: rating ended with other bits"
        shutil.rmtree(run)
        number += 1
    return done


def test_training_and_rating_killed_at_20_random_moments_end_with_the_same_bits(whole: Whole, tmp_path: Path) -> None:
    done = _kill_training_and_rating(whole, tmp_path, KILLS, seed=0)
    print(done)
    assert sum(done.values()) == KILLS
    assert min(done.values()) >= 3, f"kills by stage: {done}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_training_and_rating_killed_at_a_hundred_random_moments(whole: Whole, tmp_path: Path, seed: int) -> None:
    _kill_training_and_rating(whole, tmp_path, KILLS, seed)


def test_retraining_killed_ends_with_the_same_bits(whole: Whole, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole.directory, tmp_path / "run", ignore=shutil.ignore_patterns("fit", "models")))
    moments = iter([0.3, 0.5, 0.6, 0.8])
    assert killed_and_resumed(whole, run, "retrain", moments, 4) > 0
    # Tensors, not bytes: safetensors writes metadata in no particular order.
    ours, theirs = (read_tensors(d / "models" / "found" / "model.safetensors") for d in (run, whole.directory))
    assert tensors_sha256(ours[0]) == tensors_sha256(theirs[0])
    assert ours[1] == theirs[1]


def test_resume_says_what_may_be_gone_on_with(whole: Whole, tmp_path: Path) -> None:
    def refused(*argv: object) -> str:
        ended: Ended = zygote().run(tmp_path / "log.txt", "zygote:command", argv=[str(a) for a in argv])
        assert ended.code == 2, ended.said
        return ended.said.splitlines()[-1]

    train = ("train", whole.config, "--out")
    begun = f"error: --resume never: training of teacher and supernet was begun before ({whole.directory}/supernet/state.json)"
    assert refused(*train, whole.directory, "--resume", "never").startswith(begun)
    assert refused("train", whole.directory, "--resume", "never").startswith(begun)
    nothing = "error: --resume must: no training of teacher and supernet to go on with"
    assert refused(*train, tmp_path / "new", "--resume", "must").startswith(nothing)
    assert not (tmp_path / "new").exists()
    begun = "error: --resume never: training of found was begun before"
    assert refused("retrain", whole.directory, "--resume", "never").startswith(begun)
    assert (
        "is not one of 'auto', 'never', 'must'"
        in refused(*train, tmp_path / "new", "--resume", "perhaps") + (tmp_path / "log.txt").read_text()
    )


def test_rating_the_best_checkpoint_names_it_and_shares_nothing_with_the_last(whole: Whole, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole.directory, tmp_path / "run"))
    state = json.loads((run / "supernet" / "state.json").read_text())
    last, before = state["kept"][
        :2
    ]  # this one, of some step of the second epoch, is made to look like the best end of the first
    before["position"] = {**before["position"], "epoch": 1, "batch": 0}
    last["measured"]["history"][1]["losses"] = [2 * loss for loss in last["measured"]["history"][0]["losses"]]
    before["measured"]["history"] = last["measured"]["history"][:1]
    (run / "supernet" / "state.json").write_text(json.dumps(state))
    ended = zygote().run(tmp_path / "log.txt", "zygote:command", argv=["rate", str(run), "--checkpoint", "best"])
    assert ended.code == 0, ended.said
    best, other = (RatingTable.load(d / "ratings.npz") for d in (run, whole.directory))
    assert (best.metadata["supernet_checkpoint"], best.metadata["supernet_epochs"]) == ("best", 1)
    assert (other.metadata["supernet_checkpoint"], other.metadata["supernet_epochs"]) == ("last", 2)
    assert any(not np.array_equal(a, b) for a, b in zip(best.losses(), other.losses(), strict=True))


def test_a_damaged_checkpoint_is_passed_over_in_words(whole: Whole, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole.directory, tmp_path / "run"))
    newest = max((run / "supernet").glob("step_*"))
    (newest / "block_0.safetensors").write_bytes(b"\x80\x04garbled")
    ended = zygote().run(tmp_path / "log.txt", "zygote:command", argv=["rate", str(run)])
    assert ended.code == 2
    assert f"warning: {newest}/block_0.safetensors: cannot be read" in ended.said
    assert ended.said.splitlines()[-1] == (f"error: {run}: the supernet is not trained yet; run: dna-fast train {run}")
    ended = zygote().run(tmp_path / "log.txt", "zygote:command", argv=["train", str(run)])
    assert ended.code == 0, ended.said
    assert "Taken instead: " in ended.said
    assert trained(run) == trained(whole.directory)


def test_a_damaged_teacher_is_named_and_what_to_do(whole: Whole, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole.directory, tmp_path / "run"))
    path = run / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    ended = zygote().run(tmp_path / "log.txt", "zygote:command", argv=["rate", str(run)])
    assert ended.code == 2
    (line,) = ended.said.splitlines()
    assert line.startswith(f"error: {path}: cannot be read (")
    assert line.endswith("restore it from a copy, or delete it: its training is then taken up")
    path.unlink()
    assert zygote().run(tmp_path / "log.txt", "zygote:command", argv=["rate", str(run)]).code == 0
    assert rated(run) == rated(whole.directory)
