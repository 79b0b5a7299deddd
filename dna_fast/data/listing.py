"""Which images there are and what they show: a folder of class folders, or a text file that names them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # what DALI decodes, compared in lower case
_NAMED = 3  # how many of many offenders an error names


@dataclass(frozen=True)
class Listing:
    """Names and labels; nothing is known yet of what the files hold.

    Attributes:
        root: absolute path that `files` are relative to.
        files: N paths with forward slashes; an absolute one stands for itself.
        labels: per file, position in `classes`.
        classes: class names, sorted; numbers by their value.
        what: "image folder" or "image list": how messages call it.
    """

    root: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    what: str

    def paths(self) -> list[str]:
        """Absolute paths of all images."""
        return [os.path.join(self.root, name) for name in self.files]


def list_folder(root: str | os.PathLike[str]) -> Listing:
    """Lists `<root>/<class>/<image>`, sorted by name. Other files and hidden names are ignored.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, or class folders without images.
    """
    folder = Path(root).absolute()
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
    return Listing(str(folder), tuple(files), tuple(labels), classes, "image folder")


def list_file(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Listing:
    """Reads a text file with an image's path and its label per line, in that order, separated by blanks.

    The order of the lines is kept. The label is the last word, so paths may hold blanks; it is a class name or number.
    Empty lines and lines that begin with # are ignored.

    Args:
        path: of the text file.
        root: what relative paths are relative to; None: the text file's folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without a label, an image that is named twice, no line at all, or another encoding than UTF-8.
    """
    path = Path(path).absolute()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        message = f"image list: {path} does not exist; expected a text file with an image's path and its label per line"
        raise FileNotFoundError(message) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"image list: {path} is not UTF-8 text ({error})") from error
    named: dict[str, str] = {}  # path -> class
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.strip().rsplit(None, 1)
        if len(words) < 2:
            raise ValueError(f"image list: {path}, line {number}: expected a path and a label, got {line.strip()!r}")
        if words[0] in named:
            raise ValueError(f"image list: {path}, line {number}: {words[0]} is named a second time; name it once")
        named[words[0]] = words[1]
    if not named:
        raise ValueError(f"image list: {path} names no image; expected a path and a label per line")
    names = set(named.values())
    classes = tuple(sorted(names, key=int) if all(map(str.isdecimal, names)) else sorted(names))
    position = {name: label for label, name in enumerate(classes)}
    base = path.parent if root is None else Path(root).absolute()
    return Listing(str(base), tuple(named), tuple(position[c] for c in named.values()), classes, "image list")


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
