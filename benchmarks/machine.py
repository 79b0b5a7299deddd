"""Where and with what a benchmark ran."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dna_fast import about

# Of the processor's flags those that decide which kernels run.
FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
)


def threads() -> int:
    """What races use: the cores that the process may use, or OMP_NUM_THREADS."""
    return int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))


def facts() -> dict[str, str]:
    """What `dna-fast info` says, and what else times depend on."""
    return about.facts() | {
        "cpu flags": " ".join(flag for flag in FLAGS if flag in _flags()) or "unknown",
        "threads": str(threads()),
        "compiler": _compiler(),
        "C library": _c_library(),
        "huge pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def _flags() -> list[str]:
    lines = _read("/proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


def _compiler() -> str:
    try:
        told = subprocess.run([os.environ.get("CXX", "c++"), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return told.stdout.partition("\n")[0] or "unknown"


def _c_library() -> str:
    name = "CS_GNU_LIBC_VERSION"
    return (os.confstr(name) if name in os.confstr_names else None) or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
