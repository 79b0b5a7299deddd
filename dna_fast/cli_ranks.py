"""Commands as ranks of a job that torchrun started: all work, the first alone talks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from dna_fast.cli_options import EXIT_ERROR, open_display

if TYPE_CHECKING:
    from dna_fast.display import Display
    from dna_fast.parallel import World

FOR_RANKS = ("train", "rate", "retrain")  # the commands whose work ranks share


def ranks() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_command(name: str | None) -> None:
    """Refuses a command that one process does, where a launcher started several; one of them says so.

    Raises:
        ValueError: on the first rank.
    """
    if ranks() > 1 and name not in FOR_RANKS:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(EXIT_ERROR)
        raise ValueError(
            f"dna-fast {name} is done by one process, and {ranks()} were started; give it without torchrun ({', '.join(FOR_RANKS)} "
            "share their work)"
        )


@contextmanager
def joined() -> Iterator[World | None]:
    """The ranks of this job, to which this process belongs; None where it is alone. `parallel.joined` says how it ends."""
    if ranks() == 1:
        yield None
        return
    from dna_fast import parallel  # torch, for which a single process has no need yet

    with parallel.joined() as world:
        yield world


def leader_first(world: World | None, what: str) -> AbstractContextManager[None]:
    """As `World.leader_first`."""
    return nullcontext() if world is None else world.leader_first(what)


def display_of(world: World | None) -> Display:
    """Where a rank talks: nowhere, but for the first."""
    if world is None or world.is_leader:
        return open_display()
    from rich.console import Console

    from dna_fast.display import QUIET, Display

    return Display(Console(file=open(os.devnull, "w", encoding="utf-8")), QUIET)
