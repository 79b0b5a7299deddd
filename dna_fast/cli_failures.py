"""What the command line says when something goes wrong: one message that names the culprit and says what to do."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
import traceback

from dna_fast.cli_options import EXIT_ERROR

# What wrong input, a missing file or the machine raises; anything else is a bug.
EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)

# Which extra of dna_fast brings a package.
EXTRAS = {"matplotlib": "report", "tensorboard": "report", "pandas": "test"} | dict.fromkeys(
    ("onnx", "onnxscript", "onnxruntime"), "onnx"
)
OURS = ("torch", "torchvision", "timm", "safetensors", "nvidia", "yaml", "rich", "typer", "scipy", "sklearn", "PIL")

ADVICE = {
    errno.ENOSPC: "free some space and give the same command again: what was finished is kept",
    errno.EDQUOT: "free some space and give the same command again: what was finished is kept",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a directory that can be written to (--out)",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "a file stands where a directory is needed; choose another place",
    errno.ENOENT: "check the path",
    errno.EEXIST: "choose another place, or remove it",
    errno.ENAMETOOLONG: "give a shorter one",
}


def report(error: Exception) -> int:
    """Says on standard error what went wrong; returns the exit code."""
    if (usage := _usage(error)) is not None:
        sys.stderr.write(f"error: {usage}\n")
        return int(getattr(error, "exit_code", EXIT_ERROR))
    if isinstance(error, EXPECTED):
        sys.stderr.write(f"error: {_rank(error)}{_words(error)}\n")
        return EXIT_ERROR
    sys.stderr.write(
        f"error: {_rank(error)}{type(error).__name__}: {error}\n"
        "This is a bug in dna_fast; please report it with the output of `dna-fast info` and "
        f"{_kept_traceback(error)}\n"
    )
    return EXIT_ERROR


def _rank(error: Exception) -> str:
    """Of several processes, which one failed: `parallel.joined` marks its exception."""
    rank = getattr(error, "rank", None)
    return "" if rank is None else f"rank {rank}: "


def _usage(error: Exception) -> str | None:
    """Of an error in the arguments; its class moved between typer's versions, what it can do did not."""
    if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dna-fast"
    return f"{error.format_message()} See: {command} --help"


def _words(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        if package in EXTRAS or package in OURS:
            name = "DALI (nvidia.dali)" if package == "nvidia" else "PyYAML" if package == "yaml" else package
            return f"this needs {name}, which is not installed; pip install 'dna_fast[{EXTRAS.get(package, 'torch')}]'"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        name = error.filename if error.filename is not None else "a file"
        return f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: {error.strerror}; " + ADVICE.get(
            error.errno, "what was finished is kept: give the same command again once that is mended"
        )
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({error})' if str(error) else ''}; lower rate.max_memory (--max-memory) or batch_size, or free some"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return f"the GPU's memory is full; lower train.batch_size or --max-memory, or free some: {_first_line(error)}"
    return str(error) or type(error).__name__


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _kept_traceback(error: Exception) -> str:
    """Writes the traceback to a file; says where, or how to see it."""
    try:
        handle, path = tempfile.mkstemp(prefix="dna-fast-", suffix=".txt")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(f"{shlex.join(['dna-fast', *sys.argv[1:]])}\n\n{''.join(traceback.format_exception(error))}")
    except OSError:
        return f"what this shows: {shlex.join(['dna-fast', '--traceback', *sys.argv[1:]])}"
    return f"the traceback in {path}"
