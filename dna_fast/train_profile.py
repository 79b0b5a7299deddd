"""A torch profiler's trace of a few steps of a training loop, written while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from dna_fast._files import written_aside
from dna_fast._loop import Loader

SKIPPED, WARM_UP, STEPS = (
    2,
    1,
    3,
)  # first steps allocate, and a profiler's own first step is slow; then so many are recorded
TABLE_ROWS = 40  # operators in the text beside the trace


@contextmanager
def profiled(loader: Loader, directory: Path) -> Iterator[Loader]:
    """Yields a loader with the same batches, under which the loop that reads it is profiled.

    Its steps SKIPPED + WARM_UP + 1 to SKIPPED + WARM_UP + STEPS go to `<directory>/train.pt.trace.json` (for TensorBoard, Perfetto or
    chrome://tracing) and, summed by operator, to `<directory>/operators.txt`. A loop that ends during them leaves those it came to.

    Raises:
        RuntimeError: on leaving, the loop ended before the first of these steps.
        OSError: a file could not be written.
    """
    written = []

    def write(profiler: Any) -> None:
        with written_aside(directory / "train.pt.trace.json") as aside:
            profiler.export_chrome_trace(str(aside))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=TABLE_ROWS, max_name_column_width=60)
        with written_aside(directory / "operators.txt") as aside:
            aside.write_text(table, encoding="utf-8")
        written.append(directory)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    plan = schedule(wait=SKIPPED, warmup=WARM_UP, active=STEPS, repeat=1)
    directory.mkdir(parents=True, exist_ok=True)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=True) as profiler:
        yield _Stepped(loader, profiler)
    if not written:
        raise RuntimeError(
            f"--profile: expected more than {SKIPPED + WARM_UP} steps to profile, and training ended before; nothing was written"
        )


class _Stepped:
    """Tells a profiler of a step whenever a further batch has come."""

    def __init__(self, loader: Loader, profiler: Any) -> None:
        self.batch_size, self._loader, self._profiler = loader.batch_size, loader, profiler
        self._has_begun = False

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Any]:
        batches = iter(self._loader.epoch(epoch, start_batch))
        while True:
            with torch.profiler.record_function("dna_fast: loader"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            if self._has_begun:
                self._profiler.step()
            self._has_begun = True
            yield batch
