"""The loader's benchmark: every contestant delivers what it is asked for, and the page tells it."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nvidia.dali", reason="needs DALI")
pytest.importorskip("timm", reason="needs timm")

from data.pictures import picture

from benchmarks.bench_loader import WAYS
from benchmarks.races import loader as race_module
from benchmarks.results import Entry, Race, Result
from benchmarks.sections import loader as section_module
from benchmarks.worker import Races


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs of two classes."""
    root = tmp_path_factory.mktemp("photographs")
    for k in range(5):
        place = root / ("cat" if k % 2 else "dog")
        place.mkdir(exist_ok=True)
        picture(80 + k, 70, seed=k).save(place / f"{k}.jpg", quality=95)
    return root


def request(folder: Path, *, training: bool) -> dict[str, Any]:
    return {
        "folder": str(folder), "copies": 2, "size": 32, "batch_size": 4, "threads": 1, "training": training,
        "ways": list(WAYS), "pace": {"turns": 1, "turn_s": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    "training", [pytest.param(True, marks=pytest.mark.slow), False], ids=["training", "evaluation"]
)
def test_every_contestant_delivers(folder: Path, tmp_path: Path, training: bool) -> None:
    answer = Races("test", tmp_path / "journal").run("loader", request(folder, training=training), timeout_s=300)
    assert answer["facts"] == {"images": 10}
    assert {entry["way"] for entry in answer["entries"]} == set(WAYS)
    for entry in answer["entries"]:
        assert all(seconds > 0 for seconds in entry["seconds"])
        if not training:
            # DALI's documented way rounds the crop's corner elsewhere: a pixel of offset in a grainy picture.
            assert 0 <= entry["difference"] < (2 if entry["way"] != "dali-plain" else 30)


def test_images_unlike_timms_are_not_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = race_module._ours

    def darker(task: race_module.Task) -> race_module.Batches:
        batches = ours(task)
        return lambda: (images - 0.05 for images in batches())

    monkeypatch.setitem(race_module.WAYS, "ours", darker)
    with pytest.raises(AssertionError, match=r"an image differs from timm's by \d+\.\d+/255, limit 2"):
        race_module.main(request(folder, training=False) | {"ways": ["ours"]})


def test_the_page_compares_with_torchvisions_faster_loader() -> None:
    def entry(way: str, median_s: float, **fields: float) -> Entry:
        seconds = dict.fromkeys(("min", "q1", "median", "q3", "max"), median_s) | {"rounds": 5}
        return Entry({"way": way, **fields}, seconds)

    facts = {"size": 224, "batch_size": 64, "threads": 2, "images": 1000}
    training = [
        entry("ours", 2.0),
        entry("torchvision-pil", 8.0),
        entry("torchvision-tensor", 5.0),
        entry("dali-plain", 1.0),
    ]
    judged = [entry("ours", 2.0, difference=0.8), entry("torchvision-pil", 8.0, difference=0.0)]
    races = (
        Race("loader training", facts | {"training": True}, tuple(training)),
        Race("loader evaluation", facts | {"training": False}, tuple(judged)),
    )
    section = section_module.section(Result("loader", "full", "2026-01-02", "0" * 16, False, {}, races))
    assert section.measured == {"loader.speed": 2.5, "loader.difference": 0.8}
    text = "\n".join(section.lines)
    assert "| training | torchvision, Pillow | 125 | 4.00x | – |" in text
    assert "| evaluation | ours | 500 |  | 0.80/255 |" in text
