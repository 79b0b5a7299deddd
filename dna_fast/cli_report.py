"""The command that writes a report: one page per run, or one that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dna_fast.cli_options import open_display


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the page; default: RUN/report.html, for several runs ./report.html."),
    ] = None,
) -> None:
    """Write a page about a run, or one that compares several: results, search, ratings, losses, provenance. HTML that needs only itself."""
    from dna_fast.report_page import write_report

    path = out if out is not None else (runs[0] if len(runs) == 1 else Path()) / "report.html"
    write_report(runs, path)
    open_display().say(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
