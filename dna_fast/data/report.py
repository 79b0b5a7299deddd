"""What there is to know about a set of images before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dna_fast.data.headers import Header
from dna_fast.data.index import ImageIndex
from dna_fast.data.listing import SUFFIXES, Listing, list_file, list_folder
from dna_fast.data.transforms import TrainTransform
from dna_fast.data.tuning import Settings, tune

if TYPE_CHECKING:
    from dna_fast.data.loader import Loader

_ORDINARY = ("JPEG RGB",)
_NAMES = {  # suffixes of a format; another one is worth a word
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_TINY, _HUGE = 32, 25_000_000  # shorter side in pixels; pixels in all
_MEASURED_IMAGES, _MEASURED_BATCH = 2048, 32


@dataclass(frozen=True)
class Report:
    """Counts, classes, odd and unreadable files of one set of images."""

    listing: Listing
    headers: list[Header]

    @cached_property
    def faults(self) -> dict[str, str]:
        """Path -> what is wrong, of every image that cannot be read."""
        return {p: h.fault for p, h in zip(self.listing.paths(), self.headers, strict=True) if h.fault}

    @cached_property
    def odd(self) -> dict[str, list[str]]:
        """What is unusual, though it can be read -> paths."""
        found: dict[str, list[str]] = {}
        for path, header in zip(self.listing.paths(), self.headers, strict=True):
            if not header.fault:
                for word in _oddities(path, header):
                    found.setdefault(word, []).append(path)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    @cached_property
    def per_class(self) -> dict[str, int]:
        """Readable images of each class."""
        good = (label for label, header in zip(self.listing.labels, self.headers, strict=True) if not header.fault)
        counts = Counter(good)
        return {name: counts[label] for label, name in enumerate(self.listing.classes)}

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        good = [header for header in self.headers if not header.fault]
        counts = list(self.per_class.values())
        sides = np.array([(h.width, h.height) for h in good] or [(0, 0)])
        return {
            "root": self.listing.root,
            "images": len(good),
            "classes": len(counts),
            "images_per_class": {"least": min(counts), "most": max(counts)},
            "empty_classes": [name for name, count in self.per_class.items() if not count],
            "bytes": sum(header.file_bytes for header in good),
            "median_size": np.median(sides, axis=0).astype(int).tolist(),
            "decoded": sum(header.decoded for header in good),
            "kinds": dict(Counter(header.kind for header in good).most_common()),
            "odd": {word: {"images": len(paths), "first": paths[0]} for word, paths in self.odd.items()},
            "unreadable": self.faults,
        }


def find_parts(source: Path) -> dict[str, Listing]:
    """Name -> listing of a list file, of a folder of class folders, or of every such folder in a folder (train, val).

    Raises:
        FileNotFoundError, ValueError: as `list_folder` and `list_file`.
    """
    if source.is_file():
        return {source.name: list_file(source)}
    children = (
        sorted(c for c in source.iterdir() if c.is_dir() and not c.name.startswith(".")) if source.is_dir() else []
    )
    parts = [child for child in children if _holds_folders(child)]
    return {part.name: list_folder(part) for part in parts} if parts else {source.name: list_folder(source)}


def measured_speed(
    report: Report,
    *,
    size: int,
    device: str,
    threads: int | None = None,
    measure: Callable[[Loader], float] | None = None,
) -> Settings | None:
    """How fast the loader delivers these images for training here, and with which settings; None for too few images.

    Raises:
        ImportError: DALI is not installed.
        RuntimeError: a GPU was asked for and torch sees none.
    """
    from dna_fast.data.dali import DaliLoader

    index = ImageIndex.of(report.listing, report.headers, on_bad="skip")
    step = max(1, len(index) // _MEASURED_IMAGES)
    index = index.subset(np.arange(0, len(index), step)[:_MEASURED_IMAGES])  # of all classes
    batch_size = min(_MEASURED_BATCH, len(index) // 2)
    if batch_size < 1:
        return None

    def make(count: int, prefetch: int) -> DaliLoader:
        return DaliLoader(
            index,
            TrainTransform(size),
            batch_size=batch_size,
            seed=0,
            training=True,
            device=device,
            threads=count,
            prefetch=prefetch,
            on_bad="skip",
        )

    return tune(make, threads=threads, measure=measure)


def _holds_folders(folder: Path) -> bool:
    """Whether a folder holds class folders: folders, and no images of its own."""
    inside = list(folder.iterdir())
    has_images = any(entry.name.lower().endswith(SUFFIXES) for entry in inside)
    return not has_images and any(entry.is_dir() and not entry.name.startswith(".") for entry in inside)


def _oddities(path: str, header: Header) -> list[str]:
    """What is unusual about a readable image, in words."""
    kind, _, rest = header.kind.partition(" ")
    words = [] if header.kind.removesuffix(" turned") in _ORDINARY else [f"{kind} {rest.removesuffix(' turned')}"]
    if rest.endswith(" turned"):
        words.append("EXIF asks to turn it (it is not turned, as in timm)")
    suffix = Path(path).suffix
    if suffix.lower() not in _NAMES.get(kind, (suffix.lower(),)):
        words.append(f"{kind} named *{suffix}")
    if min(header.width, header.height) < _TINY:
        words.append(f"shorter side below {_TINY} pixels")
    if header.width * header.height > _HUGE:
        words.append(f"more than {_HUGE // 10**6} million pixels")
    return words
