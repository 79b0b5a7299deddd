"""Scanning an image folder: order, sizes, identity, and words for everything that can be wrong with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from data.pictures import SIZES, picture

from dna_fast.data import DataError, ImageIndex


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def test_scan_lists_names_labels_and_sizes(photos: Path) -> None:
    index = ImageIndex.scan(photos)
    assert index.classes == ("ape", "bee", "cat")
    assert len(index) == 21
    assert index.skipped == 0
    assert index.files[:2] == ("ape/0.jpg", "ape/1.jpg")
    assert index.files[-1] == "cat/6.jpg"
    assert index.labels.dtype == np.int64
    assert index.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert list(zip(index.widths.tolist(), index.heights.tolist(), strict=True)) == list(SIZES) * 3
    assert index.widths.dtype == index.heights.dtype == np.int32
    assert index.file_bytes.tolist() == [Path(index.path(k)).stat().st_size for k in range(21)]


def test_scan_ignores_other_files_and_hidden_names(folder: Path) -> None:
    before = ImageIndex.scan(folder).fingerprint()
    (folder / "notes.txt").write_text("not a class")
    (folder / "ape" / "notes.txt").write_text("not an image")
    (folder / "ape" / "._0.jpg").write_text("a file manager's droppings")
    (folder / ".cache").mkdir()
    assert ImageIndex.scan(folder).fingerprint() == before


def test_fingerprint_is_about_content_not_place(folder: Path, photos: Path) -> None:
    assert ImageIndex.scan(folder).fingerprint() == ImageIndex.scan(photos).fingerprint()


@pytest.mark.parametrize("change", ["name", "class", "pixels", "bytes", "label", "missing"])
def test_fingerprint_notices(folder: Path, change: str) -> None:
    before = ImageIndex.scan(folder).fingerprint()
    first = folder / "ape" / "0.jpg"
    if change == "name":
        first.rename(folder / "ape" / "00.jpg")
    elif change == "class":
        (folder / "bee").rename(folder / "bird")
    elif change == "pixels":
        picture(98, 131, seed=0).save(first)
    elif change == "bytes":
        first.write_bytes(first.read_bytes() + b"\0")
    elif change == "label":
        first.rename(folder / "bee" / "0a.jpg")
    else:
        first.unlink()
    assert ImageIndex.scan(folder).fingerprint() != before


def test_subset_keeps_the_meaning_of_labels(photos: Path) -> None:
    index = ImageIndex.scan(photos)
    part = index.subset([20, 3, 8])
    assert part.files == ("cat/6.jpg", "ape/3.jpg", "bee/1.jpg")
    assert part.labels.tolist() == [2, 0, 1]
    assert part.classes == index.classes
    assert part.path(1) == index.path(3)
    assert part.widths.tolist() == [SIZES[6][0], SIZES[3][0], SIZES[1][0]]
    assert part.fingerprint() != index.subset([3, 20, 8]).fingerprint()
    assert len(index.subset([])) == 0


@pytest.mark.parametrize(
    ("indices", "message"),
    [([21], "0..20, got 21..21"), ([-1], "0..20, got -1"), ([1, 1], "must not repeat"), ([0.5], "integers"),
     ([[1]], "1-D"), (np.ones(21, bool), "integers")],
    ids=["too-large", "negative", "twice", "fractions", "two-dimensional", "mask"],
)  # fmt: skip
def test_bad_subsets_are_refused(photos: Path, indices: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageIndex.scan(photos).subset(indices)  # type: ignore[arg-type]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; expected a folder with one folder per class"):
        ImageIndex.scan(tmp_path / "nowhere")


def test_file_instead_of_a_folder(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"0\.jpg is a file"):
        ImageIndex.scan(photos / "ape" / "0.jpg")


@pytest.mark.parametrize("content", ["nothing", "images"])
def test_folder_without_class_folders(tmp_path: Path, content: str) -> None:
    if content == "images":
        picture(20, 20, seed=0).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"has no class folders; expected .*/<class>/<image>"):
        ImageIndex.scan(tmp_path)


def test_class_folder_without_images(folder: Path) -> None:
    (folder / "dog").mkdir()
    (folder / "dog" / "readme.txt").write_text("soon")
    with pytest.raises(ValueError, match=r"no images in class folder .*/dog; add images"):
        ImageIndex.scan(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"<html>404</html>" * 9, "not an image")],
    ids=["empty", "garbage"],
)
def test_unreadable_image_is_named_or_skipped(folder: Path, content: bytes, reason: str) -> None:
    (folder / "bee" / "2.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"1 unreadable image\(s\): .*/bee/2\.jpg \({reason}.*on_bad=\"skip\""):
        ImageIndex.scan(folder)
    index = ImageIndex.scan(folder, on_bad="skip")
    assert index.skipped == 1
    assert len(index) == 20
    assert "bee/2.jpg" not in index.files
    assert np.bincount(index.labels).tolist() == [7, 6, 7]


def test_many_unreadable_images_are_counted(folder: Path) -> None:
    for k in range(5):
        (folder / "cat" / f"{k}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"5 unreadable image\(s\): .*cat/0.jpg .* and 2 more"):
        ImageIndex.scan(folder)


def test_no_readable_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no readable image in .*, all 1 are damaged"):
        ImageIndex.scan(tmp_path, on_bad="skip")


def test_unknown_policy(photos: Path) -> None:
    with pytest.raises(ValueError, match='"error" or "skip", got \'ignore\''):
        ImageIndex.scan(photos, on_bad="ignore")
