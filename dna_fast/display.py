"""What a person sees while a stage runs: a bar on a terminal, quiet lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 10.0  # how often a log file hears of a running stage

Update = Callable[[int, int, str], None]  # done, in all, remarks


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
            yield lambda done, total, remarks: bar.update(task, completed=done, total=total, remarks=remarks)

    def _lines(self, what: str) -> Update:
        last = time.monotonic()
        first: tuple[float, int] | None = None  # when, and how much of an earlier run's work was done by then

        def update(done: int, total: int, remarks: str) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = (now, done) if first is None else first
            if now - last < LINE_SECONDS or done <= first[1]:
                return
            last = now
            left = (now - first[0]) * (total - done) / (done - first[1])
            self.say(f"  {what}: {done} of {total}, about {left:.0f} s left; {remarks}")

        return update
