"""What the CUDA assembler made of every kernel, against the committed table: no spills, nothing lost, no more registers.

After a change that is meant: `cp dna_fast/_C.ptxas.json tests/ptxas.json`, and look at the difference.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
TABLE = json.loads((HERE / "ptxas.json").read_text(encoding="utf-8"))
REPORTER = HERE.parent / "csrc" / "ptxas_report.py"
BLOCK_THREADS, REGISTERS = 256, 65536  # of mbconv's kernels; of a multiprocessor


def built() -> dict[str, Any]:
    _library = pytest.importorskip("dna_fast.ops._library")
    facts = _library.cuda_kernels(_library.find())
    if not facts.startswith("built"):
        pytest.skip(f"needs a build with CUDA kernels; {facts}")
    if "80, 90 and PTX of 90" not in facts:
        pytest.skip(f"needs a build for the default architectures; {facts}")
    report: dict[str, Any] = json.loads((_library.find().parent / "_C.ptxas.json").read_text(encoding="utf-8"))
    return report


@pytest.mark.parametrize("architecture", TABLE["kernels"])
def test_every_instantiation_is_there(architecture: str) -> None:
    assert sorted(built()["kernels"][architecture]) == sorted(TABLE["kernels"][architecture])


@pytest.mark.parametrize("architecture", TABLE["kernels"])
def test_nothing_spills(architecture: str) -> None:
    kernels = built()["kernels"][architecture]
    assert {name: k for name, k in kernels.items() if k["spill_bytes"] or k["stack_bytes"]} == {}


@pytest.mark.parametrize("architecture", TABLE["kernels"])
def test_registers_and_shared_memory_are_the_tables(architecture: str) -> None:
    """With the compiler that the table was made with; another one may choose otherwise, and then has to fit."""
    report = built()
    kernels, table = report["kernels"][architecture], TABLE["kernels"][architecture]
    if report["nvcc"] == TABLE["nvcc"]:
        assert kernels == table
    for name, kernel in kernels.items():
        if name.startswith("mbconv"):
            assert kernel["registers"] * BLOCK_THREADS <= REGISTERS, name
            # Two blocks hide each other's barriers.
            if "expand" in name and "float32" not in name:
                assert 2 * kernel["registers"] * BLOCK_THREADS <= REGISTERS, name


REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8dna_fast6mbconv13expand_kernelI6__halfLi7ELi2EEEvNS0_15ExpandArgumentsE' for 'sm_80'
ptxas info    : Function properties for _ZN8dna_fast6mbconv13expand_kernelI6__halfLi7ELi2EEEvNS0_15ExpandArgumentsE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 122 registers, used 1 barriers, 8 bytes cumulative stack size, 640 bytes smem, 300 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN8dna_fast6mbconv11gate_kernelENS0_8GateCallE' for 'sm_90'
ptxas info    : Function properties for _ZN8dna_fast6mbconv11gate_kernelENS0_8GateCallE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
"""


def reporter() -> Any:
    spec = importlib.util.spec_from_file_location("ptxas_report", REPORTER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reports_are_read() -> None:
    spilled = {"stack_bytes": 8, "spill_bytes": 16, "registers": 122, "static_shared_bytes": 640}
    clean = {"stack_bytes": 0, "spill_bytes": 0, "registers": 40, "static_shared_bytes": 0}
    assert reporter().parse(REPORT) == {
        "sm_80": {"mbconv expand_kernel<float16, 7, 2>": spilled},
        "sm_90": {"mbconv gate_kernel": clean},
    }


def test_an_unknown_template_argument_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a known template argument, got h"):
        reporter().readable("_ZN8dna_fast6mbconv13expand_kernelIhLi7EEEvv")
