"""Going on with what an earlier command left: the words for it, and whether there is anything."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path


class Resume(str, Enum):
    """What a command does about training that was begun before."""

    AUTO = "auto"  # goes on with it where there is any
    NEVER = "never"  # refuses where there is any
    MUST = "must"  # refuses where there is none


class Which(str, Enum):
    """One of a supernet's checkpoints."""

    LAST = "last"
    BEST = "best"


class DamagedWarning(UserWarning):
    """Something kept is damaged, and something older takes its place."""


def check_resume(resume: Resume, what: str, leftovers: Sequence[Path]) -> None:
    """Refuses what `resume` does not allow.

    Args:
        resume: the user's wish.
        what: is trained, in words.
        leftovers: files that training leaves, whichever it has come to.

    Raises:
        ValueError: `never` and one of them is there, `must` and none is.
    """
    found = [path for path in leftovers if path.exists()]
    if resume is Resume.NEVER and found:
        raise ValueError(
            f"--resume never: training of {what} was begun before ({found[0]}); choose another directory, remove that one, "
            "or go on with --resume auto"
        )
    if resume is Resume.MUST and not found:
        raise ValueError(
            f"--resume must: no training of {what} to go on with (none of {', '.join(map(str, leftovers))}); "
            "check the directory, or begin with --resume auto"
        )
