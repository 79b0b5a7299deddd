"""What each operator computes, in plain torch: for reading and for tests. Any float dtype; differentiable."""

from __future__ import annotations

from torch import Tensor


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of (student - teacher)^2 over all elements, in the dtype that torch promotes both to.

    For an exact answer pass both as float64.
    """
    return (student - teacher).square().mean()
