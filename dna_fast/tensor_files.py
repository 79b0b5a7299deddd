"""Files of named tensors: safetensors, which can hold nothing that runs when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from dna_fast._files import file_sha256, written_aside


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    before_replacing: Callable[[], object] | None = None,
) -> str:
    """Writes a file atomically into a directory that exists.

    Args:
        path: where.
        tensors: by name; copied to the CPU.
        metadata: text beside them.
        before_replacing: called once the new file is whole and the old one still in its place.

    Returns:
        sha256 of the file, read back before it counts.

    Raises:
        OSError: it cannot be written; the message says why and what to do. What was at `path` is intact.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path, make_parent=False) as aside:
        save_file(on_cpu, aside, metadata=None if metadata is None else dict(metadata))
        sha256 = file_sha256(aside)
        if before_replacing is not None:
            before_replacing()
    return sha256


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a file.

    Raises:
        ValueError: it is missing, or no whole safetensors file; the message names it, and leaves it to the caller to say what to do.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def check_tensors(path: str | Path) -> None:
    """Reads the names and sizes in a file only, and checks that the file is as long as they say.

    Raises:
        ValueError: as `read_tensors`.
    """
    try:
        with safe_open(path, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and every byte of tensors on the CPU, whatever file they are in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.contiguous().reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()
