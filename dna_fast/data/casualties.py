"""Images that turned out to be damaged while they were read: what takes their place, and when there are too many."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dna_fast.data.errors import DataError
from dna_fast.data.index import ImageIndex
from dna_fast.data.keyed import Purpose, uniform

LOG = logging.getLogger(__name__)
MOST_SHARE = 0.01  # of the images may be damaged before it is the disk, not the images; but always MOST_FEW
MOST_FEW = 10
_DRAWS = 64  # of a substitute that is not damaged; with MOST_SHARE damaged, one is almost always enough


class Casualties:
    """The damaged images of a loader.

    Args:
        index: its images.
        seed: its seed.
        on_bad: "error" raises for the first; "skip" counts, logs and goes on.
        training: whether another image takes a damaged one's place, so that batches keep their size; evaluation leaves
            it out, so that nothing counts twice.
    """

    def __init__(self, index: ImageIndex, seed: int, *, on_bad: str, training: bool) -> None:
        if on_bad not in ("error", "skip"):
            raise ValueError(f'loader: on_bad must be "error" or "skip", got {on_bad!r}')
        self.index, self.seed, self.on_bad, self.training = index, seed, on_bad, training
        self.faults: dict[int, str] = {}

    def add(self, faults: Mapping[int, str]) -> None:
        """Takes note of images that cannot be decoded.

        Raises:
            DataError: by policy; or too many of them.
        """
        for position, fault in faults.items():
            path = self.index.path(position)
            if self.on_bad == "error":
                raise DataError(
                    f"loader: cannot decode {path}: {fault}; replace or remove the file and scan the folder again, "
                    'or go on without such files: on_bad="skip", in a configuration data.on_bad: skip'
                )
            instead = "another image takes its place" if self.training else "it is left out"
            LOG.warning("cannot decode %s: %s; %s", path, fault, instead)
        self.faults |= faults
        if len(self.faults) > max(MOST_FEW, MOST_SHARE * len(self.index)):
            raise DataError(
                f"loader: {len(self.faults)} of {len(self.index)} images cannot be decoded, the last of them "
                f"{self.index.path(next(reversed(self.faults)))}: {next(reversed(self.faults.values()))}; check the disk "
                f"that holds {self.index.root}, and look the images over with: dna-fast data check"
            )

    def without(self, indices: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """A batch's images, damaged ones left out or replaced by a draw that depends on (seed, epoch, image) alone."""
        bad = np.isin(indices, list(self.faults))
        if not bad.any():
            return indices
        if not self.training:
            return indices[~bad]
        draws = uniform(self.seed, epoch, indices[bad], Purpose.SUBSTITUTE, _DRAWS)
        tried = np.floor(draws * len(self.index)).astype(np.int64)  # [damaged, draws]
        usable = ~np.isin(tried, list(self.faults))
        if not usable.any(axis=1).all():
            raise DataError(f"loader: hardly an image of {self.index.root} can be decoded; get the data again")
        whole = indices.copy()
        whole[bad] = tried[np.arange(len(tried)), usable.argmax(axis=1)]
        return whole
