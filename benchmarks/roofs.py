"""What the machine can do at most, measured in the run whose results are held against it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks.worker import ROOT

SOURCE = Path(__file__).with_name("peak.cpp")

# SiLU of one vector of 16 float32 costs about this many cycles with a polynomial exponential and a division, measured by itself.
SILU_CYCLES, SILU_LANES = 6.5, 16


def peak(threads: int) -> dict[str, float]:
    """clock_ghz of one core, fp32_gflops and bf16_gflops of `threads` cores: registers only (peak.cpp).

    Raises:
        RuntimeError: no C++ compiler, or one that fails.
    """
    program = ROOT / ".benchmarks" / f"peak-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        aside = program.with_name(f"{program.name}.{os.getpid()}")  # others may be compiling, too
        command = [
            os.environ.get("CXX", "c++"),
            "-std=c++20",
            "-O2",
            "-march=native",
            "-pthread",
            str(SOURCE),
            "-o",
            str(aside),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeError(f"peak: expected a C++ compiler, {command[0]} is not there; set CXX") from error
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"peak: {' '.join(command)} failed:\n{error.stderr}") from error
        aside.replace(program)
    told = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(told.stdout)
    return measured


def counted_bound_s(macs: int, silus: int, gflops: float, clock_ghz: float, threads: int) -> float:
    """The least time of a layer: its multiply-adds at peak, then its SiLUs, nothing overlapped and no memory touched."""
    arithmetic_s = 2 * macs / (gflops * 1e9)
    silu_s = silus / SILU_LANES * SILU_CYCLES / (clock_ghz * 1e9 * threads)
    return arithmetic_s + silu_s


def copy_bytes_per_s(size_bytes: int = 256 << 20, repeats: int = 9) -> float:
    """torch's copy between two buffers larger than any cache: bytes read plus bytes written, per second."""
    import torch

    source = torch.ones(size_bytes // 4)
    target = torch.zeros_like(source)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * size_bytes / median(times)
