"""CIFAR-10's binary version becomes an image folder of the very same pixels; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dna_fast.data.cifar10 import CLASSES, PARTS, read_batch, write_cifar10
from dna_fast.data.listing import list_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The six files, twenty images each, two of every class."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (name for names in PARTS.values() for name in names):
        records = rng.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(folder / name)
    return folder


def test_planes_become_pixels(tmp_path: Path) -> None:
    record = np.zeros(3073, np.uint8)
    record[0] = 7
    record[1 + 5 * 32 + 9] = 200  # red of row 5, column 9
    record[1 + 2 * 1024 + 31] = 50  # blue of row 0, column 31
    record.tofile(tmp_path / "one.bin")
    images, labels = read_batch(tmp_path / "one.bin")
    assert images.shape == (1, 32, 32, 3)
    assert labels.tolist() == [7]
    assert images[0, 5, 9].tolist() == [200, 0, 0]
    assert images[0, 0, 31].tolist() == [0, 0, 50]
    assert images.sum() == 250


def test_the_folder_holds_every_image(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    place = write_cifar10(source, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(6)]
    train, test = (list_folder(place / part) for part in ("train", "test"))
    assert (len(train.files), len(test.files)) == (100, 20)
    assert train.classes == test.classes == CLASSES
    images, labels = read_batch(source / "data_batch_3.bin")
    for number in (0, 13):
        path = place / "train" / CLASSES[labels[number]] / f"data_batch_3_{number:05}.png"
        assert np.array_equal(np.asarray(Image.open(path)), images[number])


def test_what_is_wrong_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists already"):
        write_cifar10(source, tmp_path / "out")
    raw = (source / "data_batch_2.bin").read_bytes()
    (source / "data_batch_2.bin").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin must be whole records of 3073 bytes .* got 61459 bytes"):
        write_cifar10(source, tmp_path / "new")
    (source / "data_batch_2.bin").write_bytes(b"\x0a" + raw[1:])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin holds a label 10, expected 0 to 9"):
        write_cifar10(source, tmp_path / "new")
    (source / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no test_batch\.bin; expected the unpacked binary version"):
        write_cifar10(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-bin", "out"]
