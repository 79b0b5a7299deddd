"""What a log file hears of a stage, and what -q and -v make of it."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from dna_fast import display
from dna_fast.display import NORMAL, QUIET, VERBOSE, Display, in_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on the clock, to be set."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_time_left_goes_by_the_share_of_the_work(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)).progress("rating") as update:
        update(30, 100, "resumed", 0.5)  # an earlier run's, at once
        clock[0] = 20.0
        update(40, 100, "2.0 paths/s", 0.6)  # a tenth of the work in 20 s, four tenths are left
    assert out.getvalue() == "  rating: 40 of 100, about 1 min 20 s left; 2.0 paths/s\n"


def test_the_first_seconds_tell_how_long_it_will_take(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)).progress("supernet") as update:
        update(0, 100, "")
        clock[0] = 2.0
        update(4, 100, "too soon")
        clock[0] = 4.0
        update(10, 100, "loss 1")
    assert out.getvalue() == "  supernet: 10 of 100, about 36 s left; loss 1\n"


def test_lines_grow_rarer(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)).progress("supernet") as update:
        update(0, 10**6, "")
        for second in range(1, 86_401):
            clock[0] = float(second)
            update(second, 10**6, "")
    lines = out.getvalue().count("\n")
    # 3 s, then every 10 s up to 200 s, 5 % of the time up to 6000 s, then every 300 s.
    assert 20 + 60 + 250 < lines < 20 + 80 + 280


def test_a_terminal_shows_the_share_and_the_time_left(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with Display(console).progress("rating") as update:
        update(0, 100, "")
        clock[0] = 30.0
        update(40, 100, "2.0 paths/s", 0.75)
        console.file.truncate(0)
    assert "75%" in console.file.getvalue()
    assert "10 s left" in console.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_quiet_leaves_results_alone(terminal: bool, clock: list[float]) -> None:
    out = io.StringIO()
    shown = Display(Console(file=out, width=80, force_terminal=terminal, color_system=None), QUIET)
    shown.heading("1. Training")
    shown.note("on the way")
    with shown.progress("supernet") as update:
        update(0, 100, "")
        clock[0] = 100.0
        update(50, 100, "half")
    shown.say("the result")
    assert out.getvalue() == "the result\n"


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [(QUIET, ["warning: worse"]), (NORMAL, ["warning: worse"]), (VERBOSE, ["a detail", "warning: worse"])],
    ids=["quiet", "normal", "verbose"],
)
def test_what_is_logged_goes_to_standard_error(
    verbosity: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("dna_fast.some_module")
    with Display(verbosity=verbosity).logging():
        log.debug("all of it")
        log.info("a detail")
        log.warning("worse")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == expected
    assert captured.out == ""
    assert logging.getLogger("dna_fast").handlers == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (80, "1 min 20 s"),
        (605, "10 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
