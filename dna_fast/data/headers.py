"""What one image file is: its size in pixels and bytes, its kind, and what is wrong with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

# Evaluation resizes the shorter side to some 256 pixels: beyond this an image would take over 200 MB of memory then.
MOST_ELONGATED = 1000
_TAIL_BYTES = 1024  # cameras and editors append a little; a file that was cut short ends in the middle of its pixels
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)  # millions of them are held at once
class Header:
    """What is known of a file.

    Attributes:
        file_bytes, modified_ns: size and time of change when it was read; -1 where the file could not be read at all.
        width, height: pixels as stored; 0 where unknown.
        kind: format, colours and orientation, such as "JPEG RGB", "PNG RGBA", "JPEG L turned".
        fault: what is wrong with it; empty if nothing.
        decoded: whether every pixel was decoded, not only the header.
    """

    file_bytes: int = -1
    modified_ns: int = -1
    width: int = 0
    height: int = 0
    kind: str = ""
    fault: str = ""
    decoded: bool = False

    def matches(self, file: os.stat_result) -> bool:
        """Whether the file is still the one that was looked at."""
        return (self.file_bytes, self.modified_ns) == (file.st_size, file.st_mtime_ns)


def read_header(path: str, *, decode: bool = False) -> Header:
    """Looks at a file: at its header and its end, at every pixel where the end looks cut off, or with `decode`.

    Never raises for what a file holds; the answer tells it. Not for files whose pixels PIL decodes and others do not.
    """
    from PIL import Image, UnidentifiedImageError  # an extra; splits and transforms work without it

    header = Header()
    try:
        file = os.stat(path)
        header = Header(file.st_size, file.st_mtime_ns)
        if file.st_size == 0:
            return replace(header, fault="the file is empty")
        with Image.open(path) as image:
            header = replace(header, width=image.width, height=image.height, kind=_kind(image))
            if max(image.size) > MOST_ELONGATED * min(image.size):
                return replace(header, fault=f"{image.width} x {image.height} pixels, too elongated to be resized")
            if decode or not _has_end(path, str(image.format)):
                if str(image.format) == "JPEG" and decode:
                    image.draft("RGB", (1, 1))  # every code is read, fewer frequencies are transformed: half the time
                image.load()
                header = replace(header, decoded=True)
    except UnidentifiedImageError:
        return replace(header, fault="not an image that PIL can identify")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # PIL raises ValueError, SyntaxError and EOFError from broken chunks of some formats. An error of the machine (with
        # an errno) says nothing about the file: unread, it is looked at again next time.
        known_bytes = header.file_bytes if getattr(error, "errno", None) is None else -1
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__  # strerror: without the path
        return replace(header, file_bytes=known_bytes, fault=words)
    return header


def _has_end(path: str, kind: str) -> bool:
    """Whether a file ends as its format does; False also for formats that have no mark at their end."""
    mark = _END_MARKS.get(kind)
    with open(path, "rb") as file:
        if kind == "WEBP":
            start = file.read(8)
            return int.from_bytes(start[4:], "little") + 8 <= os.fstat(file.fileno()).st_size
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return mark is not None and mark in file.read()


def _kind(image: Image.Image) -> str:
    parts = [str(image.format), image.mode]
    exif: Any = image.getexif() if "exif" in image.info else {}
    return " ".join([*parts, "turned"] if exif.get(_EXIF_ORIENTATION, 1) not in (0, 1) else parts)
