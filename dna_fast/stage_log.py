"""What a stage logs while it runs: rows of a CSV file, and TensorBoard events where they are asked for."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dna_fast._files import written_aside

LOG = logging.getLogger(__name__)
_Row = Mapping[str, float | int]


class StageLog:
    """Rows of `logs/<name>.csv` in a run directory, each written at once.

    A stage that goes on after an interruption begins with its last checkpoint: rows of an earlier attempt from its first row on
    are dropped, for they are about to be written again. A disk that is full ends the log with a warning, not the stage.

    Args:
        directory: of the run.
        name: of the stage, such as "supernet" or "models/found".
        columns: of the rows, behind `time_s`, the seconds since 1970.
        position: the column that grows from row to row, by which rows are dropped.
        tensorboard: also write every row to `logs/tensorboard/<name>`.

    Raises:
        RuntimeError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, directory: Path, name: str, columns: Sequence[str], *, position: str = "step", tensorboard: bool = False
    ) -> None:
        self.path = directory / "logs" / f"{name}.csv"
        self.columns, self.position = ("time_s", *columns), position
        self.file: TextIO | None = None
        self.broken = False
        self.rows = 0  # added so far: whether the stage did anything
        self.events_path = directory / "logs" / "tensorboard" / name
        self.events = _summary_writer() if tensorboard else None
        self.writer: Any = None

    def add(self, row: _Row) -> None:
        """Writes a row: a value for every column but `time_s`."""
        self.rows += 1
        if not self.broken:
            try:
                if self.file is None:
                    self.file = self._open(row[self.position])
                csv.writer(self.file).writerow([f"{time.time():.3f}", *(row[name] for name in self.columns[1:])])
            except OSError as error:
                self.broken = True
                LOG.warning("%s: cannot be written (%s); the stage goes on without it", self.path, error)
        if self.events is not None:
            self._add_events(row)

    def close(self) -> None:
        """Closes the files."""
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def _open(self, first: float) -> TextIO:
        """The file with the rows before position `first`, ready for more."""
        kept = [row for row in _rows(self.path, self.columns) if float(row[self.columns.index(self.position)]) < first]
        with written_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *kept])
        return self.path.open("a", newline="", encoding="utf-8", buffering=1)

    def _add_events(self, row: _Row) -> None:
        position = int(row[self.position])
        if self.writer is None:
            assert self.events is not None
            self.writer = self.events(log_dir=str(self.events_path), purge_step=position)
        for name in self.columns[1:]:
            if name != self.position:
                self.writer.add_scalar(name, row[name], position)


@contextmanager
def stage_log(
    directory: Path, name: str, columns: Sequence[str], *, position: str = "step", tensorboard: bool = False
) -> Iterator[StageLog]:
    """A `StageLog` that is closed whatever happens."""
    log = StageLog(directory, name, columns, position=position, tensorboard=tensorboard)
    try:
        yield log
    finally:
        log.close()


def _rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Whole rows of an earlier attempt: a killed process can leave half a row at the end. None of a file with other columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if header == list(columns) and len(row) == len(columns) and all(map(_is_number, row))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(
            "--tensorboard needs the package tensorboard; install it with: pip install 'dna_fast[tensorboard]'"
        ) from error
    return SummaryWriter
