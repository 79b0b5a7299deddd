"""The C library's allocator, told to suit a process that computes on the CPU with large tensors."""

from __future__ import annotations

import ctypes
import os

# mallopt's parameters, from glibc's <malloc.h>, and what they are set to. Limits on the size of what is not mapped end at 32 MiB, so
# mapping is switched off altogether. One arena: another one's heaps end at 64 MiB. Padding: fewer, larger steps while the heap grows.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEEPING = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20), (M_ARENA_MAX, 1))

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch asks for huge pages behind tensors from 2 MiB if this variable is 1


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep what is freed, for the rest of the process, instead of returning it to the system.

    By default it maps every tensor above 32 MiB anew and unmaps it when it is freed; the page faults that follow can take longer
    than the arithmetic. The process keeps the size of its peak.

    Returns:
        Whether the C library does so; others than glibc are left alone.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in KEEPING)


def ask_for_huge_pages() -> None:
    """Has torch ask for huge pages behind large tensors; before its first tensor. The environment's own word on it is kept."""
    os.environ.setdefault(HUGE_PAGES, "1")
