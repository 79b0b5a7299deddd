"""What a log file hears of a stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dna_fast import display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the clock, to be set."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_time_left_goes_by_the_share_of_the_work(clock: list[float]) -> None:
    out = io.StringIO()
    with display.Display(Console(file=out, width=200)).progress("rating") as update:
        update(30, 100, "resumed", 0.5)  # an earlier run's, at once
        clock[0] = 20.0
        update(40, 100, "2.0 paths/s", 0.6)  # a tenth of the work in 20 s, four tenths are left
    assert out.getvalue() == "  rating: 40 of 100, about 80 s left; 2.0 paths/s\n"


def test_without_a_share_all_steps_count_alike(clock: list[float]) -> None:
    out = io.StringIO()
    with display.Display(Console(file=out, width=200)).progress("supernet") as update:
        update(0, 100, "")
        clock[0] = 5.0
        update(10, 100, "too soon")
        clock[0] = 20.0
        update(40, 100, "loss 1")
    assert out.getvalue() == "  supernet: 40 of 100, about 30 s left; loss 1\n"


def test_a_terminal_shows_the_share(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with display.Display(console).progress("rating") as update:
        update(40, 100, "2.0 paths/s", 0.75)
        console.file.truncate(0)
    assert "75%" in console.file.getvalue()
