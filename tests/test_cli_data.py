"""`dna-fast data check`: what it prints, and what its exit code says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("typer", reason="needs typer")

from PIL import Image

from dna_fast import cli


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """train and val of two classes; four and two images of each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{k}.jpg")
    return tmp_path / "images"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["dna-fast", "data", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_healthy_images(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, images, "--no-speed") == 0
    printed = capsys.readouterr().out
    assert "train  images: 8," in printed
    assert "val  classes: 2, 2 to 2 images each" in printed
    assert "unreadable: 0" in printed
    assert "images/s" not in printed


def test_unreadable_images_are_listed_and_change_the_exit_code(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = images / "val" / "dog" / "1.jpg"
    victim.write_bytes(victim.read_bytes()[:-60])
    assert run(monkeypatch, images, "--no-speed") == 1
    assert f"{victim}: image file is truncated" in capsys.readouterr().out


def test_json(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "val" / "dog" / "1.jpg").write_bytes(b"")
    shutil.rmtree(images / "val" / "cat")
    assert run(monkeypatch, images, "--no-speed", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["parts"]["train"]["images"] == 8
    assert answer["parts"]["val"]["unreadable"] == {f"{images}/val/dog/1.jpg": "the file is empty"}
    assert answer["classes_differ"] == ["val  lacks 1 class(es) of the others: cat"]


def test_damage_in_the_middle_needs_decode(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = images / "train" / "cat" / "0.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)).save(path)
    raw = bytearray(path.read_bytes())
    raw[9000:9400] = b"\0" * 400
    path.write_bytes(raw)
    assert run(monkeypatch, images, "--no-speed") == 0
    assert run(monkeypatch, images, "--no-speed", "--decode") == 1


def test_a_run_reads_what_was_kept(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dna_fast.data import ImageIndex
    from dna_fast.data import survey as survey_module

    assert run(monkeypatch, images, "--no-speed", "--index-dir", tmp_path / "kept") == 0
    monkeypatch.setattr(survey_module, "read_header", None)  # opening any image would fail now
    store = survey_module.store_path(tmp_path / "kept", images / "train")
    assert len(ImageIndex.scan(images / "train", store=store)) == 8


@pytest.mark.parametrize("content", ["missing", "empty"])
def test_wrong_input(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if content == "empty":
        (tmp_path / "images").mkdir()
    assert run(monkeypatch, tmp_path / "images") == 2
    assert "image folder:" in capsys.readouterr().err


def test_speed_is_measured(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI")
    from dna_fast.data import tuning

    monkeypatch.setattr(tuning.images_per_s, "__defaults__", (0.05,))
    assert run(monkeypatch, images, "--size", 32, "--threads", 1, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    for part in ("train", "val"):
        measured = answer["parts"][part]["images_per_s"]["cpu"]
        assert measured["threads"] == 1
        assert measured["images_per_s"] > 0
