"""Finished ratings on disk, so that an interrupted rating goes on where it stopped."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dna_fast._files import make_directory, read_json, remove_leftovers, write_json, written_aside

LOG = logging.getLogger(__name__)


class RatingStore:
    """Ratings by block, cell and first operator.

    A file holds the paths of one cell that begin with the same operator: with n operators, an interruption costs at most an n-th
    of a cell.

    Args:
        root: directory.
        identity: what the ratings depend on; ratings of another identity are discarded.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.root = root
        make_directory(root)
        remove_leftovers(root)
        mark = root / "identity.json"
        if not mark.exists() or read_json(mark) != identity:
            self.clear()
            write_json(mark, identity)

    def load(self, block: int, cell: int, operator: int, shape: tuple[int, int, int]) -> NDArray[np.float64] | None:
        """The ratings of a cell's paths that begin with `operator`, or None if they are not done.

        Args:
            shape: what they must have, [paths, batches, metrics].

        Raises:
            ValueError: a damaged file, or one of another shape.
        """
        path = self._path(block, cell, operator)
        if not path.exists():
            return None
        try:
            with open(path, "rb") as file:
                ratings: NDArray[np.float64] = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); delete it, and its paths are rated again") from error
        if ratings.shape != shape or ratings.dtype != np.float64:
            raise ValueError(
                f"{path}: damaged, expected float64 {shape}, got {ratings.dtype} {ratings.shape}; "
                "delete it, and its paths are rated again"
            )
        return ratings

    def save(self, block: int, cell: int, operator: int, ratings: NDArray[np.float64]) -> None:
        """Keeps ratings [paths, batches, metrics] of a cell's paths that begin with `operator`.

        Raises:
            OSError: they cannot be written; the message says why and what to do. Those kept before stay.
        """
        path = self._path(block, cell, operator)
        with written_aside(path, make_parent=False) as aside, open(aside, "wb") as file:
            np.save(file, ratings, allow_pickle=False)
        LOG.debug("%s written: %d paths rated", path, len(ratings))

    def clear(self) -> None:
        """Removes all ratings."""
        for path in self.root.glob("*.npy"):
            path.unlink()

    def _path(self, block: int, cell: int, operator: int) -> Path:
        return self.root / f"block_{block}_cell_{cell}_operator_{operator}.npy"
