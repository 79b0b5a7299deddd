"""A race: every contestant is checked first, then all are timed in turns in one process, so that a drift of the machine meets all.

Caches are warm: a contestant's turn begins with a call that is not counted.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dna_fast import memory


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
    """As `dna_fast.memory.keep_freed_memory`, which commands call before they train or rate on a CPU; here it must work.

    Raises:
        RuntimeError: the C library is not glibc, or refuses.
    """
    if not memory.keep_freed_memory():
        raise RuntimeError(
            "keep_freed_memory: expected glibc's mallopt, and that it agrees; measure on a system with glibc"
        )
