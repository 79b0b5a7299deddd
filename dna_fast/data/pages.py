"""Memory of batches, used again as soon as nobody holds a batch any more.

A batch of photographs is larger than what allocators keep, so each would be mapped, filled with zeros and faulted in page by page.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

KEPT = 4  # areas: one being filled, one finished ahead, one with the model, and one that it has not let go of yet


def _references(areas: Sequence[mmap.mmap], position: int) -> int:
    return sys.getrefcount(areas[position])


_UNUSED = _references([mmap.mmap(-1, 1)], 0)  # of an area that only its list holds; Python's versions count differently


class Pages:
    """Areas of memory of one size; safe for several threads."""

    def __init__(self) -> None:
        self._areas: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor on the CPU; its memory is free again when the last tensor over it is gone."""
        elements = math.prod(shape)
        if elements == 0:
            return torch.empty(*shape, dtype=dtype)
        size = elements * dtype.itemsize
        with self._lock:
            area = self._free(size) or self._new(size)
            flat = torch.frombuffer(area, dtype=dtype, count=elements)  # holds the area
        return flat.view(*shape)

    def _free(self, size: int) -> mmap.mmap | None:
        for k in range(len(self._areas)):
            if len(self._areas[k]) >= size and _references(self._areas, k) <= _UNUSED:
                return self._areas[k]
        return None

    def _new(self, size: int) -> mmap.mmap:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages
                area.madvise(mmap.MADV_HUGEPAGE)
        self._areas = [area, *(kept for kept in self._areas if len(kept) >= size)][:KEPT]
        return area
