"""What a person sees while a stage runs: a bar on a terminal, quiet lines in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

FIRST_SECONDS = 3.0  # after so long a log file hears for the first time how long a stage will take
LINE_SECONDS, MOST_SECONDS = 10.0, 300.0  # between further lines: a stage of days must not fill the disk
LINES_SHARE = 20  # a line per 1/20 of the time that a stage has run, within these limits

QUIET, NORMAL, VERBOSE, DEBUG = range(-1, 3)
_LEVELS = {QUIET: logging.WARNING, NORMAL: logging.WARNING, VERBOSE: logging.INFO, DEBUG: logging.DEBUG}


class Update(Protocol):
    """Tells how far a stage is."""

    def __call__(self, done: int, total: int, remarks: str, share: float | None = None) -> None:
        """`share` of the work is done, where that is not done / total: by it the time that is left is estimated."""


class Display:
    """Console output of one command.

    Args:
        console: where to print; default the terminal's standard output.
        verbosity: QUIET: results alone; NORMAL; VERBOSE, DEBUG: also what the package logs below warnings, on standard error.
    """

    def __init__(self, console: Console | None = None, verbosity: int = NORMAL) -> None:
        self.console = console if console is not None else Console(highlight=False)
        self.verbosity = max(QUIET, min(verbosity, DEBUG))

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line of a result, printed as it is: a path may hold what rich would take for markup."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def note(self, text: str = "", style: str | None = None) -> None:
        """A line about the way to a result; `-q` leaves it out."""
        if self.verbosity > QUIET:
            self.say(text, style)

    def heading(self, text: str) -> None:
        self.note(f"\n{text}", style="bold")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """A table; all but the first column are right-aligned."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self.console.print(table)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Shows what the package logs on standard error: warnings always, more with the verbosity."""
        logger, handler = logging.getLogger("dna_fast"), _Lines()
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(_LEVELS[self.verbosity])
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before

    @contextmanager
    def progress(self, what: str) -> Iterator[Update]:
        """Yields update(done, in all, remarks)."""
        if self.verbosity == QUIET:
            yield _ignore
        elif not self.console.is_terminal:
            yield self._lines(what)
        else:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[left]}", markup=False),
                TextColumn("{task.fields[remarks]}", markup=False),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task, pace = bar.add_task(what, total=None, remarks="", left=""), _Pace()

                def update(done: int, total: int, remarks: str, share: float | None = None) -> None:
                    share = done / total if share is None else share
                    left = pace.left(share)
                    words = "" if left is None else f"{in_words(left)} left"
                    bar.update(task, completed=share * total, total=total, remarks=remarks, left=words)

                yield update

    def _lines(self, what: str) -> Update:
        pace, wait, last = _Pace(), FIRST_SECONDS, time.monotonic()

        def update(done: int, total: int, remarks: str, share: float | None = None) -> None:
            nonlocal last, wait
            left, now = pace.left(done / total if share is None else share), time.monotonic()
            if left is None or now - last < wait:
                return
            last, wait = now, max(LINE_SECONDS, min(pace.seconds() / LINES_SHARE, MOST_SECONDS))
            self.say(f"  {what}: {done} of {total}, about {in_words(left)} left; {remarks}")

        return update


class _Pace:
    """Estimates the time that is left from what was done since the first update: what an earlier run did took none of it."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None  # when, and the share of the work that was done by then

    def seconds(self) -> float:
        """Since the first update."""
        return 0.0 if self.first is None else time.monotonic() - self.first[0]

    def left(self, share: float) -> float | None:
        """Seconds until all is done, now that `share` is; None before there is anything to go by."""
        if self.first is None:
            self.first = (time.monotonic(), share)
        start, at_first = self.first
        return None if share <= at_first else (time.monotonic() - start) * (1 - share) / (share - at_first)


class _Lines(logging.Handler):
    """Log records as lines on standard error; rich puts them above a bar that is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        serious = record.levelno >= logging.WARNING
        text = f"{record.levelname.lower()}: {record.getMessage()}" if serious else record.getMessage()
        style = "yellow" if serious else "dim"
        Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)


def _ignore(done: int, total: int, remarks: str, share: float | None = None) -> None:
    """An update that nobody sees."""


def in_words(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 05 min, 3 d 4 h: two units are enough for an estimate."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
