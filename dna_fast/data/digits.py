"""The embedded data set: 1797 handwritten digits (scikit-learn's copy of the UCI test set) as a JPEG image folder.

Small enough to train on a laptop, real enough that training, rating and search mean something, and read by the same
code as any other image folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from dna_fast.data.splits import REST, class_balanced_split
from dna_fast.data.transforms import EvalTransform, TrainTransform

TEST_IMAGES = 360
_JPEG_QUALITY = 95
_INK_LEVELS = 16  # load_digits counts ink in 0..16
_MANIFEST = "digits.json"
_FORMAT_VERSION = 1
_CENTRED = (0.5, 0.5, 0.5)  # maps pixel values to -1..1


def write_digits(root: str | os.PathLike[str], *, size: int = 64, seed: int = 0) -> Path:
    """Writes the digits as `<root>/train/<0..9>/*.jpg` and `<root>/test/<0..9>/*.jpg`, unless they are there.

    White on black RGB JPEGs, upsampled bicubically from 8 x 8. The test set is 360 images, 36 of each class. The folder
    is written aside and renamed, so a reader never sees half of it; one that does not match its manifest is replaced.

    Args:
        root: the folder; its parent is made where it is missing.
        size: side of the images in pixels.
        seed: decides which images are the test set.

    Returns:
        `root` as an absolute Path.

    Raises:
        ValueError: size below 8 or a negative seed, or `root` holds something else than digits.
        ImportError: scikit-learn or Pillow is missing.
    """
    if size < 8:
        raise ValueError(f"digits: size must be at least 8, the originals' side, got {size}")
    if seed < 0:
        raise ValueError(f"digits: seed must not be negative, got {seed}")
    folder = Path(root).absolute()
    wanted = {"format": "dna_fast digits", "version": _FORMAT_VERSION, "size": size, "seed": seed}
    if _is_intact(folder, wanted):
        return folder
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
        fresh = Path(aside) / "new"
        _write_images(fresh, size, seed)
        manifest = {**wanted, "sha256": _content_hash(fresh)}
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _swap_in(fresh, folder, Path(aside) / "old", wanted)
    return folder


def digits_transforms(size: int = 64) -> tuple[TrainTransform, EvalTransform]:
    """Transforms that keep a digit a digit: no flip, mild crop, rotation, shift and contrast, nothing erased."""
    train = TrainTransform(
        size,
        scale=(0.8, 1.0),
        ratio=(0.9, 1.1),
        flip=0.0,
        color_jitter=0.2,
        rotate_deg=10.0,
        translate=0.06,
        erase_prob=0.0,
        mean=_CENTRED,
        std=_CENTRED,
    )
    return train, EvalTransform(size, crop_pct=1.0, mean=_CENTRED, std=_CENTRED)


def _write_images(folder: Path, size: int, seed: int) -> None:
    try:
        from PIL import Image
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits: writing them needs {error.name}; pip install scikit-learn pillow") from error
    digits = load_digits()
    splits = class_balanced_split(digits.target.astype(np.int64), {"test": TEST_IMAGES}, seed)
    for name, positions in (("train", splits[REST]), ("test", splits["test"])):
        for label in range(10):
            (folder / name / str(label)).mkdir(parents=True)
        for position in positions:
            grey = np.rint(digits.images[position] * (255.0 / _INK_LEVELS)).astype(np.uint8)
            image = Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
            image.save(folder / name / str(digits.target[position]) / f"{position:04d}.jpg", quality=_JPEG_QUALITY)


def _content_hash(folder: Path) -> str:
    """sha256 over the names and contents of all images, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for part in ("train", "test") for p in (folder / part).rglob("*") if p.is_file()):
        raw = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}:{len(raw)}:".encode())
        digest.update(raw)
    return digest.hexdigest()


def _is_intact(folder: Path, wanted: dict[str, object]) -> bool:
    """Whether the folder holds what `wanted` describes, every byte of it."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest == {**wanted, "sha256": _content_hash(folder)})
    except (OSError, ValueError):
        return False


def _refuse_foreign(folder: Path) -> None:
    """Raises unless the folder is missing, or holds only what write_digits puts there: it is about to be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"digits: {folder} is a file; name a folder that does not exist yet")
    foreign = sorted({entry.name for entry in folder.iterdir()} - {"train", "test", _MANIFEST})
    if foreign:
        raise ValueError(
            f"digits: {folder} holds other things ({', '.join(foreign[:3])}) and would be replaced; name another folder"
        )


def _swap_in(fresh: Path, folder: Path, old: Path, wanted: dict[str, object]) -> None:
    """Renames `fresh` to `folder`; what was there moves to `old`."""
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        # Another process may have put the same digits there in between; anything else is a real failure.
        if not _is_intact(folder, wanted):
            raise
    shutil.rmtree(old, ignore_errors=True)
