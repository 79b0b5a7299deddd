"""One export: every format asked for, each compared with the torch model before it counts, and export.json about them."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dna_fast import __version__
from dna_fast._files import file_sha256, make_directory, write_json
from dna_fast.about import version
from dna_fast.export_check import check, expect
from dna_fast.export_formats import (
    FILES,
    Written,
    require_onnx,
    trace,
    write_onnx,
    write_safetensors,
    write_timm,
    write_torch_export,
)
from dna_fast.export_source import Source

RECORD_FILE, FORMAT, VERSION = "export.json", "dna_fast.export", 1
ALL = "all"

OnDone = Callable[[str, dict[str, Any]], None]


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of "timm,onnx" in their own order; "all" stands for every one.

    Raises:
        ValueError: an unknown one; the known are named.
    """
    asked = {name.strip() for name in text.split(",")}
    if unknown := sorted(asked - {*FILES, ALL}):
        raise ValueError(
            f"--to: expected some of {', '.join(FILES)}, with commas between, or {ALL}; got {unknown[0]!r}"
        )
    return tuple(name for name in FILES if name in asked or ALL in asked)


def export(
    source: Source, formats: Sequence[str], out: Path, *, opset: int | None = None, on_done: OnDone | None = None
) -> dict[str, Any]:
    """Writes a network in several formats and export.json; each file is read back and compared with the torch model.

    Args:
        formats: of `FILES`.
        out: directory, made where it is missing. What an earlier export left there under the names of `FILES` is removed.
        opset: of ONNX; None takes the exporter's default.
        on_done: called behind each format with its name and record.

    Returns:
        What export.json holds.

    Raises:
        RuntimeError: a package is missing, or a format's logits are further off than rounding explains: it is not kept,
            those before it are.
        ValueError: weights that are not finite, an opset that torch or onnx does not know.
        OSError: a file cannot be written.
    """
    if "onnx" in formats:
        require_onnx(opset)  # before anything is removed or written
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(source.images.shape, generator=generator)
    expected = expect(source.model, {"random": random, "real": source.images})
    make_directory(out)
    _remove(out, [RECORD_FILE, *(file for files in FILES.values() for file in files)])
    program = trace(source) if {"torch-export", "onnx"} & {*formats} else None
    record = _header(source)
    for name in formats:
        with _unless_it_fails(out, name):
            written = _write(name, source, out, program, opset)
            checks = check(name, written.run, expected)
        found = {**written.facts, "files": _hashes(out, FILES[name]), "checks": checks}
        record["formats"][name] = found
        write_json(out / RECORD_FILE, record)
        if on_done is not None:
            on_done(name, found)
    return record


def _write(
    name: str, source: Source, out: Path, program: torch.export.ExportedProgram | None, opset: int | None
) -> Written:
    if name == "timm":
        return write_timm(source, out / "timm")
    if name == "safetensors":
        return write_safetensors(source, out)
    assert program is not None
    if name == "torch-export":
        return write_torch_export(source, out / FILES[name][0], program)
    return write_onnx(source, out / FILES[name][0], program, opset)


def _header(source: Source) -> dict[str, Any]:
    how = source.preprocessing
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": source.name,
        "origin": source.origin,
        "weights": source.weights,
        "input_size": list(source.input_size),
        "num_classes": source.num_classes,
        "classes": None if source.classes is None else list(source.classes),
        "preprocessing": None if how is None else asdict(how),
        "accuracy": source.training.get("accuracy"),
        "checked_on": {"random": "standard normal, seed 0", "real": source.images_from},
        "versions": {
            "dna_fast": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": version("timm"),
            "safetensors": version("safetensors"),
        },
        "architecture": source.arch.to_dict(),
        "formats": {},
    }


@contextmanager
def _unless_it_fails(out: Path, name: str) -> Iterator[None]:
    """Removes what a format wrote if it is not right, or was stopped before it was known to be."""
    try:
        yield
    except BaseException:
        _remove(out, FILES[name])
        raise


def _remove(out: Path, names: Sequence[str]) -> None:
    for path in (out / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _hashes(out: Path, names: Sequence[str]) -> dict[str, str]:
    """sha256 of every file, by its path inside `out`."""
    paths = [p for name in names for p in ((out / name).iterdir() if (out / name).is_dir() else [out / name])]
    return {str(path.relative_to(out)): file_sha256(path) for path in sorted(paths) if path.is_file()}
