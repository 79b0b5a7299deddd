"""The embedded digits: written once, whole or not at all, balanced, and readable by the loader."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("sklearn", reason="needs scikit-learn")

from PIL import Image

from dna_fast.data import ImageIndex, digits_transforms, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits at 16 pixels. Not to be changed by a test."""
    return write_digits(tmp_path_factory.mktemp("digits") / "new" / "digits", size=16)


def state(root: Path) -> dict[str, tuple[int, str]]:
    """Time of writing and content of every file."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(f.relative_to(root)): (f.stat().st_mtime_ns, hashlib.md5(f.read_bytes()).hexdigest()) for f in files}


def contents(root: Path) -> dict[str, str]:
    return {name: digest for name, (_, digest) in state(root).items()}


def test_split_is_complete_and_balanced(digits: Path) -> None:
    train, test = ImageIndex.scan(digits / "train"), ImageIndex.scan(digits / "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    assert np.bincount(test.labels).tolist() == [36] * 10
    names = [Path(name).name for index in (train, test) for name in index.files]
    assert sorted(names) == [f"{k:04d}.jpg" for k in range(1797)]
    assert set(train.widths) == set(train.heights) == {16}


def test_images_are_the_digits(digits: Path) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    for name in ImageIndex.scan(digits / "test").files[::30]:
        image = Image.open(digits / "test" / name)
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        position = int(Path(name).stem)
        assert source.target[position] == int(name.split("/")[0])
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), np.float64) * 16 / 255
        assert np.abs(small - source.images[position]).mean() < 1.5  # of 16 levels: bicubic overshoot and JPEG


def test_nothing_is_written_twice(digits: Path) -> None:
    before = state(digits)
    assert write_digits(digits, size=16) == digits
    assert state(digits) == before
    assert [entry.name for entry in digits.parent.iterdir()] == ["digits"]  # nothing left beside it


def test_the_seed_moves_the_split_and_the_size_is_kept(digits: Path, tmp_path: Path) -> None:
    other = write_digits(tmp_path / "other", size=20, seed=1)
    assert ImageIndex.scan(other / "test").widths[0] == 20
    assert set(ImageIndex.scan(other / "test").files) != set(ImageIndex.scan(digits / "test").files)


@pytest.mark.parametrize("damage", ["deleted", "changed", "added", "manifest", "garbled-manifest", "other-size"])
def test_a_damaged_folder_is_written_anew(digits: Path, tmp_path: Path, damage: str) -> None:
    root = write_digits(tmp_path / "digits", size=20 if damage == "other-size" else 16)
    some = next((root / "train" / "3").iterdir())
    if damage == "deleted":
        some.unlink()
    elif damage == "changed":
        some.write_bytes(some.read_bytes()[:-1])
    elif damage == "added":
        (root / "train" / "3" / "more.jpg").write_bytes(b"")
    elif damage == "manifest":
        (root / "digits.json").unlink()
    elif damage == "garbled-manifest":
        (root / "digits.json").write_text("{")
    write_digits(root, size=16)
    assert contents(root) == contents(digits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits"]


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other things \(thesis\.tex\) and would be replaced"):
        write_digits(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_digits(tmp_path / "digits", size=16)
    assert list(tmp_path.iterdir()) == []


def test_manifest_says_what_it_describes(digits: Path) -> None:
    manifest = json.loads((digits / "digits.json").read_text())
    assert (manifest["size"], manifest["seed"], len(manifest["sha256"])) == (16, 0, 64)


@pytest.mark.parametrize(
    ("options", "message"), [({"size": 7}, "size must be at least 8"), ({"seed": -1}, "seed must")], ids=str
)
def test_bad_arguments_are_named(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_digits(tmp_path / "digits", **options)  # type: ignore[arg-type]


def test_digits_reach_the_network_whole(digits: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("nvidia.dali", reason="needs DALI")
    from dna_fast.data import DaliLoader

    train, evaluate = digits_transforms(16)
    assert train.flip == 0.0
    assert train.erase_prob == 0.0
    assert evaluate.crop_pct == 1.0
    index = ImageIndex.scan(digits / "test")
    (batch,) = DaliLoader(index, evaluate, batch_size=360, seed=0, training=False).epoch(0)
    source = np.stack([np.asarray(Image.open(index.path(k)).convert("RGB")) for k in range(360)])
    ours = batch.images.permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
    assert np.abs(ours - source).max() <= 2.0  # nothing is resampled; two JPEG decoders may round differently
    (augmented,) = DaliLoader(index, train, batch_size=360, seed=0, training=True).epoch(0)
    assert augmented.images.min() >= -1.0
    assert augmented.images.max() <= 1.0
    assert augmented.images.mean() < -0.2
