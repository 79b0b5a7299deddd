"""What measures a GPU, tried on the CPU: the opponents compute the same as we do, and a wrong answer is not timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_check, gpu_layers

CPU = torch.device("cpu")
TURNS = {"TURNS": 1, "TURN_S": 0.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TURNS.items():
        monkeypatch.setattr(gpu_layers, name, value)


@pytest.mark.parametrize("sizes", [(16, 24, 2, 9), (24, 24, 1, 7)], ids=["stride 2", "residual"])
@pytest.mark.parametrize("operator", gpu_layers.OPERATORS, ids=["e3k3", "e6k7"])
def test_a_layer_is_checked_and_raced(sizes: tuple[int, int, int, int], operator: tuple[int, int]) -> None:
    case = gpu_layers.layer_case(sizes, operator, 2, CPU, compiled=False)
    assert case["us"].keys() == case["errors"].keys() == {"ours", "eager"}
    assert min(case["us"].values()) > 0
    assert 0 < case["errors"]["ours"] < 0.02  # bfloat16's eight bits


def test_a_wrong_layer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_layers.mbconv

    def wrong(*arguments: Any) -> Tensor:
        return right(*arguments) * 1.1

    monkeypatch.setattr(gpu_layers, "mbconv", wrong)
    with pytest.raises(ValueError, match="wrong: error"):
        gpu_layers.layer_case((24, 24, 1, 7), (3, 3), 2, CPU, compiled=False)


@pytest.mark.parametrize("dtypes", gpu_layers.DTYPES, ids=str)
def test_the_loss_is_checked_and_raced(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    case = gpu_layers.feature_case((2, 8, 5, 5), dtypes, CPU)
    assert case["bytes"] == 400 * (2 * dtypes[0].itemsize + dtypes[1].itemsize)
    assert case["us"].keys() == {"ours", "eager"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this is what happens without one")
def test_without_a_gpu_it_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_check", str(tmp_path)])
    assert gpu_check.main() == 2
    assert "expected a torch that finds a GPU" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
