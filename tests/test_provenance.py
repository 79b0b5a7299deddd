"""Who made a run's files."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

import dna_fast
from dna_fast import provenance
from dna_fast.provenance import read_records, revision, stage_record


def test_a_stage_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/dna-fast", "train", "x.yaml"])
    before = datetime.datetime.now(datetime.timezone.utc)
    stage_record(tmp_path, "train", "cpu")(True)
    record = read_records(tmp_path)["train"]
    assert record["dna_fast"] == dna_fast.__version__
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["command"] == ["dna-fast", "train", "x.yaml"]
    assert record["device"] == "cpu"
    assert abs((datetime.datetime.fromisoformat(record["started"]) - before).total_seconds()) < 5
    assert 0 <= record["seconds"] < 60
    assert set(record) >= {"revision", "torch", "timm", "dali"}


def test_a_stage_that_finds_its_work_done_keeps_its_record(tmp_path: Path) -> None:
    stage_record(tmp_path, "teacher", "cpu")(False)  # none yet: better one that did nothing than none
    stage_record(tmp_path, "teacher", "cuda")(False)
    assert read_records(tmp_path)["teacher"]["device"] == "cpu"
    stage_record(tmp_path, "teacher", "cuda")(True)
    assert read_records(tmp_path)["teacher"]["device"] == "cuda"


def test_damaged_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text("[]")
    with pytest.raises(ValueError, match=r"provenance\.json: damaged"):
        read_records(tmp_path)


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_the_revision_is_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "package" / "provenance.py"
    source.parent.mkdir()
    source.write_text("")
    monkeypatch.setattr(provenance, "SOURCE", source.parent)
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert revision() is None  # no checkout
    git(tmp_path, "init", "-q")
    assert revision() is None  # somebody else's: the package's files are not in it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    clean = revision()
    assert clean is not None
    assert len(clean) == 40
    source.write_text("changed")
    assert revision() == f"{clean}-dirty"
