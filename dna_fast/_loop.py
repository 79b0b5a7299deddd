"""What every loop over images shares: what it asks of a loader, and how Ctrl-C ends it between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Batch(Protocol):
    """Images and labels."""

    @property
    def images(self) -> Tensor: ...  # [N, 3, H, W] float32

    @property
    def labels(self) -> Tensor: ...  # [N] int64


class Loader(Protocol):
    """The batches of an epoch, from any batch on; the same batches whenever the same epoch is asked for."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]: ...


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of striking in the middle of a step; a second Ctrl-C strikes at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals arrive in the main thread only
        return

    def handler(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
