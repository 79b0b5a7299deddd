"""What subcommands share: options that mean the same everywhere, exit codes, how a run is opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dna_fast.display import Display
    from dna_fast.pipeline import Run

EXIT_NO_ANSWER, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130

# Of the command under way; set from the options before the subcommand, which has no other way to hear of them.
VERBOSITY: ContextVar[int] = ContextVar("verbosity", default=0)

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the configuration (train.epochs=3). Repeatable."
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also log to RUN/logs/tensorboard (needs the package tensorboard).")
]


def open_display(*, quiet: bool = False) -> Display:
    """Where a command talks; `quiet`, where standard output belongs to JSON, as if -q were given."""
    from dna_fast.display import QUIET, Display

    return Display(verbosity=QUIET if quiet else VERBOSITY.get())


def say_overrides(display: Display, config: Path, overrides: Sequence[str] | None) -> None:
    """Prints what every --set replaces."""
    if overrides:
        from dna_fast.config_sources import described_overrides

        for line in described_overrides(config, overrides):
            display.say(line)


def open_run(directory: Path) -> Run:
    """Opens a run directory."""
    from dna_fast.pipeline import Run

    return Run.open(directory)
