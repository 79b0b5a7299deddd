"""Files that are either the old one or the new one, never half of one, whatever befalls the process or the machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a file is written in until it is whole: a directory beside it, named after the file and the writing process.
_SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)\.tmp")

_UNWRITABLE = "make its directory writable"
_GONE = "bring its directory back (it was removed, or its disk is no longer mounted)"
_HINTS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: _UNWRITABLE,
    errno.EACCES: _UNWRITABLE,
    errno.EPERM: _UNWRITABLE,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ESTALE: _GONE,
}


@contextmanager
def written_aside(path: str | Path, *, make_parent: bool = True) -> Iterator[Path]:
    """Yields a path to write to; on success that file is synced and renamed onto `path`, and the renaming synced.

    The yielded path lies in a directory of its own, so that whatever a library leaves beside a half-written file goes with it:
    at once on failure; where the process is killed, at the next write of `path`.

    Args:
        path: what to write.
        make_parent: make its directory where there is none. Not for what is written hours after the directory was made: if that
            has vanished by then, so may have the disk it was on.

    Raises:
        OSError: it cannot be written; the message names the file, the reason, the space there, and what to do. Its `errno` is the
            system's. What was at `path` is intact.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if make_parent:
            make_directory(path.parent)
        remove_leftovers(path.parent, path.name)
        scratch.mkdir()
        yield scratch / path.name
        _sync(scratch / path.name)
        os.replace(scratch / path.name, path)
        _sync(path.parent)  # until then a loss of power may undo the renaming
    except Exception as error:
        if (number := _system_errno(error)) is None:
            raise
        raise _failure(path, number) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_directory(path: Path, *, make_parent: bool = True) -> None:
    """Makes a directory where there is none, and waits until its name is on the disk; arguments and errors as `written_aside`."""
    try:
        missing = [path, *path.parents] if make_parent else [path]
        for directory in reversed([directory for directory in missing if not directory.is_dir()]):
            directory.mkdir(exist_ok=True)
            _sync(directory.parent)
    except OSError as error:
        raise _failure(path, error.errno or errno.EIO) from error


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Removes what killed processes left of files they were writing: of the file `name`, or of all in a directory.

    A process that lives keeps what it writes. This one writes nothing when it asks: what bears its number is of a dead namesake,
    as in containers, where numbers repeat.
    """
    for entry in list(directory.iterdir()):
        match = _SCRATCH.fullmatch(entry.name)
        if match is None or name not in (None, match["name"]) or _is_another_alive(int(match["pid"])):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def write_json(path: str | Path, data: Any, *, make_parent: bool = True) -> None:
    """Writes readable JSON atomically; arguments and errors as `written_aside`."""
    with written_aside(path, make_parent=make_parent) as aside:
        aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        ValueError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, not valid JSON ({error}); write it anew") from error


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, in pieces: files may be larger than what memory is left."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def json_sha256(data: Any) -> str:
    """sha256 of plain data; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems sync no directories; their renames are on the server, and there is nothing to wait for.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _is_another_alive(pid: int) -> bool:
    """Whether another process of that number runs on this machine."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _system_errno(error: Exception) -> int | None:
    """The system's error number; safetensors, written in Rust, has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error ([0-9]+)\)", str(error))
    return int(match[1]) if match else None


def _failure(path: Path, number: int) -> OSError:
    """What to say about a file that cannot be written."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    hint = _HINTS.get(number, "see to that")
    failure = OSError(
        f"{path}: cannot be written: {os.strerror(number)} ({shutil.disk_usage(there).free:,} bytes are free there); "
        f"{hint}, then give the same command again"
    )
    failure.errno = number
    return failure
