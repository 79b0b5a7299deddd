"""Logs of stages: rows at once, none twice after an interruption, and never in the way of the stage."""

from __future__ import annotations

import csv
import logging
import sys
import time
from pathlib import Path

import pytest

from dna_fast.stage_log import stage_log

COLUMNS = ("step", "loss")


def rows(directory: Path) -> list[list[str]]:
    with (directory / "logs" / "supernet.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    before = time.time()
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        log.add({"step": 10, "loss": 0.5})
        header, row = rows(tmp_path)
    assert header == ["time_s", "step", "loss"]
    assert row[1:] == ["10", "0.5"]
    assert before - 1e-3 <= float(row[0]) <= time.time() + 1e-3


def test_a_stage_that_goes_on_writes_no_step_twice(tmp_path: Path) -> None:
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        for step in (10, 20, 30):
            log.add({"step": step, "loss": 1.0})
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        for step in (20, 30, 40):  # the last checkpoint was between 10 and 20
            log.add({"step": step, "loss": 2.0})
    assert [row[1:] for row in rows(tmp_path)[1:]] == [["10", "1.0"], ["20", "2.0"], ["30", "2.0"], ["40", "2.0"]]


@pytest.mark.parametrize(
    "tail", ["17000", "1700000000.0,20", "1700000000.0,20,0.\x00"], ids=["cut", "short", "garbage"]
)
def test_half_a_row_of_a_killed_process_is_dropped(tail: str, tmp_path: Path) -> None:
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        log.add({"step": 10, "loss": 1.0})
    with (tmp_path / "logs" / "supernet.csv").open("a") as file:
        file.write(tail)
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        log.add({"step": 30, "loss": 2.0})
    assert [row[1] for row in rows(tmp_path)[1:]] in (["10", "30"], ["30"])
    assert all(len(row) == 3 for row in rows(tmp_path))


def test_nothing_to_say_leaves_no_file(tmp_path: Path) -> None:
    with stage_log(tmp_path, "supernet", COLUMNS) as log:
        assert log.rows == 0
    assert not (tmp_path / "logs").exists()


def test_a_log_that_cannot_be_written_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING), stage_log(tmp_path, "supernet", COLUMNS) as log:
        for step in (10, 20):
            log.add({"step": step, "loss": 1.0})
    (record,) = caplog.records
    assert "supernet.csv: cannot be written" in record.getMessage()
    assert log.rows == 2


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for values in ({10: 0.5, 20: 0.25}, {20: 0.125, 30: 0.0625}):  # interrupted, and gone on from step 20
        with stage_log(tmp_path, "supernet", COLUMNS, tensorboard=True) as log:
            for step, loss in values.items():
                log.add({"step": step, "loss": loss})
    events = accumulator.EventAccumulator(str(tmp_path / "logs" / "tensorboard" / "supernet"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert {e.step: e.value for e in events.Scalars("loss")} == {10: 0.5, 20: 0.125, 30: 0.0625}


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(RuntimeError, match=r"pip install 'dna_fast\[tensorboard\]'"),
        stage_log(tmp_path, "supernet", COLUMNS, tensorboard=True),
    ):
        pass
