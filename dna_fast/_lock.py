"""One process at a time does a stage of a run: two that train into one directory would overwrite each other's checkpoints."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]


@contextmanager
def exclusive(directory: Path, stage: str) -> Iterator[None]:
    """Holds `<directory>/locks/<stage>` while the stage is done.

    The system lets go of it when the process ends, in whatever way; the file stays. Where a file system has no locks, as some
    that are shared between machines, nothing is held.

    Args:
        directory: of the run.
        stage: its name, in words.

    Raises:
        RuntimeError: another process does this stage; the message says which, as it wrote when it began.
    """
    path = directory / "locks" / (re.sub(r"[^\w.-]+", "_", stage) + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "a process that has not yet said its number"
                raise RuntimeError(
                    f"{directory}: {stage} is being done by {holder}; wait for it, stop it, or choose another run directory"
                ) from None
            except OSError:
                pass  # this file system has none
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})\n")
        file.flush()
        yield
