"""The allocator: what is freed stays, and huge pages are asked for without overruling the environment."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from dna_fast.memory import HUGE_PAGES, ask_for_huge_pages, keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from dna_fast.memory import keep_freed_memory
if sys.argv[1] == "keeping":
    assert keep_freed_memory()
def work():
    np.full((1 << 23) + 1, 1.5)  # 64 MiB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept() -> None:
    def faults(allocator: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, allocator], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("default") > 10  # at least one for each of the 32 huge pages
    assert faults("keeping") <= 10


def test_huge_pages_are_asked_for_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HUGE_PAGES, "")  # so that it is put back as it was
    monkeypatch.delenv(HUGE_PAGES)
    ask_for_huge_pages()
    assert os.environ[HUGE_PAGES] == "1"
    monkeypatch.setenv(HUGE_PAGES, "0")
    ask_for_huge_pages()
    assert os.environ[HUGE_PAGES] == "0"


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
