"""The instruction sets that kernels for the CPU are compiled for, and those that this CPU has."""

from __future__ import annotations

from pathlib import Path

AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
FLAGS = {"scalar": (), "avx2": ("avx2", "fma"), "avx512": AVX512, "avx512_bf16": (*AVX512, "avx512_bf16")}
WITHOUT_BF16 = ("scalar", "avx2", "avx512")  # what all kernels but those of mbconv are compiled for


def isas() -> list[str]:
    """What this CPU can be told to run."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return [isa for isa, flags in FLAGS.items() if all(f" {flag}" in text for flag in flags)]


def isas_without_bf16() -> list[str]:
    """Of those, what most kernels are compiled for."""
    return [isa for isa in isas() if isa in WITHOUT_BF16]
