"""Loads `dna_fast._C`, which registers the operators with torch; refuses one that was built for another torch."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

REBUILD = "build it again with: pip install -e . --no-build-isolation (or make setup)"
_TORCH = re.compile(rb"dna_fast\._C built with torch ([0-9A-Za-z.+_-]+)")
_CPU = re.compile(rb"dna_fast\._C CPU kernels: ([^\0]+)\0")
_CUDA = re.compile(rb"dna_fast\._C CUDA kernels: ([^\0]+)\0")


def find() -> Path:
    """The file of the compiled module.

    Raises:
        RuntimeError: there is none.
    """
    spec = importlib.util.find_spec("dna_fast._C")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "dna_fast._C: expected the compiled torch ops beside the package, found none, as torch was not there when "
            f"dna_fast was built (build isolation hides it); {REBUILD}"
        )
    return Path(spec.origin)


def built_with(path: Path) -> str:
    """The torch version that a compiled module was built with; read from the file, since loading it may fail.

    Raises:
        RuntimeError: the file does not say.
    """
    return _fact(path, _TORCH, "the torch version that it was built with")


def cpu_kernels(path: Path) -> tuple[str, ...]:
    """The instruction sets that a compiled module has CPU kernels for, the best first.

    Raises:
        RuntimeError: the file does not say.
    """
    return tuple(_fact(path, _CPU, "the instruction sets that it was built for").split(", "))


def cuda_kernels(path: Path) -> str:
    """In words: ``built with nvcc`` and its version, for which GPUs; or ``not built`` and why. Decided by CMakeLists.txt.

    Raises:
        RuntimeError: the file does not say.
    """
    return _fact(path, _CUDA, "whether it was built with CUDA kernels")


def _fact(path: Path, mark: re.Pattern[bytes], what: str) -> str:
    found = mark.search(path.read_bytes())
    if found is None:
        raise RuntimeError(f"{path}: expected {what}, found none; {REBUILD}")
    return found[1].decode()


def load() -> None:
    """Registers the operators below `torch.ops.dna_fast`.

    Raises:
        RuntimeError: no compiled module, one for another torch, or one that torch cannot load.
    """
    path = find()
    check_version(path, built_with(path), str(torch.__version__))
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RuntimeError(
            f"{path}: expected a library that torch {torch.__version__} loads: {error}; {REBUILD}"
        ) from error


def check_version(path: Path, built: str, running: str) -> None:
    """torch's C++ interface holds within one minor version only."""
    if built.split(".")[:2] != running.split(".")[:2]:
        raise RuntimeError(f"{path}: expected a build for torch {running}, got one for torch {built}; {REBUILD}")


def isa() -> str:
    """The instruction set that CPU kernels run with: avx512_bf16, avx512, avx2 or scalar; DNA_FAST_FORCE_ISA chooses."""
    return str(torch.ops.dna_fast.isa())


load()
