"""Whether an answer is right: against float64, with tolerances that follow from the number of roundings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BFLOAT16_ROUNDINGS = 16  # of one layer: weights, activations, and in plain PyTorch what lies between them


def layer_tolerance(additions: int, dtype: torch.dtype) -> float:
    """Largest root mean square error that is rounding, as a share of the answer's.

    float32: one rounding per addition, all of one sign at worst: 2^-24 each.
    bfloat16: its storage decides, at most BFLOAT16_ROUNDINGS a layer of 2^-9 each, independent of each other, so they add as squares.
    Twice that is allowed.

    Args:
        additions: behind one output of the layer.
    """
    if dtype == torch.bfloat16:
        return float(2 * BFLOAT16_ROUNDINGS**0.5 * 2.0**-9)
    return additions * 2.0**-24


def check_close(answer: Tensor, *, expected: Tensor, tolerance: float) -> dict[str, Any]:
    """The root mean square error as a share of the expected values'.

    Raises:
        AssertionError: it is above the tolerance, an element is off by 16 tolerances, or shapes differ.
    """
    assert answer.shape == expected.shape, f"expected shape {list(expected.shape)}, got {list(answer.shape)}"
    error = answer.double() - expected
    scale = expected.square().mean().sqrt()
    relative, worst = (error.square().mean().sqrt() / scale).item(), (error.abs().max() / scale).item()
    # Comparisons with nan are false, so nan fails both.
    assert relative <= tolerance, (
        f"expected an error of at most {tolerance:.1e} of the values' size, got {relative:.1e}"
    )
    assert worst <= 16 * tolerance, f"expected no element off by more than {16 * tolerance:.1e}, got {worst:.1e}"
    return {"error": float(f"{relative:.3g}")}
