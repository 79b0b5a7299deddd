"""A race: every contestant is checked first, then all are timed in turns in one process, so that a drift of the machine meets all.

Caches are warm: a contestant's turn begins with a call that is not counted.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# mallopt's parameters, from glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Args:
        fields: what tells it from the others, e.g. way, dtype, allocator.
        run: does the work once and returns the answer.
        check: takes the answer; returns facts to report with the times (such as its error), raises if it is wrong.
    """

    fields: dict[str, Any]
    run: Callable[[], Any]
    check: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Pace:
    """How long to measure: `turns` per contestant, each of about `turn_s` seconds and at least one counted call.

    A contestant whose checked call took longer than `once_above_s` is timed by that call alone.
    """

    turns: int
    turn_s: float
    most_calls: int = 100  # per turn; quantiles need no more
    once_above_s: float = 60.0


def race(contestants: Sequence[Contestant], pace: Pace) -> list[dict[str, Any]]:
    """Checks all, then times all.

    Returns:
        Per contestant its fields, what its check reported, `seconds` of every counted call, and `page_faults` per call (without I/O).

    Raises:
        AssertionError: a wrong answer; nothing has been timed then.
    """
    entries: list[dict[str, Any]] = []
    for contestant in contestants:
        before, start = _page_faults(), time.perf_counter()
        answer = contestant.run()
        first_s, first_faults = time.perf_counter() - start, _page_faults() - before
        try:
            facts = contestant.check(answer)
        except AssertionError as error:
            raise AssertionError(f"{contestant.fields}: {error}") from error
        slow = first_s > pace.once_above_s
        counted = {"seconds": [first_s], "page_faults": first_faults} if slow else {"seconds": [], "page_faults": 0}
        entries.append({**contestant.fields, **facts, **counted})
    order = [pair for pair in zip(contestants, entries, strict=True) if not pair[1]["seconds"]]
    gc.collect()
    gc.disable()
    try:
        for turn in range(pace.turns):
            for contestant, entry in order if turn % 2 == 0 else reversed(order):
                _take_turn(contestant.run, entry, pace)
    finally:
        gc.enable()
    for entry in entries:
        entry["page_faults"] = round(entry["page_faults"] / len(entry["seconds"]))
    return entries


def _take_turn(run: Callable[[], Any], entry: dict[str, Any], pace: Pace) -> None:
    warm_up = _seconds(run)
    calls = max(1, min(pace.most_calls, int(pace.turn_s / max(warm_up, 1e-9))))
    before = _page_faults()
    entry["seconds"] += [_seconds(run) for _ in range(calls)]
    entry["page_faults"] += _page_faults() - before


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep what is freed, for the rest of the process.

    By default it maps every tensor above 32 MiB anew and returns it to the system at once; the page faults that follow can take
    longer than the arithmetic. Limits on the size of what is not mapped end at 32 MiB, so mapping is switched off altogether.

    Raises:
        RuntimeError: the C library is not glibc, or refuses.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        raise RuntimeError("keep_freed_memory: expected glibc's mallopt, found none in this C library")
    # One arena: another one's heaps end at 64 MiB. Padding: fewer, larger steps while the heap grows.
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20), (M_ARENA_MAX, 1)):
        if libc.mallopt(parameter, value) != 1:
            raise RuntimeError(f"keep_freed_memory: mallopt({parameter}, {value}) was refused")
