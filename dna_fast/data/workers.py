"""Threads that each run torch on a single core."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_settings = threading.Lock()  # torch's thread count is global while it is being changed


def single_core_pool(workers: int) -> ThreadPoolExecutor:
    """Starts `workers` threads in which torch operators do not fan out; other threads keep their setting.

    Operators on one image are too small to share: between DALI's threads, OpenMP's barriers spin on cores that are
    taken, and a 224 px image costs 10 ms of processor time instead of 1.9 (two busy cores). Images are spread over the
    threads instead. The threads end when the pool is collected.
    """
    with _settings:
        elsewhere = torch.get_num_threads()
        started = threading.Barrier(workers + 1)

        def settle() -> None:
            # The count is per thread once a thread has asked for it; only the default for new threads is shared.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        pool = ThreadPoolExecutor(workers, thread_name_prefix="dna_fast.data", initializer=settle)
        for _ in range(workers):  # a pool starts a thread per task while none is idle, and none is before the barrier
            pool.submit(int)
        started.wait()
        torch.set_num_threads(elsewhere)
    return pool
