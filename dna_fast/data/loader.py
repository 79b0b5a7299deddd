"""What every stage expects of a loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)  # == of tensors is a tensor, so a generated __eq__ could only raise
class Batch:
    """Images ready for a network, all on one device."""

    images: Tensor  # [N, 3, H, W] float32 or as asked for, channels_last, normalised
    labels: Tensor  # [N] int64, position in ImageIndex.classes
    indices: Tensor  # [N] int64, position in ImageIndex.files


@runtime_checkable
class Loader(Protocol):
    """Batches of an image set, the same every time they are asked for.

    `epoch(e, s)` yields batches s, s + 1, ... of epoch e, a pure function of (seed, e, s): a run resumed inside an epoch
    sees bit-identical batches. A training loader shuffles every epoch and drops a last partial batch; an evaluation
    loader keeps the order of the index and yields a last partial batch with its true size.

    Attributes:
        batch_size: images per batch of this rank.
        num_images: images in the index, over all ranks.
    """

    batch_size: int
    num_images: int

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        ...

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_batch` on."""
        ...
