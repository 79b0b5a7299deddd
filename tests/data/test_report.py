"""What is told about a set of images."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from data.pictures import picture
from PIL import Image

from dna_fast.data.listing import list_folder
from dna_fast.data.report import Report, find_parts, measured_speed
from dna_fast.data.survey import survey


def report_on(folder: Path) -> Report:
    listing = list_folder(folder)
    return Report(listing, survey(listing))


@pytest.fixture
def odd(photos: Path, tmp_path: Path) -> Path:
    """21 ordinary photographs, and one of each kind that is not."""
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    exif = Image.Exif()
    exif[0x0112] = 3
    image = picture(64, 48, seed=0)
    image.convert("CMYK").save(root / "ape" / "cmyk.jpg")
    image.convert("L").save(root / "bee" / "grey.jpg")
    image.save(root / "bee" / "inside.JPEG", format="PNG")
    image.save(root / "bee" / "turned.jpg", exif=exif)
    picture(40, 9, seed=0).save(root / "cat" / "tiny.jpg")
    (root / "cat" / "empty.jpg").write_bytes(b"")
    (root / "cat" / "cut.jpg").write_bytes((root / "cat" / "4.jpg").read_bytes()[:-900])
    return root


def test_counts_kinds_and_faults(odd: Path) -> None:
    told = report_on(odd).to_dict()
    assert (told["images"], told["classes"]) == (26, 3)
    assert told["images_per_class"] == {"least": 8, "most": 10}
    assert told["bytes"] == sum(
        path.stat().st_size for path in odd.rglob("*.*") if path.name not in ("empty.jpg", "cut.jpg")
    )
    assert told["kinds"] == {"JPEG RGB": 22, "JPEG CMYK": 1, "JPEG L": 1, "PNG RGB": 1, "JPEG RGB turned": 1}
    assert {word: found["images"] for word, found in told["odd"].items()} == {
        "JPEG CMYK": 1,
        "JPEG L": 1,
        "PNG RGB": 1,
        "PNG named *.JPEG": 1,
        "EXIF asks to turn it (it is not turned, as in timm)": 1,
        "shorter side below 32 pixels": 1,
    }
    assert told["odd"]["PNG named *.JPEG"]["first"].endswith("bee/inside.JPEG")
    assert {Path(path).name for path in told["unreadable"]} == {"empty.jpg", "cut.jpg"}
    assert told["empty_classes"] == []


def test_a_class_whose_images_are_all_damaged_is_told(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    told = report_on(root).to_dict()
    assert told["empty_classes"] == ["bee"]
    assert told["images_per_class"]["least"] == 0


def test_parts_are_found(photos: Path, tmp_path: Path) -> None:
    assert list(find_parts(photos)) == ["photos0"]
    for name in ("train", "val"):
        shutil.copytree(photos, tmp_path / "data" / name)
    (tmp_path / "data" / "devkit").mkdir()
    (tmp_path / "data" / "devkit" / "readme.txt").write_text("words")
    parts = find_parts(tmp_path / "data")
    assert list(parts) == ["train", "val"]
    assert parts["val"].root == str(tmp_path / "data" / "val")
    (tmp_path / "some.txt").write_text(f"{photos}/ape/0.jpg 0\n")
    assert list(find_parts(tmp_path / "some.txt")) == ["some.txt"]


def test_no_parts() -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_parts(Path("/no/where"))


def test_speed_is_measured_over_damaged_images_too(odd: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI")
    seen = []

    def measure(loader) -> float:  # type: ignore[no-untyped-def]
        batch = next(iter(loader.epoch(0)))
        seen.append((loader.batch_size, tuple(batch.images.shape)))
        return float(len(seen))

    settings = measured_speed(report_on(odd), size=40, device="cpu", threads=1, measure=measure)
    assert settings is not None
    assert (settings.threads, settings.prefetch, settings.images_per_s) == (1, 4, 2.0)
    assert seen == [(13, (13, 3, 40, 40))] * 2


def test_speed_of_a_single_image_is_not_measured(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI")
    (tmp_path / "one" / "a").mkdir(parents=True)
    shutil.copy(photos / "ape" / "0.jpg", tmp_path / "one" / "a")
    assert measured_speed(report_on(tmp_path / "one"), size=32, device="cpu") is None
