"""Locks of stages: one process at a time, gone with the process however it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dna_fast import _lock
from dna_fast._lock import exclusive
from dna_fast.cli import main
from dna_fast.config import shipped_config

HOLDER = """
import sys, time
from pathlib import Path
from dna_fast._lock import exclusive
with exclusive(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def _held(directory: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that does a stage."""
    command = [sys.executable, "-c", HOLDER, str(directory), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with _held(tmp_path, "train") as process:
        yield process


def test_a_second_process_is_refused_and_told_who_the_first_is(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    expected = rf"train is being done by process {holder.pid} on .*; wait for it, stop it, or choose another"
    with pytest.raises(RuntimeError, match=expected), exclusive(tmp_path, "train"):
        pass


def test_another_stage_is_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with exclusive(tmp_path, "retrain found"):
        assert (
            (tmp_path / "locks" / "retrain_found.lock")
            .read_text(encoding="utf-8")
            .startswith(f"process {os.getpid()} ")
        )


def test_a_killed_process_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with exclusive(tmp_path, "train"):
        pass


def test_a_stage_that_is_done_or_failed_is_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), exclusive(tmp_path, "train"):
            raise KeyboardInterrupt


def test_a_file_system_without_locks_is_worked_on_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_lock.fcntl, "flock", refuse)
    with exclusive(tmp_path, "train"):
        pass


def test_a_second_training_into_one_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["dna-fast", "train", str(shipped_config("digits")), "--out", str(run)]
    with _held(run, "teacher") as process, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert f"{run}: teacher is being done by process {process.pid} on" in capsys.readouterr().err.replace("\n", " ")
    assert not (run / "teacher.safetensors").exists()
