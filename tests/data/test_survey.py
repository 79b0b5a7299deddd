"""Looking at files: what is wrong with them, what kind they are, and that only changed ones are opened again."""

import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from data.pictures import picture
from PIL import Image

from dna_fast.data import DataError, ImageIndex
from dna_fast.data import survey as survey_module
from dna_fast.data.headers import Header, read_header
from dna_fast.data.listing import list_folder
from dna_fast.data.survey import survey


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts which files are opened, by name."""
    counts: Counter[str] = Counter()

    def counting(path: str, *, decode: bool = False) -> Header:
        counts[os.path.basename(path)] += 1
        return read_header(path, decode=decode)

    monkeypatch.setattr(survey_module, "read_header", counting)
    return counts


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


# ---- one file --------------------------------------------------------------------------------------------------------


def test_kinds_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(40, 30, seed=0)
    kinds = {
        "rgb.jpg": ("JPEG RGB", image, {}),
        "grey.jpg": ("JPEG L", image.convert("L"), {}),
        "cmyk.jpg": ("JPEG CMYK", image.convert("CMYK"), {}),
        "png-inside.jpeg": ("PNG RGB", image, {"format": "PNG"}),
        "turned.jpg": ("JPEG RGB turned", image, {"exif": exif}),
        "flat.webp": ("WEBP RGB", image, {}),
    }
    for name, (kind, content, options) in kinds.items():
        header = read_header(str(saved(tmp_path / name, content, **options)))
        assert (header.kind, header.width, header.height, header.fault) == (kind, 40, 30, "")
        assert not header.decoded, name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.98, 0.5, 0.2])
def test_a_file_cut_short_is_found_without_decoding_the_others(tmp_path: Path, suffix: str, kept: float) -> None:
    path = saved(tmp_path / f"a.{suffix}", picture(300, 200, seed=0))
    raw = path.read_bytes()
    assert read_header(str(path)).fault == ""
    path.write_bytes(raw[: int(kept * len(raw))])
    assert read_header(str(path)).fault != ""


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", picture(300, 200, seed=0))
    path.write_bytes(path.read_bytes() + b"\0" * 5000)  # more than is looked at for the end: it is decoded to be sure
    header = read_header(str(path))
    assert (header.fault, header.decoded) == ("", True)


def test_damage_in_the_middle_is_found_by_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture(300, 200, seed=0))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 400] = b"\0" * 400
    path.write_bytes(raw)
    assert read_header(str(path)).fault == ""
    assert read_header(str(path), decode=True).fault != ""


@pytest.mark.parametrize(
    ("size", "fault"),
    [((1, 1), ""), ((1, 900), ""), ((5000, 3), "5000 x 3 pixels, too elongated"), ((5200, 4800), "")],
    ids=["one-pixel", "thin", "too-thin", "huge"],
)
def test_tiny_and_huge_images(tmp_path: Path, size: tuple[int, int], fault: str) -> None:
    header = read_header(str(saved(tmp_path / "a.png", Image.new("RGB", size, (9, 99, 199)))))
    assert (header.width, header.height) == size
    assert header.fault.startswith(fault)
    assert bool(header.fault) == bool(fault)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "exceeds limit" in read_header(str(path)).fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_looked_at_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture(20, 20, seed=0))
    path.chmod(0)
    header = read_header(str(path))
    assert "Permission denied" in header.fault
    assert not header.matches(path.stat())


# ---- many files ------------------------------------------------------------------------------------------------------


def test_only_changed_files_are_opened_again(folder: Path, tmp_path: Path, opened: Counter[str]) -> None:
    store = tmp_path / "kept" / "photos.npz"
    first = ImageIndex.scan(folder, store=store)
    assert opened.total() == 21
    opened.clear()
    assert ImageIndex.scan(folder, store=store).fingerprint() == first.fingerprint()
    assert not opened
    picture(77, 66, seed=1).save(folder / "bee" / "3.jpg")  # another image, of another size
    (folder / "cat" / "1.jpg").touch()  # the same bytes, but who knows
    os.utime(folder / "cat" / "1.jpg", ns=(1, 1))
    picture(50, 40, seed=2).save(folder / "ape" / "new.jpg")
    (folder / "ape" / "6.jpg").unlink()
    changed = ImageIndex.scan(folder, store=store)
    assert opened == {"3.jpg": 1, "1.jpg": 1, "new.jpg": 1}
    assert changed.fingerprint() == ImageIndex.scan(folder).fingerprint() != first.fingerprint()
    opened.clear()
    ImageIndex.scan(folder, store=store)
    assert not opened


def test_faults_are_remembered_and_forgotten_with_the_file(folder: Path, tmp_path: Path, opened: Counter[str]) -> None:
    store, victim = tmp_path / "photos.npz", folder / "bee" / "2.jpg"
    good = victim.read_bytes()
    victim.write_bytes(good[:-200])
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 unreadable image\(s\): .*bee/2\.jpg \(image file is truncated"):
            ImageIndex.scan(folder, store=store)
    assert opened["2.jpg"] == 3  # of three classes, once each
    assert ImageIndex.scan(folder, on_bad="skip", store=store).skipped == 1
    victim.write_bytes(good)
    assert ImageIndex.scan(folder, store=store).skipped == 0


def test_a_decoding_survey_makes_up_for_one_that_did_not(folder: Path, tmp_path: Path, opened: Counter[str]) -> None:
    store, listing = tmp_path / "photos.npz", list_folder(folder)
    assert not any(header.decoded for header in survey(listing, store=store))
    assert all(header.decoded for header in survey(listing, store=store, decode=True))
    opened.clear()
    assert all(header.decoded for header in survey(listing, store=store))
    assert not opened


@pytest.mark.parametrize("damage", ["cut", "garbage", "other-format"])
def test_a_damaged_store_is_made_anew(
    folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, opened: Counter[str]
) -> None:
    import numpy as np

    store = tmp_path / "photos.npz"
    expected = ImageIndex.scan(folder, store=store).fingerprint()
    whole = store.read_bytes()
    if damage == "cut":
        store.write_bytes(whole[: len(whole) // 2])
    elif damage == "garbage":
        store.write_bytes(b"nonsense")
    else:
        np.savez(store, format=np.array("dna_fast image survey 99 /"))
    opened.clear()
    assert ImageIndex.scan(folder, store=store).fingerprint() == expected
    assert opened.total() == 21
    assert ("damaged" in caplog.text) == (damage != "other-format")
    opened.clear()
    ImageIndex.scan(folder, store=store)
    assert not opened


def test_a_store_that_cannot_be_written_stops_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = folder / "ape" / "0.jpg" / "photos.npz"  # below a file
    assert len(ImageIndex.scan(folder, store=store)) == 21
    assert "cannot be written" in caplog.text


def test_what_is_left_out_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "bee" / "2.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "dna_fast.data"):
        assert ImageIndex.scan(folder, on_bad="skip").skipped == 1
    assert "left out 1 unreadable image(s)" in caplog.text
    assert "bee/2.jpg (the file is empty)" in caplog.text


def test_progress_reaches_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_AT_ONCE", 8)
    seen: list[tuple[int, int]] = []
    survey(list_folder(folder), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 21), (16, 21), (21, 21)]


def test_a_file_that_vanishes_after_the_listing_is_a_fault(folder: Path) -> None:
    listing = list_folder(folder)
    (folder / "bee" / "4.jpg").unlink()
    headers = survey(listing)
    assert [name for name, header in zip(listing.files, headers, strict=True) if header.fault] == ["bee/4.jpg"]
    with pytest.raises(DataError, match=r"bee/4\.jpg \(.*No such file"):
        ImageIndex.of(listing, headers)
