"""What `dna-fast info` finds, and what it says where something is missing."""

from __future__ import annotations

import pytest

from dna_fast import about

MODULE = "torch ops (dna_fast._C)"


def test_names_what_was_built() -> None:
    torch = pytest.importorskip("torch")
    facts = about.facts()
    assert facts[MODULE] == f"built for torch {torch.__version__}"
    assert facts["CPU kernels"].partition("; running ")[2] in ("avx512_bf16", "avx512", "avx2", "scalar")
    assert facts["CUDA kernels"].startswith(("built with nvcc ", "not built, "))
    assert next(iter(facts)) == "dna_fast"
    assert list(facts)[-1] == "GPU"


@pytest.mark.parametrize(
    ("built", "says"),
    [
        ("built with nvcc 13.0.88 for 80, 90 and PTX of 90", "built with nvcc 13.0.88 for 80, 90 and PTX of 90"),
        (
            "not built, no nvcc on PATH",
            "not built, no nvcc on PATH; CUDA tensors go through torch's own operators",
        ),
    ],
)
def test_says_what_runs_on_cuda(built: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from dna_fast.ops import _library

    monkeypatch.setattr(_library, "cuda_kernels", lambda path: built)
    assert about.facts()["CUDA kernels"] == says


def test_a_forced_instruction_set_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", "scalar")
    assert about.facts()["CPU kernels"].endswith("; running scalar")


def test_an_unusable_module_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", "sse9")
    facts = about.facts()
    assert facts[MODULE].startswith("not usable (DNA_FAST_FORCE_ISA: expected one of ")
    assert "CUDA kernels" not in facts


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = about.version
    monkeypatch.setattr(about, "version", lambda package: None if package == "torch" else installed(package))
    facts = about.facts()
    assert facts[MODULE] == "not built: torch is not installed"
    assert facts["GPU"] == "not known: torch is not installed"
