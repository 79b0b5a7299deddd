"""What a person sees while a stage runs: a bar on a terminal, quiet lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0  # how often a log file hears of a running stage


class Update(Protocol):
    """Tells how far a stage is."""

    def __call__(self, done: int, total: int, remarks: str, share: float | None = None) -> None:
        """`share` of the work is done, where that is not done / total: by it the time that is left is estimated."""


class Display:
    """Console output of one command.

    Args:
        console: where to print; default the terminal's standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else Console(highlight=False)

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line of text, printed as it is: a path may hold what rich would take for markup."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        self.say(f"\n{text}", style="bold")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """A table; all but the first column are right-aligned."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self.console.print(table)

    @contextmanager
    def progress(self, what: str) -> Iterator[Update]:
        """Yields update(done, in all, remarks)."""
        if not self.console.is_terminal:
            yield self._lines(what)
            return
        remarks = TextColumn("{task.fields[remarks]}", markup=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            remarks,
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=None, remarks="")

            def update(done: int, total: int, remarks: str, share: float | None = None) -> None:
                at = done if share is None else share * total
                bar.update(task, completed=at, total=total, remarks=remarks)

            yield update

    def _lines(self, what: str) -> Update:
        last = time.monotonic()
        first: tuple[float, float] | None = None  # when, and what share of the work an earlier run had done by then

        def update(done: int, total: int, remarks: str, share: float | None = None) -> None:
            nonlocal last, first
            now, share = time.monotonic(), done / total if share is None else share
            first = (now, share) if first is None else first
            if now - last < LINE_SECONDS or share <= first[1]:
                return
            last = now
            left = (now - first[0]) * (1 - share) / (share - first[1])
            self.say(f"  {what}: {done} of {total}, about {left:.0f} s left; {remarks}")

        return update
