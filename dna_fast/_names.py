"""The known name that somebody meant: whatever its case, with hyphens for underscores, or mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIKE = 0.7  # from this similarity on (1: equal) a name is taken for a misspelling rather than for another word


def plain(name: str) -> str:
    """The name in lower case with underscores, as names here are written."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def nearest(name: str, known: Iterable[str], count: int = 1, least: float = 0.0) -> list[str]:
    """The known names most like `name`, the best first.

    Args:
        name: what was given.
        known: what could have been meant.
        count: how many at most.
        least: similarity, between 0 and 1, below which a name is left out.
    """
    spelled = {plain(each): each for each in known}
    return [spelled[each] for each in difflib.get_close_matches(plain(str(name)), list(spelled), n=count, cutoff=least)]
