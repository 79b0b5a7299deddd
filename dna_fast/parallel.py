"""The ranks of a job: what torchrun starts, how they talk, and how all of them end when one fails. Only here is torch.distributed.

Everything that ranks decide together goes as JSON through a group of its own on the CPU, so that no decision waits for a GPU.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from dna_fast.parallel_watch import EXIT_FAILED, EXIT_INTERRUPTED, LOOK_S, Watch

IN_FLIGHT = 2  # features under way to the next rank: one is trained on there, one travels; more would only fill memory
HEADER = 2  # int64 numbers in front of a feature: step and flags
MEASURED_BYTES = 1 << 22  # about as many as the gradients of a block
TIMEOUT = timedelta(hours=1)  # of one exchange; that a rank is dead is found by Watch, within a minute


class PeerFailed(Exception):
    """Another rank failed and tells it; this one ends in silence."""


class LostContact(RuntimeError):
    """An exchange with other ranks failed, most likely because one of them is gone."""


class World:
    """All ranks of a job, as one of them sees them.

    Attributes:
        rank, size: of this process, and how many there are.
        local_rank, local_size: the same on this machine.
        device: of this rank.
        sent: bytes this rank has handed over, by what they were: "features" to the next rank, "gradients" to be averaged (a ring
            moves 2 (n - 1) / n times that through every link).
        stopped_together: all ranks have ended the same step, have saved, and are about to raise KeyboardInterrupt.

    Joining sets up both NCCL, where there are GPUs, and gloo.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.device = torch.device("cpu")
        self.sent = {"features": 0, "gradients": 0}
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _talking():
            dist.init_process_group(backend, timeout=TIMEOUT)
            self._control: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)
            # A client of its own: torch's is busy while torch waits. The name keeps a restarted job apart from the one before.
            store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
            self.store = dist.PrefixStore(f"dna_fast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        self.watch = Watch(self.store, self.rank, self.size)
        self.watch.start()
        self._asked = False
        self.stopped_together = False

    def use(self, device_type: str) -> torch.device:
        """Makes the GPU of this local rank, or the CPU, the device of this rank.

        Raises:
            RuntimeError: there are fewer GPUs than local ranks.
        """
        if device_type == "cuda":
            if torch.cuda.device_count() <= self.local_rank:
                raise RuntimeError(
                    f"local rank {self.local_rank} has no GPU of its own ({torch.cuda.device_count()} here); start as many ranks "
                    "per machine as it has GPUs (torchrun --nproc-per-node), or set device: cpu"
                )
            self.device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(self.device)
        return self.device

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    # ---- deciding together ------------------------------------------------------------------------------------------

    def gather(self, said: Any) -> list[Any]:
        """What every rank says (anything that JSON can hold), by rank; every rank must call it."""
        data = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        with _talking():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(data)]), group=self._control)
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(texts, torch.cat([data, data.new_zeros(longest - len(data))]), group=self._control)
        return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(texts, sizes, strict=True)]

    def told_by_leader(self, said: Any = None) -> Any:
        """What rank 0 says; every rank must call it."""
        return self.gather(said if self.is_leader else None)[0]

    @contextmanager
    def leader_first(self, what: str) -> Iterator[None]:
        """The block runs on rank 0, and when it is through there, on the others, however long that takes.

        So rank 0 downloads, trains and writes, and the others find the files. `what` names the block; each name once per job.
        """
        if not self.is_leader:
            self._wait_until(f"through/{what}")
        yield
        if self.is_leader:
            self.store.set(f"through/{what}", "")

    def wait_for_all(self, what: str) -> None:
        """Returns when every rank has come here, however long that takes; `what` names the place, each once per job."""
        self.store.set(f"at/{what}/{self.rank}", "")
        for rank in range(self.size):
            self._wait_until(f"at/{what}/{rank}")

    def _wait_until(self, key: str) -> None:
        """Asks again and again, for a wait inside torch could not be interrupted."""
        with _talking():
            while not self.store.check([key]):
                time.sleep(LOOK_S / 10)

    def ask_to_stop(self) -> None:
        """Asks rank 0 to end the job behind a step of its choice."""
        if not self._asked:
            self._asked = True
            self.store.set("stop", "")

    def asked_to_stop(self) -> bool:
        """Whether any rank did."""
        return self._asked or bool(self.store.check(["stop"]))

    # ---- small notes ------------------------------------------------------------------------------------------------

    def post(self, key: str, said: Any) -> None:
        """Leaves a note for whoever takes it."""
        self.store.set(f"note/{key}", json.dumps(said))

    def take(self, key: str) -> Any | None:
        """Takes a note away; None if it is not there yet."""
        if not self.store.check([f"note/{key}"]):
            return None
        said = json.loads(self.store.get(f"note/{key}"))
        self.store.delete_key(f"note/{key}")
        return said

    def count(self, key: str, amount: int) -> int:
        """Adds to a number that all ranks share; returns the sum."""
        return int(self.store.add(f"count/{key}", amount))

    def seconds_per_byte(self) -> float:
        """Of averaging over all ranks, measured; every rank must call it, and rank 0's is told to all."""
        data, best = torch.zeros(MEASURED_BYTES // 4, device=self.device), float("inf")
        for _ in range(4):
            with _talking():
                self._synchronize()
                start = time.perf_counter()
                dist.all_reduce(data)
                self._synchronize()
            best = min(best, time.perf_counter() - start)
        return float(self.told_by_leader(best)) / data.nbytes

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def grid(self, stages: int, replicas: int) -> Grid:
        """The ranks as stages x replicas; every rank must call it."""
        return Grid(self, stages, replicas)

    @cached_property
    def together(self) -> Grid:
        """All ranks as replicas of one stage; every rank must ask for it."""
        return self.grid(1, self.size)

    def take_leaders(self, tensors: Sequence[Tensor]) -> None:
        """Writes rank 0's values to tensors of the same shapes and order on all ranks; every rank must call it."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            own = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in own])
            with _talking():
                dist.broadcast(flat, 0)
            for tensor, values in zip(own, torch.split(flat, [t.numel() for t in own]), strict=True):
                tensor.detach().copy_(values.view(tensor.shape))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def leave_together(self) -> None:
        """Ends the watch when all ranks are done: a rank that ends earlier takes its ends of others' exchanges with it."""
        self.store.set(f"done/{self.rank}", "")
        for rank in range(self.size):
            self._wait_until(f"done/{rank}")
        self.watch.stop()
        if self.count("left", 1) < self.size and self.is_leader:
            end = time.monotonic() + 10  # rank 0 may hold the store that the others ask
            while self.count("left", 0) < self.size and time.monotonic() < end:
                time.sleep(LOOK_S / 50)


class Grid:
    """Ranks as stages (of blocks) x replicas (of a stage): torch's device mesh, and what its ranks send each other in a step.

    Rank = stage * replicas + replica: replicas, who average gradients, are neighbours, on one machine where possible.
    """

    def __init__(self, world: World, stages: int, replicas: int) -> None:
        assert stages * replicas == world.size
        self.world, self.stages, self.replicas = world, stages, replicas
        with _talking():
            mesh = init_device_mesh(world.device.type, (stages, replicas), mesh_dim_names=("block", "data"))
            at: Any = mesh.get_coordinate()
            self.stage, self.replica = at
            self._data = mesh.get_group("data")
            # Every rank takes part in making every group.
            first = [stage * replicas for stage in range(stages)]
            groups = [dist.new_group(list(range(r, r + replicas)), backend="gloo", timeout=TIMEOUT) for r in first]
        self._flags: Any = groups[self.stage]
        self._sending: deque[list[Any]] = deque()
        self._coming: tuple[list[Any], Tensor, Tensor] | None = None

    # ---- along a pipeline -------------------------------------------------------------------------------------------

    def send(self, step: int, flags: int, feature: Tensor) -> None:
        """Sends a feature [N, C, H, W] to the next stage while this rank goes on; waits where too many are under way."""
        to = self.world.rank + self.replicas
        flat = feature.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        header = torch.tensor([step, flags])
        with _talking():
            while len(self._sending) >= IN_FLIGHT:
                self._await_oldest()
            works = [dist.isend(header, to, group=self.world._control), dist.isend(flat, to)]
        self._sending.append([works, header, flat])  # tensors must live until they are sent
        self.world.sent["features"] += flat.nbytes

    def expect(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Begins to receive the next feature of a shape [N, C, H, W], so that it travels while this rank computes."""
        n, c, h, w = shape
        header = torch.zeros(HEADER, dtype=torch.int64)
        feature = torch.empty(n, h, w, c, dtype=dtype, device=self.world.device)
        at = self.world.rank - self.replicas
        with _talking():
            works = [dist.irecv(header, at, group=self.world._control), dist.irecv(feature, at)]
        self._coming = works, header, feature

    def receive(self, step: int) -> tuple[int, Tensor]:
        """(flags, feature) that were expected, of this step."""
        assert self._coming is not None
        works, header, feature = self._coming
        self._coming = None
        with _talking():
            for work in works:
                work.wait()
        assert int(header[0]) == step, f"expected the feature of step {step}, got that of step {int(header[0])}"
        return int(header[1]), feature.permute(0, 3, 1, 2)

    def _await_oldest(self) -> None:
        for work in self._sending.popleft()[0]:
            work.wait()

    def finish_sending(self) -> None:
        """Waits until everything sent has arrived."""
        with _talking():
            while self._sending:
                self._await_oldest()

    # ---- among replicas ---------------------------------------------------------------------------------------------

    def agree(self, flags: int) -> int:
        """The flags of the stage's first replica, on all of them."""
        if self.replicas == 1:
            return flags
        said = torch.tensor([flags])
        with _talking():
            dist.broadcast(said, self.stage * self.replicas, group=self._flags)
        return int(said)

    def begin_average(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begins to average tensors over the replicas, as one bucket; the call it returns waits and writes the means to them.

        All replicas must give tensors of the same shapes and in the same order, and end with the same bits.
        """
        if self.replicas == 1:
            return lambda: None
        bucket = torch.cat([t.reshape(-1) for t in tensors])
        with _talking():
            work = dist.all_reduce(bucket, group=self._data, async_op=True)
        self.world.sent["gradients"] += bucket.nbytes

        def finish() -> None:
            with _talking():
                work.wait()
            bucket.div_(self.replicas)
            means = torch.split(bucket, [t.numel() for t in tensors])
            # On a GPU one launch for many tensors: a network has hundreds.
            torch._foreach_copy_(list(tensors), [m.view(t.shape) for t, m in zip(tensors, means, strict=True)])

        return finish


@contextmanager
def _talking() -> Iterator[None]:
    """Whatever goes wrong in an exchange is about the other side."""
    try:
        yield
    except Exception as error:
        raise LostContact(f"an exchange with other ranks failed: {str(error).partition(chr(10))[0]}") from error


# ---- a job -----------------------------------------------------------------------------------------------------------


def is_launched() -> bool:
    """Whether torchrun (or whoever sets its variables) started this process as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined() -> Iterator[World | None]:
    """Joins the job that this process is a rank of; None where it is alone.

    Whatever ends one rank ends all: the first that fails raises its exception, with the attribute `rank`, for its caller to tell;
    the others exit with the same code and say nothing. Ctrl-C exits with 130, and rank 0 raises KeyboardInterrupt.
    """
    if not is_launched():
        yield None
        return
    world = World()
    try:
        yield world
    except KeyboardInterrupt:
        _end_interrupted(world)
        raise
    except PeerFailed:
        world.watch.wait_for_reason()
        _exit(EXIT_FAILED)
    except LostContact as error:
        world.watch.wait_for_reason()
        _raise_as_first(world, error)
    except Exception as error:
        _raise_as_first(world, error)
    else:
        world.leave_together()
        dist.destroy_process_group()


def _raise_as_first(world: World, error: Exception) -> None:
    if not world.is_leader:
        time.sleep(LOOK_S)  # where all ranks fail alike, it is the first that tells
    if not world.watch.claim():
        _exit(EXIT_FAILED)
    if world.is_leader and not _has_launchers_store():
        time.sleep(3 * LOOK_S)  # the store ends with this process: the others must have heard
    error.rank = world.rank  # type: ignore[attr-defined]
    raise error


def _end_interrupted(world: World) -> None:
    """Ends a rank behind Ctrl-C: together with all others if all stopped, else as the one whose end ends them."""
    if world.stopped_together:
        world.leave_together()
    else:  # it struck elsewhere: the others may know nothing of it
        world.watch.claim(EXIT_INTERRUPTED)
    if not world.is_leader:
        _exit(EXIT_INTERRUPTED)


def _has_launchers_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _exit(code: int) -> None:
    """Not sys.exit: the interpreter's own end could wait for exchanges that will never come about."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
