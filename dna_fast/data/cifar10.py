"""CIFAR-10's binary version, as its authors publish it, as an image folder. Nothing is unpickled: that version is bytes alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE  # a label, then red, green and blue, row by row


def read_batch(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [N, 32, 32, 3] and labels [N] of one .bin file.

    Raises:
        ValueError: not whole records, or a label above 9.
    """
    raw = np.fromfile(path, np.uint8)
    if len(raw) == 0 or len(raw) % _RECORD_BYTES:
        raise ValueError(
            f"cifar10: {path} must be whole records of {_RECORD_BYTES} bytes (CIFAR-10's binary version), got {len(raw)} bytes; "
            "download it again"
        )
    records = raw.reshape(-1, _RECORD_BYTES)
    labels, pixels = records[:, 0], records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    if labels.max() >= len(CLASSES):
        raise ValueError(
            f"cifar10: {path} holds a label {labels.max()}, expected 0 to {len(CLASSES) - 1}; is it CIFAR-10's?"
        )
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels


def write_cifar10(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Writes `<target>/train/<class>/*.png` and `<target>/test/<class>/*.png`, lossless, from the binary version's files.

    The folder is written aside and renamed, so a reader never sees half of it.

    Args:
        source: the folder that holds data_batch_1.bin to data_batch_5.bin and test_batch.bin (cifar-10-batches-bin).
        target: must not exist yet.
        on_progress: called with the files that are done, and all.

    Returns:
        `target` as an absolute Path.

    Raises:
        FileNotFoundError: a file of the six is missing.
        ValueError: a damaged file, or a target that exists.
        ImportError: Pillow is missing.
    """
    folder, place = Path(source), Path(target).absolute()
    missing = [name for names in PARTS.values() for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"cifar10: {folder} has no {', '.join(missing)}; expected the unpacked binary version, cifar-10-batches-bin"
        )
    if place.exists():
        raise ValueError(f"cifar10: {place} exists already; name a folder that does not")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as aside:
        fresh = Path(aside) / "new"
        files = [(part, name) for part, names in PARTS.items() for name in names]
        for done, (part, name) in enumerate(files):
            on_progress(done, len(files))
            _write_images(fresh / part, folder / name)
        fresh.rename(place)
    return place


def _write_images(folder: Path, batch: Path) -> None:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"cifar10: writing images needs {error.name}; pip install pillow") from error
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (pixels, label) in enumerate(zip(*read_batch(batch), strict=True)):
        path = folder / CLASSES[label] / f"{batch.stem}_{number:05}.png"
        Image.fromarray(pixels).save(path, compress_level=1)  # higher levels save little of noise-like pixels
