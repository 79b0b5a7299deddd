"""Where a training loop's time goes, told without making the device wait: marks between parts of a step, read every so many steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

PARTS = ("loader", "teacher", "students", "communication", "other")


@dataclass(frozen=True)
class PartTimes:
    """Seconds of every part since the last reading.

    On the CPU they are the host's. On a GPU they are the times between events in its stream: the loader's is how long the device
    had nothing to do before the batch was on it.
    """

    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """Part -> share of the total; all 0 before there is anything to go by."""
        total = self.total_s
        return {part: seconds / total if total > 0 else 0.0 for part, seconds in self.seconds.items()}

    def summary(self) -> str:
        """Such as "loader 1 %, teacher 34 %, students 65 %": parts that round to nothing are left out."""
        return ", ".join(f"{part} {100 * share:.0f} %" for part, share in self.shares.items() if share >= 0.005)


class StepClock:
    """Splits all time between its readings among PARTS, so that they add up to it.

    Not for several threads. On a GPU a mark is an event in the current stream; only `read` waits, for the last of them.

    Args:
        device: whose time is told.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []  # all that were made; the first `len(_parts) + 1` are in use
        self._parts: list[str] = []  # what lay before each event but the first
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self.restart()

    def restart(self) -> None:
        """Forgets what was marked; time counts from here."""
        self._parts.clear()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._stamp(0)

    def mark(self, part: str) -> None:
        """All since the last mark was this part."""
        if self._on_gpu:
            self._parts.append(part)
            self._stamp(len(self._parts))
            return
        before = self._last_s
        self._stamp(0)
        self._seconds[part] += self._last_s - before

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Marks a part at its end, and names it in a profiler's trace."""
        with torch.profiler.record_function(f"dna_fast: {name}"):
            yield
        self.mark(name)

    def read(self) -> PartTimes:
        """The times since the last reading, or `restart`. Waits for the device."""
        if self._on_gpu:
            self._events[len(self._parts)].synchronize()
            for number, part in enumerate(self._parts):
                self._seconds[part] += self._events[number].elapsed_time(self._events[number + 1]) / 1e3
            # What was the last event is the first of the next stretch, so that nothing between readings is lost.
            last = len(self._parts)
            self._events[0], self._events[last] = self._events[last], self._events[0]
            self._parts.clear()
        times = PartTimes(dict(self._seconds))
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return times

    def _stamp(self, number: int) -> None:
        if not self._on_gpu:
            self._last_s = time.perf_counter()
            return
        if number == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        self._events[number].record()
