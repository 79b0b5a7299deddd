"""Who of a job's ranks is alive, and who says what went wrong: a thread beside the work, for that may wait for a rank that is dead."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

EXIT_FAILED, EXIT_INTERRUPTED = 2, 130
LOOK_S = 0.5  # between two looks: a failure is heard of within this time
SILENT_S = (
    40.0  # without a sign of life from a rank on another machine, it is dead: the job must be over within a minute
)
TERM_S = 3.0  # after SIGTERM a failure of another rank may be the reason; if none is found by then, someone wants the job to end


class Store(Protocol):
    """What is asked of torch.distributed's key-value store."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def check(self, keys: list[str]) -> bool: ...


class Watch:
    """Tells signs of life, hears failures of other ranks, and ends this process when the job has failed.

    The first rank that fails tells it; the others, who only lose contact, end in silence. A rank that is killed cannot tell: a
    survivor finds its process gone (on the same machine) or silent (on another one, or stopped), and tells it.

    Args:
        store: shared by all ranks; a client of its own, for a thread uses it.
        rank, size: of this process, and of the job.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.is_failing = self.is_over = False
        self._term_at: float | None = None
        self._beats: dict[int, tuple[str, float]] = {}  # rank -> last sign of life, when it was new
        self._places: dict[int, dict[str, str]] = {}  # where ranks run
        self._wake, inside = socket.socketpair()
        for end in (self._wake, inside):
            end.setblocking(False)
        self._inside = inside
        self._before = signal.getsignal(signal.SIGTERM)
        self._thread = threading.Thread(target=self._run, name="dna_fast ranks", daemon=True)

    def start(self) -> None:
        """Begins, on the main thread. SIGTERM from now on asks the job to save and end."""
        me = {"host": socket.gethostname(), "machine": _machine(), "pid": str(os.getpid())}
        self.store.set(f"who/{self.rank}", json.dumps(me))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: None)
            # The main thread may wait in a library for hours; this descriptor is written to at once.
            signal.set_wakeup_fd(self._inside.fileno(), warn_on_full_buffer=False)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; the job is over."""
        self.is_over = True
        self._inside.send(b"\0")  # wakes it
        self._thread.join(10 * LOOK_S)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self._before)

    # ---- failures ---------------------------------------------------------------------------------------------------

    def claim(self, code: int = EXIT_FAILED) -> bool:
        """Makes this rank the one that tells why the job ends; False if another rank does."""
        self.is_failing = True
        try:
            is_first = self.store.add("claims", 1) == 1
            if is_first:
                self.store.set("failure", json.dumps({"rank": self.rank, "code": code}))
        except Exception:  # the store went with its process: nobody can be asked any more
            return True
        return is_first

    def failure(self) -> dict[str, int] | None:
        """Which rank failed first, and the exit code it ends with."""
        if not self.store.check(["failure"]):
            return None
        found: dict[str, int] = json.loads(self.store.get("failure"))
        return found

    def wait_for_reason(self) -> None:
        """After contact was lost: returns when nobody has told a reason for it by the time that a dead rank would be found."""
        end = time.monotonic() + SILENT_S + 5
        while time.monotonic() < end and self._thread.is_alive():
            time.sleep(LOOK_S)  # the thread ends this process as soon as there is a reason

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        beat, looked_at = 0, time.monotonic()
        while not self.is_over:
            self._hear_signals()
            try:
                beat += 1
                self.store.set(f"alive/{self.rank}", str(beat))
                failed = self.failure()
                now = time.monotonic()
                if now - looked_at > SILENT_S / 4:
                    self._beats.clear()  # this process itself was stopped: that others seem silent is its own doing
                looked_at = now
                dead = None if failed else self._dead(now)
            except Exception as error:
                if not self.is_over and not self.is_failing:
                    self._tell_and_leave(
                        f"lost the job's store; the launcher, or the process of rank 0, is gone ({error})"
                    )
                return
            if self.is_failing or self.is_over:
                continue
            if failed is not None:
                _leave(failed["code"])
            if dead is not None:
                if self.claim():
                    self._tell_and_leave(dead)
                self.is_failing = False
                continue
            if self._term_at is not None and now - self._term_at > TERM_S:
                self._term_at = None
                os.kill(os.getpid(), signal.SIGINT)

    def _hear_signals(self) -> None:
        if select.select([self._wake], [], [], LOOK_S)[0]:
            heard = self._wake.recv(64)
            if signal.SIGTERM in heard:
                self._term_at = time.monotonic()

    def _dead(self, now: float) -> str | None:
        """What to say about a rank that is dead, if there is one."""
        for rank in self._others():
            place = self._places[rank]
            is_gone = place["machine"] == _machine() and not _is_running(int(place["pid"]))
            is_dead = is_gone or self._is_silent(rank, now)
            how = "its process is gone" if is_gone else f"no sign of life for {SILENT_S:.0f} s"
            # In this order: a rank says that it is done, or has failed, before it ends.
            if is_dead and not self.store.check([f"done/{rank}"]) and self.failure() is None:
                return f"rank {rank} died (process {place['pid']} on {place['host']}: {how}; killed, or out of memory?)"
        return None

    def _is_silent(self, rank: int, now: float) -> bool:
        key = f"alive/{rank}"
        beat = self.store.get(key).decode() if self.store.check([key]) else ""
        last, since = self._beats.get(rank, (None, now))
        if beat != last:
            self._beats[rank] = (beat, now)
            return False
        return now - since > SILENT_S

    def _others(self) -> Sequence[int]:
        """All ranks whose process is on this machine, and the next one, wherever it is: so every machine is watched by another."""
        following = (self.rank + 1) % self.size
        for rank in range(self.size):
            if rank not in self._places and self.store.check([f"who/{rank}"]):
                self._places[rank] = json.loads(self.store.get(f"who/{rank}"))
        here = {rank for rank, place in self._places.items() if place["machine"] == _machine()}
        return sorted(({following} | here) & set(self._places) - {self.rank})

    def _tell_and_leave(self, what: str) -> None:
        sys.stderr.write(
            f"error: {what}; all other ranks end. What was saved is whole: give the same command again, on as many ranks as you like\n"
        )
        _leave(EXIT_FAILED)


def _machine() -> str:
    """Tells apart where numbers of processes mean different processes: machines, and containers on one machine."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()  # where there is no /proc, nothing is known
    except OSError:
        return True
    return state not in "ZX"  # a zombie is dead, and waits for its parent


def _leave(code: int) -> None:
    """Ends the process from any thread: the main one may wait for a rank that will never answer."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
