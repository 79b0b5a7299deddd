"""What tests of several operators set and put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ops.cpu_isas import isas_without_bf16

from dna_fast.ops import _library


@pytest.fixture(params=isas_without_bf16())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction set of this CPU, one after the other, is the one that kernels run."""
    monkeypatch.setenv("DNA_FAST_FORCE_ISA", request.param)
    assert _library.isa() == request.param
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Whatever number of threads a test sets is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
