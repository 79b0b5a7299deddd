"""Whatever befalls a process or its disk, what it had saved stays, and what goes on from there ends with the same bits."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pickle
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resume_scenarios
import torch
from resume_jobs import SKIPPED
from test_retrain import EVAL, RECIPE, TRAIN, tiny_model
from zygote import ROOT, Ended, zygote

from dna_fast._files import make_directory, read_json, remove_leftovers, write_json, written_aside
from dna_fast.checkpoint import find_checkpoint
from dna_fast.rating_store import RatingStore
from dna_fast.resume import Resume, check_resume
from dna_fast.retrain import fit
from dna_fast.tables import RatingTable
from dna_fast.teacher import load_teacher
from dna_fast.tensor_files import read_tensors

SCENARIOS = ("supernet", "classifier", "ratings", "table")
JOBS = ("train_all", "fit_all", "rate_all")
TROUBLES = ("FullDisk", "ReadOnly", "NoRight", "LargestFile", "Gone")


def _job(directory: Path, name: str, *argv: Any) -> Ended:
    """A job of resume_jobs in a child process; the test is skipped where the machine does not allow it."""
    ended = zygote().run(directory / "log.txt", f"resume_jobs:{name}", argv=[*argv, str(directory)])
    if ended.code == SKIPPED:
        pytest.skip(ended.said.strip())
    assert ended.code == 0, ended.said
    return ended


# ---- killed while saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_file_operation_of_a_save_the_old_or_the_new_state_is_there(
    scenario: str, tmp_path: Path
) -> None:
    points = json.loads(_job(tmp_path, "every_crash_point", scenario).said)
    # At the least: a directory made, written to, two syncs with the file whole and half, renamed, synced, removed.
    files = 3 if scenario == "supernet" else 1
    assert points["points"] >= 6 * files
    assert 0 < points["old"] < points["points"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_loss_of_power_finds_nothing_renamed_that_is_not_synced(scenario: str, tmp_path: Path) -> None:
    _job(tmp_path, "order_of_syncs", scenario)


# ---- nowhere to write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("job", JOBS)
def test_a_disk_that_fails_stops_with_a_message_and_costs_no_bit(job: str, trouble: str, tmp_path: Path) -> None:
    message = _job(tmp_path, "through_trouble", job, trouble).said
    if job == "train_all":
        outlook = (
            "There is no earlier checkpoint" if trouble == "Gone" else "The last good checkpoint, of step 2, is intact"
        )
        assert outlook in message


def test_a_command_that_cannot_write_says_so_in_one_line(tmp_path: Path) -> None:
    config = ROOT / "configs" / "digits.yaml"
    argv = ["train", str(config), "--out", str(tmp_path / "run")]
    log = tmp_path / "log.txt"
    ended = zygote().run(log, "resume_jobs:limited_command", argv=[argv], file_bytes=1000)
    assert ended.code == 2
    (line,) = ended.said.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run' / 'config.yaml'}: cannot be written: File too large (")
    assert line.endswith("raise the limit on the size of files (ulimit -f), then give the same command again")
    assert list((tmp_path / "run").iterdir()) == []


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)

    def write_half() -> None:
        with written_aside(tmp_path / "a.json") as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert read_json(tmp_path / "a.json") == 1
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_directory_that_has_vanished_is_made_where_asked_for_only(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none/a\.json: cannot be written: No such file .*bring its directory back") as e:
        write_json(tmp_path / "none" / "a.json", 1, make_parent=False)
    assert e.value.errno == errno.ENOENT
    with pytest.raises(OSError, match=r"none/b: cannot be written: No such file"):
        make_directory(tmp_path / "none" / "b", make_parent=False)
    assert os.listdir(tmp_path) == []
    write_json(tmp_path / "none" / "a.json", 1)
    assert read_json(tmp_path / "none" / "a.json") == 1


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = os.getppid()
    for pid in (dead.pid, living, os.getpid()):
        (tmp_path / f".a.json.{pid}.tmp").mkdir()
        (tmp_path / f".a.json.{pid}.tmp" / ".tmpX1").write_text("a library's own")
    (tmp_path / f".b.json.{dead.pid}.tmp").write_text("a file, as dna_fast 0.1 left them")
    write_json(tmp_path / "a.json", 1)
    assert set(os.listdir(tmp_path)) == {"a.json", f".a.json.{living}.tmp", f".b.json.{dead.pid}.tmp"}
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) == {"a.json", f".a.json.{living}.tmp"}


def test_ctrl_c_behind_the_renaming_of_the_state_loses_no_checkpoint(tmp_path: Path) -> None:
    """It counts by then, though saving it did not end well."""
    _job(tmp_path, "interrupted_behind_the_state")


# ---- what is not in a checkpoint -------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
def test_no_generator_has_a_state_that_a_checkpoint_would_have_to_keep(job: str, tmp_path: Path) -> None:
    """Every draw is a function of seed, step and image: other global states give the same bits, and stay where they were."""

    def states() -> tuple[Any, ...]:
        numpy_state = str(np.random.get_state())  # noqa: NPY002
        return random.getstate(), numpy_state, torch.random.get_rng_state().tolist()

    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the legacy generator is what is global)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = states()
            found.append(getattr(resume_scenarios, job)(tmp_path / str(seed), lambda: None))
            assert states() == before
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("resume", "there", "refused"),
    [
        (Resume.AUTO, False, None),
        (Resume.AUTO, True, None),
        (Resume.NEVER, False, None),
        (Resume.NEVER, True, r"--resume never: training of it was begun before \(.*/b\); choose another directory"),
        (Resume.MUST, False, r"--resume must: no training of it to go on with \(none of .*/a, .*/b\)"),
        (Resume.MUST, True, None),
    ],
)
def test_resume_is_refused_where_it_must_be(tmp_path: Path, resume: Resume, there: bool, refused: str | None) -> None:
    if there:
        (tmp_path / "b").touch()
    with nullcontext() if refused is None else pytest.raises(ValueError, match=refused):
        check_resume(resume, "it", [tmp_path / "a", tmp_path / "b"])


# ---- nothing that runs when it is read -------------------------------------------------------------------------------

UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def _could_unpickle(source: str) -> list[str]:
    """What in a source could execute a file's content."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [module for module in modules if module.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.Call):
            keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            called = ast.unparse(node.func)
            if keywords.get("allow_pickle") or keywords.get("weights_only") is False:
                found.append(ast.unparse(node))
            if called.endswith("torch.load") and not keywords.get("weights_only"):
                found.append(ast.unparse(node))
            if called in ("np.load", "numpy.load", "read_array") and "allow_pickle" not in keywords:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
    ],
)
def test_what_could_unpickle_is_caught(source: str) -> None:
    assert _could_unpickle(source)


def test_nothing_in_the_package_could_unpickle() -> None:
    """timm reads its own published weights; a teacher's file that is no safetensors is read as tensors only, by torch."""
    found = {}
    for path in sorted((ROOT / "dna_fast").rglob("*.py")):
        if found_here := _could_unpickle(path.read_text(encoding="utf-8")):
            found[path.name] = found_here
    assert found == {}


class _Evil:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _as_npy(evil: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return file.getvalue() + evil


READERS = {
    "tensors": lambda path: read_tensors(path),
    "fit": lambda path: fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=path),
    "json": lambda path: read_json(path),
    "state": lambda path: find_checkpoint(path.parent, "a"),
    "table": lambda path: RatingTable.load(path),
    "rating": lambda path: RatingStore(path.parent, "a").load(0, 0, 0, (1, 1, 1)),
    "teacher": lambda path: load_teacher("resnet18", pretrained=False, checkpoint=str(path)),
}
NAMES = {"state": "state.json", "rating": "block_0_cell_0_operator_0.npy", "teacher": "teacher.pth"}


@pytest.mark.parametrize("form", ["pickle", "npy"])
@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_that_bears_a_files_name_is_refused_unread(reader: str, form: str, tmp_path: Path) -> None:
    evil = pickle.dumps(_Evil(tmp_path / "struck"))
    if reader == "rating":
        RatingStore(tmp_path, "a")  # which would remove what is there before it began
    path = tmp_path / NAMES.get(reader, "file")
    path.write_bytes(evil if form == "pickle" else _as_npy(evil))
    with pytest.raises(ValueError, match=path.name):
        READERS[reader](path)
    assert not (tmp_path / "struck").exists()
    pickle.loads(evil)
    assert (tmp_path / "struck").exists(), "this pickle would not have struck anyway"
