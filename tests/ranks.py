"""Ranks of a job as children of the zygote: what torchrun does, without waiting seconds for imports."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from zygote import Ended, zygote

OVER_S = 60.0  # a job one of whose ranks is dead must be over by then


@dataclass(frozen=True)
class Job:
    """Ranks at work."""

    pids: tuple[int, ...]
    logs: tuple[Path, ...]
    store: Any  # as long as it lives, the ranks can talk
    begun: float

    def wait(self) -> tuple[Ended, ...]:
        """How each ended, by rank."""
        return tuple(zygote().wait(pid, log) for pid, log in zip(self.pids, self.logs, strict=True))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun


def start(directory: Path, ranks: int, call: str, **arguments: Any) -> Job:
    """Starts ranks that each call `ranks_jobs:<call>`, or `<module>:<call>` if it says so, with these arguments.

    With one rank, a process that knows of no ranks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logs = tuple(directory / f"rank_{rank}.txt" for rank in range(ranks))
    pids, called = [], call if ":" in call else f"ranks_jobs:{call}"
    for rank, log in enumerate(logs):
        env = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        pids.append(zygote().start(log, called, env=env if ranks > 1 else {}, **arguments))
    return Job(tuple(pids), logs, store, time.monotonic())


def run(directory: Path, ranks: int, call: str, **arguments: Any) -> tuple[Ended, ...]:
    """The same to its end, which must be a good one."""
    ended = start(directory, ranks, call, **arguments).wait()
    assert [e.code for e in ended] == [0] * ranks, "\n".join(e.said for e in ended)
    return ended


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
