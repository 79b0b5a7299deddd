"""Building and running the standalone programs of tests/native and tests/cuda_on_host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert path is not None, f"the sanitized programs need {name}, which was not found; run: pip install {name}"
    return path


def build(sources: Path, folder: Path, programs: list[str], *definitions: str) -> Path:
    """Builds `programs` of the CMakeLists.txt in `sources`, and returns the folder with them."""
    configure = [tool("cmake"), "-S", sources, "-B", folder, "-G", "Ninja", *(f"-D{text}" for text in definitions)]
    ninja = tool("ninja")
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    for command in ([*configure, f"-DCMAKE_MAKE_PROGRAM={ninja}"], [ninja, "-C", folder, *jobs, *programs]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(program: Path, *arguments: str, detect_leaks: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program; the first finding of a sanitizer ends it."""
    options = {"ASAN_OPTIONS": f"detect_leaks={detect_leaks:d}", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **options}
    )


def expect_right(done: subprocess.CompletedProcess[str]) -> None:
    """The program checked something, found it right, and no sanitizer had anything to say."""
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 0, "no case was checked"


def expect_caught(done: subprocess.CompletedProcess[str], says: str, where: str) -> None:
    """The program ended with an error that `says` what is wrong, and `where`."""
    assert done.returncode != 0, done.stdout
    assert says in done.stderr, done.stderr[-4000:]
    assert where in done.stderr, done.stderr[-4000:]
