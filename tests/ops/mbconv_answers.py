"""All answers of the op on one call, and the reference's with what a kernel may be off by."""

from __future__ import annotations

from ops.mbconv_cases import (
    RUN,
    STORAGE,
    Inputs,
    adapted_bound,
    depthwise_bound,
    moments_bound,
    output_bound,
    project_bound,
    sums_bound,
)
from torch import Tensor

from dna_fast.ops import mbconv, mbconv_depthwise, mbconv_project, mbconv_reduce, reference


def assert_within(got: Tensor, expected: Tensor, error: Tensor, what: str) -> None:
    assert got.shape == expected.shape, what
    miss = (got.double() - expected).abs() - error
    assert (miss <= 0).all(), f"{what}: {int((~(miss <= 0)).sum())} of {miss.numel()} off, by up to {miss.max():.3g}"


def endings(i: Inputs) -> dict[str, Tensor]:
    """Every answer the op has."""
    norm1 = i.norms[0] if i.weights.shape.has_expansion else None
    h, h_moments = mbconv_depthwise(i.x, i.weights, norm1, prefixes=len(i.norms[0].scale))
    y, y_moments = mbconv_project(h, i.weights, i.norms[-2])
    return {
        "output": mbconv(i.x, i.weights, i.norms),
        "reduced": mbconv_reduce(i.x, i.weights, i.norms, i.target),
        "adapted": mbconv_reduce(i.x, i.weights, i.norms, i.adapted_target, i.adapter),
        "h": h,
        "h moments": h_moments,
        "y": y,
        "y moments": y_moments,
    }


def expected_endings(i: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    """The reference's answers, and how far from them a kernel's may be."""
    x, norms, layer, storage = i.exact_x, i.exact_norms, i.layer, STORAGE[i.x.dtype]
    h, h_moments = reference.mbconv_depthwise(x, layer, norms[0] if layer.conv_pw is not None else None)
    y, y_moments = reference.mbconv_project(h, layer, norms[-2])
    h_bound = depthwise_bound(i)
    y_bound = project_bound(h_bound.rounded(storage), i).rounded(storage)
    reduced = reference.mbconv_reduce(x, layer, norms, i.target.double())
    adapted = reference.mbconv_reduce(x, layer, norms, i.adapted_target.double(), i.exact_adapter)
    return {
        "output": (reference.mbconv(x, layer, norms), output_bound(i).rounded(storage).error),
        "reduced": (reduced, sums_bound(output_bound(i), i.target)),
        "adapted": (adapted, sums_bound(adapted_bound(i), i.adapted_target)),
        "h": (h, h_bound.rounded(storage).error),
        "h moments": (h_moments, moments_bound(h_bound, h.shape[3])),
        "y": (y, y_bound.error),
        "y moments": (y_moments, moments_bound(y_bound, RUN)),
    }
