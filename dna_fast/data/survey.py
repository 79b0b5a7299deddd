"""Looks at every file of a listing once, and remembers what it saw: a second look opens only files that changed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dna_fast.data.headers import Header, read_header
from dna_fast.data.listing import Listing

LOG = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]  # files looked at, files in all

_THREADS = 16  # opening a file waits for the disk or the network, not for a core
_CHUNK = 16  # files that a thread looks at in one go: handing over one costs more than asking for its size
_AT_ONCE = 4096  # files handed to the threads at once: a set of millions must not queue up as millions of futures
_FORMAT, _VERSION = "dna_fast image survey", 1
_NUMBERS = ("file_bytes", "modified_ns", "width", "height", "decoded")
_TEXTS = ("kind", "fault")


def survey(
    listing: Listing,
    *,
    store: str | os.PathLike[str] | None = None,
    decode: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Header]:
    """What every file of a listing is, in its order.

    Args:
        store: a file that keeps what was seen: a file that has kept its size and time of change is not opened again. Written
            anew where anything changed; one that is missing, damaged or of another version is made anew.
        decode: decode all pixels, not only those of files that look cut short: minutes per 100,000 photographs and core.
        on_progress: called now and then.
    """
    known = {} if store is None else _load(Path(store))
    paths, headers = listing.paths(), [known.get(name, Header()) for name in listing.files]
    fresh = 0

    def look(chunk: range) -> list[Header]:
        nonlocal fresh
        seen = []
        for k in chunk:
            with contextlib.suppress(OSError):  # read_header tells what is wrong
                if headers[k].matches(os.stat(paths[k])) and (headers[k].decoded or headers[k].fault or not decode):
                    seen.append(headers[k])
                    continue
            fresh += 1
            seen.append(read_header(paths[k], decode=decode))
        return seen

    # A large image is worth no warning: read_header refuses what is too large.
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool, _cancelled_on_error(pool):
        warnings.simplefilter("ignore")
        for start in range(0, len(paths), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(paths)))
            chunks = [part[k : k + _CHUNK] for k in range(0, len(part), _CHUNK)]
            headers[part.start : part.stop] = chain.from_iterable(pool.map(look, chunks))
            if on_progress is not None:
                on_progress(part.stop, len(paths))
    if store is not None and (fresh or len(known) != len(paths)):
        _save(Path(store), listing, headers)
    return headers


def store_path(directory: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path:
    """The `store` in a directory for a folder or list of images: its name, and a digest of its absolute path."""
    path = os.path.abspath(source)
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(directory) / f"{os.path.basename(path) or 'images'}-{digest}.npz"


@contextmanager
def _cancelled_on_error(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Ctrl-C does not wait for what is still queued."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _save(path: Path, listing: Listing, headers: list[Header]) -> None:
    columns: dict[str, Any] = {name: np.array([getattr(h, name) for h in headers], np.int64) for name in _NUMBERS}
    columns |= {name: _packed(getattr(h, name) for h in headers) for name in _TEXTS}
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            format_ = np.array(f"{_FORMAT} {_VERSION} {listing.root}")
            np.savez(file, format=format_, files=_packed(listing.files), **columns)
        os.replace(aside, path)
    except OSError as error:
        LOG.warning("%s: cannot be written (%s); all images will be looked at again next time", path, error)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Header]:
    """What an earlier survey saw, by name; nothing where there was none, or where it cannot be read."""
    if not path.exists():
        return {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if not str(stored["format"]).startswith(f"{_FORMAT} {_VERSION} "):
                return {}
            files = _unpacked(stored["files"])
            columns = [_column(stored, field.name) for field in fields(Header)]
        return {name: Header(*values) for name, *values in zip(files, *columns, strict=True)}
    except Exception as error:  # a damaged archive can fail in any way inside zipfile and numpy
        LOG.warning("%s: damaged (%s); all images are looked at again", path, error)
        return {}


def _column(stored: np.lib.npyio.NpzFile, name: str) -> list[str] | list[int] | list[bool]:
    if name in _TEXTS:
        return _unpacked(stored[name])
    return (stored[name] != 0).tolist() if name == "decoded" else stored[name].tolist()


# Texts end in a zero byte each, which no file name holds: numpy's own arrays of text take four bytes a character and the
# width of the longest.
def _packed(texts: Iterable[str]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(os.fsencode(text) + b"\0" for text in texts), np.uint8)


def _unpacked(packed: NDArray[np.uint8]) -> list[str]:
    return [os.fsdecode(raw) for raw in packed.tobytes().split(b"\0")[:-1]]
