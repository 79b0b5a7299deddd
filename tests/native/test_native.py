"""The torch-free C++ code under sanitizers: standalone programs, built here and run. `--slow` only.

A program checks its own results and ends with 0; a sanitizer that finds something ends it otherwise. Errors planted in the
programs' buffers show that the sanitizers look into the code that is checked. CUDA kernels: tests/cuda_on_host.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from native.programs import build, expect_caught, expect_right, run

SOURCES = Path(__file__).resolve().parent
PROGRAMS = ["depthwise_driver", "feature_mse_driver", "mbconv_driver", "solver_driver"]
# (program, what to plant, what the sanitizer says, where the access is)
PLANTED = [
    ("depthwise_driver", "short_result", "heap-buffer-overflow", "correlate.h"),
    ("feature_mse_driver", "short_gradient", "heap-buffer-overflow", "feature_mse_cpu.cpp"),
    ("feature_mse_driver", "short_student", "heap-buffer-overflow", "feature_mse_cpu.cpp"),
    ("feature_mse_driver", "misaligned", "load of misaligned address", "feature_mse_cpu.cpp"),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SOURCES, tmp_path_factory.mktemp("native"), PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_results_are_right_and_sanitizers_silent(programs: Path, program: str) -> None:
    expect_right(run(programs / program))


@pytest.mark.parametrize(("program", "error", "says", "where"), PLANTED)
def test_planted_error_is_caught(programs: Path, program: str, error: str, says: str, where: str) -> None:
    expect_caught(run(programs / program, error), says, where)


def test_a_wrong_result_is_caught(programs: Path) -> None:
    done = run(programs / "feature_mse_driver", "unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong result: expected short_gradient, " in done.stderr


def test_the_solvers_threads_do_not_race(tmp_path: Path) -> None:
    folder = build(SOURCES, tmp_path, ["solver_driver"], "DNA_FAST_SANITIZE=thread")
    expect_right(run(folder / "solver_driver"))
