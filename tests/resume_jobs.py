"""What children of the zygote do in tests of resuming: die at chosen moments, run out of disk.

A child that fails says why, and ends with 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import resume_scenarios

SKIPPED = 77  # the exit code of a child on a machine that does not let it do what it should


# ---- crash points ----------------------------------------------------------------------------------------------------


class Operations:
    """Counts what this process does to files, once it watches, and kills it before the operation of a given number.

    Syncing a file counts twice: before it, the file may be whole, or, as after a loss of power, half written.
    """

    def __init__(self, fatal: int | None) -> None:
        self.fatal, self.log = fatal, list[tuple[str, str]]()

    def watch(self) -> None:
        sys.addaudithook(self._hear)
        fsync = os.fsync

        def watched(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self._count("fsync", path)
            if os.path.isfile(path):
                self._count("fsync", path, partial(os.truncate, path, os.path.getsize(path) // 2))
            fsync(descriptor)

        os.fsync = watched

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            self._count(event, str(arguments[0]))

    def _count(self, operation: str, path: str, damage: Callable[[], None] | None = None) -> None:
        if len(self.log) == self.fatal:
            self.fatal = None  # the damage is an operation, too
            if damage is not None:
                damage()
            os.kill(os.getpid(), signal.SIGKILL)
        self.log.append((operation, path))


def every_crash_point(scenario: str, directory: str) -> None:
    """Kills a save at each of its file operations; afterwards the old state or the new one is there, and nothing else."""
    what: resume_scenarios.Scenario = getattr(resume_scenarios, scenario)()
    old = Path(directory) / "old"
    what.prepare(old)
    whole = _copy(old, "whole")
    before = what.read(whole)
    what.save(whole)
    after = what.read(whole)
    assert before != after
    names = _names(whole)
    found = list[bool]()
    for number in range(1000):
        root = _copy(old, f"crash_{number}")
        status = _forked(partial(_save_until, what, root, number))
        state = what.read(root)
        assert state in (before, after), f"operation {number}: neither the old state nor the new one"
        found.append(state == after)
        what.save(root)
        assert what.read(root) == after, f"operation {number}: saving again gave another state"
        assert _names(root) == names, f"operation {number}: left {_names(root) ^ names}"
        shutil.rmtree(root)
        if status == 0:
            break
        assert status == -signal.SIGKILL, f"operation {number}: ended with {status}"
    assert found[-1], "a save that was not killed did not save"
    assert found == sorted(found), "the new state was there, and then the old one again"
    print(json.dumps({"points": len(found) - 1, "old": found.count(False)}))


def _save_until(what: resume_scenarios.Scenario, root: Path, number: int) -> None:
    Operations(number).watch()
    what.save(root)


def order_of_syncs(scenario: str, directory: str) -> None:
    """Every renamed file was synced, and its renaming is synced before anything is removed or the next file is renamed."""
    what: resume_scenarios.Scenario = getattr(resume_scenarios, scenario)()
    root = Path(directory) / "old"
    what.prepare(root)
    operations = Operations(None)
    operations.watch()
    what.save(root)
    log = [entry for entry in operations.log if entry[0] != "open"]
    renames = [number for number, (operation, _) in enumerate(log) if operation == "os.rename"]
    assert renames
    for number in renames:
        renamed = Path(log[number][1])
        assert log[number - 1] == ("fsync", str(renamed)), f"{renamed} was renamed before it was synced"
        assert log[number + 1] == ("fsync", str(renamed.parent.parent)), f"the renaming of {renamed} was not synced"
    for number, (operation, path) in enumerate(log):
        if operation == "os.mkdir" and not path.endswith(".tmp"):
            assert log[number + 1] == ("fsync", str(Path(path).parent)), f"the making of {path} was not synced"


def interrupted_behind_the_state(directory: str) -> None:
    """A second Ctrl-C strikes at once, here while the renaming of `state.json` is being synced."""
    what, root = resume_scenarios.supernet(), Path(directory) / "old"
    what.prepare(root)
    before, fsync, renamed = what.read(root), os.fsync, (root / "state.json").stat().st_ino

    def strike(descriptor: int) -> None:
        if (root / "state.json").stat().st_ino != renamed:
            raise KeyboardInterrupt
        fsync(descriptor)

    os.fsync = strike
    with contextlib.suppress(KeyboardInterrupt):
        what.save(root)
    os.fsync = fsync
    state = what.read(root)
    what.save(root)
    assert state == what.read(root) != before


def _names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def _copy(old: Path, name: str) -> Path:
    return Path(shutil.copytree(old, old.with_name(name)))


def _forked(do: Callable[[], None]) -> int:
    """Exit code of a child that does it; minus the signal that killed it."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- disks that are full, read-only or gone --------------------------------------------------------------------------


class Trouble(ABC):
    """Something that keeps a directory from being written to, until it is mended."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...


class FullDisk(Trouble):
    """A file system of its own, filled to the last page."""

    errno, words = errno.ENOSPC, "No space left on device (0 bytes are free there); free some space there"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        _mount(root)

    def begin(self) -> None:
        with open(self.root / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def end(self) -> None:
        (self.root / "filler").unlink()


class ReadOnly(Trouble):
    """A file system of its own, mounted read-only."""

    errno, words = errno.EROFS, "Read-only file system"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        _mount(root)

    def begin(self) -> None:
        _mount(self.root, _MS_REMOUNT | _MS_RDONLY)

    def end(self) -> None:
        _mount(self.root, _MS_REMOUNT)


class NoRight(Trouble):
    """Directories without the right to write, and a process without root's privilege to do so all the same."""

    errno, words = errno.EACCES, "Permission denied"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        version_3, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        _system("capset", version_3, none)

    def begin(self) -> None:
        self._change(0o555)

    def end(self) -> None:
        self._change(0o755)

    def _change(self, mode: int) -> None:
        for directory in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            directory.chmod(mode)


class LargestFile(Trouble):
    """The limit of `ulimit -f`, below the size of anything that is saved."""

    errno, words = errno.EFBIG, "File too large"

    def begin(self) -> None:
        _, self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, self.hard))

    def end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))


class Gone(Trouble):
    """The directory is moved away."""

    errno, words = errno.ENOENT, "bring its directory back"

    def begin(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))

    def end(self) -> None:
        assert not self.root.exists(), "it was made anew, as if nothing were amiss"
        self.root.with_name("elsewhere").rename(self.root)


def through_trouble(job: str, trouble: str, directory: str) -> None:
    """A job that trouble strikes halfway says so in one message, leaves what it had saved, and ends with the bits of one spared."""
    do: Callable[[Path, Callable[[], None]], Any] = getattr(resume_scenarios, job)
    root, whole = Path(directory) / "run", Path(directory) / "whole"
    root.mkdir()
    what: Trouble = globals()[trouble](root)
    steps = list[None]()
    expected = do(whole, lambda: steps.append(None))
    kept = dict[str, bytes | None]()

    def strike() -> None:
        taken.append(None)
        if len(taken) == len(steps) // 2:
            kept.update(_content(root))
            assert kept, "nothing was saved before the trouble"
            what.begin()

    taken = list[None]()
    failure = None
    try:
        do(root, strike)
    except OSError as error:
        failure = error
    finally:
        what.end()
    message = str(failure)
    assert failure is not None, "nothing was raised"
    assert failure.errno == what.errno, message
    assert what.words in message, message
    assert "cannot be written" in message, message
    assert "then give the same command again" in message, message
    assert f"{root}/" in message, message
    assert len(taken) == len(steps) // 2, "the job went on after it could not save"
    assert _content(root) == kept, "what was saved did not stay, or something half-written did"
    left = list[None]()
    assert do(root, lambda: left.append(None)) == expected, "other bits than those of an uninterrupted job"
    assert len(left) < len(steps), "it began anew"
    print(message)


def _content(root: Path) -> dict[str, bytes | None]:
    """Every file's bytes, and the directories."""
    paths = [path for path in root.rglob("*") if path.name != "filler"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def limited_command(argv: list[str], file_bytes: int) -> None:
    """A command that may write no file larger than that."""
    import zygote

    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    zygote.command(*argv)


# ---- mounts of one's own ---------------------------------------------------------------------------------------------

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC_PRIVATE = 1, 32, 16384 | (1 << 18)
_SIZE = "4m"  # several checkpoints of the scenarios


def _skip(reason: str) -> None:
    print(reason)
    sys.stdout.flush()
    os._exit(SKIPPED)


def _system(call: str, *arguments: Any) -> None:
    """A call of the C library that Python has no function for; where it may not be made, the child ends as skipped."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, call)(*arguments) != 0:
        _skip(f"{call} is not allowed here: {os.strerror(ctypes.get_errno())}")


def _mount(root: Path, flags: int = 0) -> None:
    """A small file system of memory at `root`, seen by this process alone and gone with it; or other flags for the one there."""
    if not flags & _MS_REMOUNT:
        _own_mounts()
    source = b"tmpfs"
    _system("mount", source, os.fsencode(root), b"tmpfs", ctypes.c_ulong(flags), f"size={_SIZE}".encode())


def _own_mounts() -> None:
    user, group = os.geteuid(), os.getegid()
    _system("unshare", _CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER)
    if user != 0:  # root of a name space of users of one's own
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _system("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)
