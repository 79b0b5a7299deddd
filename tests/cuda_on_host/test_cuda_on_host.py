"""CUDA kernels without a GPU: their own source, compiled for the CPU and run under sanitizers, in adversarial orders.

A program checks its results in every order of threads and blocks, and ends with 0; it ends otherwise, in words, where a
kernel breaks CUDA's rules. Errors planted in kernels made for it, in buffers, and in __syncthreads show that this is so.
They take the place of ThreadSanitizer, which would see a missing barrier, too, but knows nothing of warps, of copies under
way and of threads that are fibers.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from native.programs import build, expect_caught, expect_right
from native.programs import run as run_program

SOURCES = Path(__file__).resolve().parent
CSRC = SOURCES.parent.parent / "csrc"
CHECKS = ["feature_mse_driver", "mbconv_driver", "pointwise_product_driver", "words_driver"]
PROGRAMS = ["faults_driver", *CHECKS]
# Kernels allocate nothing, and to look for leaks takes rights that not every container gives.
run = partial(run_program, detect_leaks=False)
IN_FLIGHT = "is under way, and nobody has waited for it"
# (program, what to plant, what is said, where)
PLANTED = [
    ("pointwise_product_driver", "no_barrier_before_read", "17 x 16 x 24, order forward: y[0, 8]: expected", "nan"),
    ("pointwise_product_driver", "no_barrier_before_copy", IN_FLIGHT, "load_matrix_x4"),
    ("pointwise_product_driver", "no_wait", IN_FLIGHT, "load_matrix_x4"),
    ("pointwise_product_driver", "wrong_fragment", "wrong result: bfloat16, 17 x 16 x 24", "y[0, 1]: expected"),
    ("pointwise_product_driver", "no_row_check", "heap-buffer-overflow", "pointwise_product::product<"),
    ("faults_driver", "no_barrier", "order forward: out[32]: expected 65, got", "nan"),
    ("faults_driver", "no_warp_barrier", "order forward: out[1]: expected 3, got", "nan"),
    ("faults_driver", "no_warp_barrier_before_rows", "order forward: out[16]: expected 33, got", "nan"),
    ("faults_driver", "left_by_another_block", "order forward: out[64]: expected 129, got", "nan"),
    ("faults_driver", "in_order_of_blocks", "order reversed: out[64]: expected 129, got 0", ""),
    ("faults_driver", "shared_store_beyond", "use-after-poison", "faults::shared_store_beyond"),
    ("faults_driver", "shared_store_below", "use-after-poison", "faults::shared_store_below"),
    ("faults_driver", "shared_variable_beyond", "index 32 out of bounds", "faults.cuh"),
    ("faults_driver", "global_store_beyond", "heap-buffer-overflow", "faults::global_store_beyond"),
    (
        "faults_driver",
        "barrier_after_return",
        "; 32 returned, the first of them thread 32; 32 wait in __syncthreads",
        "",
    ),
    ("faults_driver", "two_barriers", "divergent barrier: it waits in __syncthreads", "faults.cuh"),
    (
        "faults_driver",
        "half_a_warp",
        "; 32 returned, the first of them thread 16; 32 wait in shuffle_xor",
        "faults.cuh",
    ),
    ("faults_driver", "two_places_in_a_warp", "divergent warp: it waits in shuffle_xor", "faults.cuh"),
    ("faults_driver", "misaligned_load", "load: a 16-byte access to ", "no multiple of 16"),
    ("faults_driver", "misaligned_copy", "copy_async_16: a 16-byte access to ", "no multiple of 16"),
    ("faults_driver", "misaligned_row", "load_matrix_x4: a 16-byte access to ", "no multiple of 16"),
    ("faults_driver", "copy_beyond", "is not in the block's shared memory", "copy_async_16"),
    ("faults_driver", "row_beyond", "is not in the block's shared memory", "load_matrix_x4"),
    ("faults_driver", "no_wait", "use-after-poison", "faults::no_wait"),
    ("faults_driver", "wait_for_too_few", "use-after-poison", "faults::wait_for_too_few"),
    ("faults_driver", "no_commit", "use-after-poison", "faults::no_commit"),
    ("faults_driver", "no_barrier_after_wait", "order reversed: out[1]: expected 3, got", "nan"),
    ("feature_mse_driver", "no_barrier", "wrong result: 1 chunks: expected the mean 1, got", "nan"),
    ("feature_mse_driver", "short_gradient", "heap-buffer-overflow", "feature_mse::chunk_sums<"),
    ("feature_mse_driver", "short_student", "heap-buffer-overflow", "feature_mse::chunk_sums<"),
    ("feature_mse_driver", "misaligned", "load of misaligned address", "feature_mse_cuda.cuh"),
    ("mbconv_driver", "no_barrier", "wrong result: ", "order"),
    ("mbconv_driver", "short_output", "heap-buffer-overflow", "mbconv::Project<"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SOURCES, tmp_path_factory.mktemp("cuda_on_host"), PROGRAMS)


@pytest.mark.parametrize("program", CHECKS)
def test_results_are_right_in_every_order(programs: Path, program: str) -> None:
    expect_right(run(programs / program))


@pytest.mark.parametrize(("program", "error", "says", "where"), PLANTED, ids=[f"{p[0]}-{p[1]}" for p in PLANTED])
def test_planted_error_is_caught(programs: Path, program: str, error: str, says: str, where: str) -> None:
    expect_caught(run(programs / program, error), says, where)


# What AddressSanitizer says at once where it is there, poison and guards say later; and fibers of the C library, which other
# processors than x86-64 take, do as well as ours.
WITHOUT_ADDRESS_SANITIZER = [
    ("pointwise_product_driver", "no_wait", "wrong result: bfloat16, 17 x 16 x 24", "nan"),
    ("pointwise_product_driver", "no_barrier_before_read", "wrong result: bfloat16, 17 x 16 x 24", "nan"),
    ("pointwise_product_driver", "no_barrier_before_copy", "wrong result: bfloat16, ", "nan"),
    ("faults_driver", "shared_store_beyond", "a store beyond the 1024 bytes of dynamic shared memory", ""),
    ("faults_driver", "shared_store_below", "a store below the dynamic shared memory", ""),
    ("faults_driver", "no_wait", "order forward: out[0]: expected 1, got", "nan"),
    ("faults_driver", "wait_for_too_few", "order forward: out[0]: expected 1, got", "nan"),
    ("faults_driver", "no_barrier_after_wait", "order reversed: out[1]: expected 3, got", "nan"),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_many_layers(programs: Path, seed: str) -> None:
    expect_right(run(programs / "mbconv_driver", "100", seed))


@pytest.mark.slow
def test_what_is_caught_without_address_sanitizer(tmp_path: Path) -> None:
    programs = build(SOURCES, tmp_path, PROGRAMS, "DNA_FAST_SANITIZE=undefined", "CMAKE_CXX_FLAGS=-DDNA_FAST_UCONTEXT")
    for program in CHECKS:
        expect_right(run(programs / program))
    for program, error, says, where in WITHOUT_ADDRESS_SANITIZER:
        expect_caught(run(programs / program, error), says, where)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvcc_compiles_the_same_kernels(arch: str, tmp_path: Path) -> None:
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("needs nvcc, and there is none on PATH")
    command = [nvcc, "-std=c++20", f"-arch={arch}", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"]
    done = subprocess.run(
        [*command, f"-I{CSRC}", "-c", SOURCES / "kernels/everything.cu", "-o", tmp_path / "everything.o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
