"""The torch-free C++ code under sanitizers: standalone programs, built here and run. `--slow` only.

A program checks its own results and ends with 0; a sanitizer that finds something ends it otherwise. Errors planted in the
programs' buffers and barriers show that the sanitizers look into the code that is checked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent
SANITIZERS = {
    "address,undefined": ["feature_mse_driver", "feature_mse_cuda_driver", "mbconv_driver", "solver_driver"],
    "thread": ["feature_mse_cuda_driver"],
}
# (sanitizers, program, what to plant, what the sanitizer says, where the access is)
PLANTED = [
    ("address,undefined", "feature_mse_driver", "short_gradient", "heap-buffer-overflow", "feature_mse_cpu.cpp"),
    ("address,undefined", "feature_mse_driver", "short_student", "heap-buffer-overflow", "feature_mse_cpu.cpp"),
    ("address,undefined", "feature_mse_driver", "misaligned", "load of misaligned address", "feature_mse_cpu.cpp"),
    (
        "address,undefined",
        "feature_mse_cuda_driver",
        "short_gradient",
        "heap-buffer-overflow",
        "feature_mse_cuda.cuh",
    ),
    ("thread", "feature_mse_cuda_driver", "no_barrier", "data race", "feature_mse_cuda.cuh"),
]

pytestmark = pytest.mark.slow


def tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert path is not None, f"the sanitizer tier needs {name}, which was not found; run: pip install {name}"
    return path


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sanitizers -> the folder with their programs."""
    folders = {}
    for sanitizers, programs in SANITIZERS.items():
        folder = folders[sanitizers] = tmp_path_factory.mktemp(sanitizers.replace(",", "_"))
        configure = [tool("cmake"), "-S", SOURCES, "-B", folder, "-G", "Ninja", f"-DDNA_FAST_SANITIZE={sanitizers}"]
        ninja = tool("ninja")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        for command in ([*configure, f"-DCMAKE_MAKE_PROGRAM={ninja}"], [ninja, "-C", folder, *jobs, *programs]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return folders


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The first finding ends the program.
    options = {
        "ASAN_OPTIONS": "detect_leaks=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **options}
    )


@pytest.mark.parametrize(
    ("sanitizers", "program"), [(s, program) for s, programs in SANITIZERS.items() for program in programs]
)
def test_results_are_right_and_sanitizers_silent(builds: dict[str, Path], sanitizers: str, program: str) -> None:
    done = run(builds[sanitizers] / program)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 0, "no case was checked"


@pytest.mark.parametrize(("sanitizers", "program", "error", "says", "where"), PLANTED)
def test_planted_error_is_caught(
    builds: dict[str, Path], sanitizers: str, program: str, error: str, says: str, where: str
) -> None:
    done = run(builds[sanitizers] / program, error)
    assert done.returncode != 0
    assert says in done.stderr
    assert where in done.stderr


def test_a_wrong_result_is_caught(builds: dict[str, Path]) -> None:
    done = run(builds["address,undefined"] / "feature_mse_driver", "unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong result: expected short_gradient, " in done.stderr
