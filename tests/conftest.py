"""Options and markers of the whole suite. Loads neither torch nor compiled code unless a test asks for a device."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dna_fast")
    group.addoption("--slow", action="store_true", help="also run tests that take minutes")
    group.addoption("--require-gpu", action="store_true", help="fail, rather than skip, tests that find no CUDA device")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("takes minutes; run with --slow, or make test-all")
    if item.get_closest_marker("gpu") and (problem := _missing_gpu()):
        if item.config.getoption("--require-gpu"):
            pytest.fail(f"--require-gpu: {problem}")
        pytest.skip(problem)


def _missing_gpu() -> str | None:
    """Why there is no GPU to test on; None if there is one."""
    try:
        import torch
    except ImportError:
        return "needs torch with CUDA, and torch is not installed"
    return None if torch.cuda.is_available() else "needs a CUDA device, and torch finds none"
