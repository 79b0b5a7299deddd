"""The list of images behind a loader: names, labels and sizes of an image folder."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dna_fast.data.errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # what DALI decodes, compared in lower case
_SCAN_THREADS = 16  # opening a file waits for the disk or the network, not for a core
_NAMED = 3  # how many of many offenders an error names


@dataclass(frozen=True, eq=False)  # == of arrays is an array; compare fingerprints instead
class ImageIndex:
    """Images of an image folder `<root>/<class>/<image>`, in the order of their names.

    Sizes are those stored in the file: EXIF orientation is ignored, as PIL, torchvision and timm do when they load.

    Attributes:
        root: absolute path of the folder.
        files: N paths relative to root, with forward slashes.
        labels: [N] int64, position in `classes`.
        classes: class names, sorted.
        widths, heights: [N] int32, pixels.
        file_bytes: [N] int64, size of each file.
        skipped: unreadable files that `on_bad="skip"` left out.
    """

    root: str
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    file_bytes: NDArray[np.int64]
    skipped: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "widths", "heights", "file_bytes"):
            shape = np.shape(getattr(self, name))
            if shape != (len(self.files),):
                raise ValueError(f"image index: {name} must have shape ({len(self.files)},) like files, got {shape}")

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def scan(cls, root: str | os.PathLike[str], *, on_bad: str = "error") -> ImageIndex:
        """Lists an image folder and reads the header of every image.

        A header shows an empty file, a text file with an image's name and an image's size; it does not show a file
        that was cut short, which the loader reports when it decodes it.

        Args:
            root: folder of class folders. Other files and hidden names are ignored.
            on_bad: "error" stops at unreadable images and names them; "skip" leaves them out and counts them.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: no class folders, class folders without images, or another `on_bad`.
            DataError: unreadable images, or none that is readable.
        """
        if on_bad not in ("error", "skip"):
            raise ValueError(f'image folder: on_bad must be "error" or "skip", got {on_bad!r}')
        folder = Path(root).absolute()
        classes, files, labels = _list_images(folder)
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            headers = list(pool.map(_read_header, (folder / name for name in files)))
        bad = [position for position, header in enumerate(headers) if isinstance(header, str)]
        if bad and on_bad == "error":
            raise DataError(_describe_bad([f"{folder / files[k]} ({headers[k]})" for k in bad]))
        good = [position for position, header in enumerate(headers) if not isinstance(header, str)]
        if not good:
            raise DataError(
                f"image folder: no readable image in {folder}, all {len(bad)} are damaged; get the data again"
            )
        sizes = np.array([headers[k] for k in good], np.int64)
        return cls(
            root=str(folder),
            files=tuple(files[k] for k in good),
            labels=np.array(labels, np.int64)[good],
            classes=classes,
            widths=sizes[:, 0].astype(np.int32),
            heights=sizes[:, 1].astype(np.int32),
            file_bytes=sizes[:, 2],
            skipped=len(bad),
        )

    def path(self, position: int) -> str:
        """Absolute path of one image."""
        return os.path.join(self.root, self.files[position])

    def subset(self, indices: ArrayLike) -> ImageIndex:
        """The images at `indices`, in that order; classes and labels keep their meaning.

        Raises:
            ValueError: not a 1-D list of integers, a position outside the index, or one that is named twice.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise ValueError(f"subset: indices must be a 1-D list of integers, got {chosen.dtype} {chosen.shape}")
        chosen = chosen.astype(np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(f"subset: indices must be in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("subset: indices must not repeat; every image may appear once")
        return replace(
            self,
            files=tuple(self.files[k] for k in chosen),
            labels=self.labels[chosen],
            widths=self.widths[chosen],
            heights=self.heights[chosen],
            file_bytes=self.file_bytes[chosen],
            skipped=0,
        )

    def fingerprint(self) -> str:
        """sha256 over classes, relative names, sizes in pixels and bytes, and labels; independent of where root is."""
        digest = hashlib.sha256()
        for names in (self.classes, self.files):
            # A length in front of each name, or ("ab", "c") and ("a", "bc") would look the same.
            digest.update(b"".join(b"%d:%b" % (len(raw), raw) for raw in map(os.fsencode, names)) + b";")
        for numbers in (self.labels, self.widths, self.heights, self.file_bytes):
            digest.update(np.ascontiguousarray(numbers, "<i8").tobytes())
        return digest.hexdigest()


def _list_images(folder: Path) -> tuple[tuple[str, ...], list[str], list[int]]:
    """Classes, relative file names and labels of a folder, sorted by name."""
    if not folder.exists():
        raise FileNotFoundError(f"image folder: {folder} does not exist; expected a folder with one folder per class")
    if not folder.is_dir():
        raise ValueError(f"image folder: {folder} is a file; expected a folder with one folder per class")
    classes = tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))
    if not classes:
        raise ValueError(
            f"image folder: {folder} has no class folders; expected {folder}/<class>/<image>, "
            f"with images named {', '.join('*' + suffix for suffix in SUFFIXES)}"
        )
    files: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        images = sorted(e.name for e in os.scandir(folder / name) if _is_image(e))
        if not images:
            empty.append(name)
        files += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if empty:
        more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        raise ValueError(
            f"image folder: no images in class folder {', '.join(str(folder / name) for name in empty[:_NAMED])}{more}; "
            f"add images ({', '.join(SUFFIXES)}) or remove the folder"
        )
    return classes, files, labels


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()


def _read_header(path: Path) -> tuple[int, int, int] | str:
    """Width, height in pixels and size in bytes, or what is wrong with the file."""
    from PIL import Image  # an extra; splits and transforms work without it

    try:
        size = path.stat().st_size
        if size == 0:
            return "the file is empty"
        with Image.open(path) as image:
            return image.width, image.height, size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # PIL raises the middle two from broken chunk headers of some formats.
        return "not an image that PIL can identify" if type(error).__name__ == "UnidentifiedImageError" else str(error)


def _describe_bad(bad: list[str]) -> str:
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return (
        f"image folder: {len(bad)} unreadable image(s): {', '.join(bad[:_NAMED])}{more}; "
        'replace or remove them, or scan with on_bad="skip"'
    )
