"""The list of images behind a loader: names, labels and sizes of an image folder or of a list."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dna_fast.data.errors import DataError
from dna_fast.data.headers import Header
from dna_fast.data.listing import Listing, list_file, list_folder
from dna_fast.data.survey import survey

LOG = logging.getLogger(__name__)
_NAMED = 3  # how many of many offenders an error names


@dataclass(frozen=True, eq=False)  # == of arrays is an array; compare fingerprints instead
class ImageIndex:
    """Images of a folder `<root>/<class>/<image>` in the order of their names, or of a list in the order of its lines.

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
    def scan(
        cls, root: str | os.PathLike[str], *, on_bad: str = "error", store: str | os.PathLike[str] | None = None
    ) -> ImageIndex:
        """Lists an image folder and looks at every file: at its header, and whether it ends as its format does.

        That shows an empty file, a text file with an image's name, a file that was cut short, and an image's size. It does
        not show pixels that are damaged in the middle, which `survey(..., decode=True)` finds, and the loader.

        Args:
            root: folder of class folders. Other files and hidden names are ignored.
            on_bad: "error" stops at unreadable images and names them; "skip" leaves them out, counts and logs them.
            store: a file that keeps what was seen (see `survey`): files that have not changed are not opened again.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: no class folders, class folders without images, or another `on_bad`.
            DataError: unreadable images, or none that is readable.
        """
        _check_policy(on_bad)
        listing = list_folder(root)
        return cls.of(listing, survey(listing, store=store), on_bad=on_bad)

    @classmethod
    def from_list(
        cls,
        path: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        on_bad: str = "error",
        store: str | os.PathLike[str] | None = None,
    ) -> ImageIndex:
        """As `scan`, of the images that a text file names: see `listing.list_file` for its form and errors."""
        _check_policy(on_bad)
        listing = list_file(path, root)
        return cls.of(listing, survey(listing, store=store), on_bad=on_bad)

    @classmethod
    def of(cls, listing: Listing, headers: Sequence[Header], *, on_bad: str = "error") -> ImageIndex:
        """The index of a listing whose files were looked at; `on_bad` and errors as in `scan`."""
        _check_policy(on_bad)
        good = [k for k, header in enumerate(headers) if not header.fault]
        bad = [
            f"{path} ({header.fault})" for path, header in zip(listing.paths(), headers, strict=True) if header.fault
        ]
        if bad and on_bad == "error":
            raise DataError(
                f"{listing.what}: {_told(bad)}; replace or remove them, or leave them out: "
                'on_bad="skip", in a configuration data.on_bad: skip'
            )
        if not good:
            raise DataError(
                f"{listing.what}: no readable image in {listing.root}, all {len(bad)} are damaged; get the data again"
            )
        if bad:
            LOG.warning("%s: left out %s", listing.what, _told(bad))
        chosen = [headers[k] for k in good]
        return cls(
            root=listing.root,
            files=tuple(listing.files[k] for k in good),
            labels=np.array(listing.labels, np.int64)[good],
            classes=listing.classes,
            widths=np.array([header.width for header in chosen], np.int32),
            heights=np.array([header.height for header in chosen], np.int32),
            file_bytes=np.array([header.file_bytes for header in chosen], np.int64),
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


def _check_policy(on_bad: str) -> None:
    if on_bad not in ("error", "skip"):
        raise ValueError(f'images: on_bad must be "error" or "skip", got {on_bad!r}')


def _told(bad: list[str]) -> str:
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} unreadable image(s): {', '.join(bad[:_NAMED])}{more}"
