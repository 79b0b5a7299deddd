"""A teacher's pass over a batch, from images to the feature behind its last stage: fused layers against plain PyTorch.

Request: model (timm name), batch, size (pixels per side), dtypes, ways, threads, pace (Pace's fields).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.agreement import check_close
from benchmarks.baselines_torch import Run, exists, forward_of, settle_norms
from benchmarks.fused import fused_model
from benchmarks.race import Contestant, Pace, keep_freed_memory, race

SEED = 0
OWN_ERRORS = 2  # times plain PyTorch's error: another order of the same roundings
RESIDUAL_SCALE = 0.2
MOST_ERROR = 0.3  # of the values' size, in whatever dtype: more is not an answer


class Trunk(nn.Module):
    """A timm EfficientNet up to its last stage: what a teacher computes, as the head is cut off."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = model.conv_stem, model.bn1, model.blocks

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.bn1(self.conv_stem(images)))
        return features


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant its times and errors; random weights, batch norms with the statistics of a batch."""
    import timm

    torch.set_num_threads(request["threads"])
    torch.manual_seed(SEED)
    with torch.no_grad():
        trunk = Trunk(timm.create_model(request["model"])).eval()
        size = request["size"]
        images = torch.randn(request["batch"], 3, size, size).contiguous(memory_format=torch.channels_last)
        settle_norms(trunk, images[:4], residual_scale=RESIDUAL_SCALE)
        checks = {dtype: _check(trunk, images, getattr(torch, dtype)) for dtype in request["dtypes"]}
        entrants = [
            (fields, _run(trunk, images, fields), checks[fields["dtype"]])
            for fields in fields_of(request["ways"], request["dtypes"])
        ]
        entries = []
        for allocator in ("default", "tuned"):
            if allocator == "tuned":
                keep_freed_memory()
            contestants = [Contestant(fields | {"allocator": allocator}, run, check) for fields, run, check in entrants]
            entries += race(contestants, Pace(**request["pace"]))
    return {"entries": entries, "facts": {}}


def fields_of(ways: list[str], dtypes: list[str]) -> list[dict[str, str]]:
    """Way and dtype of all contestants."""
    return [
        {"way": way, "dtype": dtype}
        for dtype in dtypes
        for way in ways
        if way == "ours" or exists(way, getattr(torch, dtype))
    ]


def _run(trunk: Trunk, images: Tensor, fields: dict[str, str]) -> Callable[[], Any]:
    dtype: torch.dtype = getattr(torch, fields["dtype"])
    ours = fields["way"] == "ours"
    run: Run = fused_model(trunk, dtype) if ours else forward_of(trunk, fields["way"], dtype)
    return partial(run, images.to(dtype))


def _check(trunk: Trunk, images: Tensor, dtype: torch.dtype) -> Callable[[Tensor], dict[str, Any]]:
    """Against float64, within a few times plain PyTorch's own error in this dtype: random layers amplify what reaches them."""
    exact = copy.deepcopy(trunk).double()
    expected = torch.cat([exact(piece.to(dtype).double()) for piece in torch.split(images, 2)])
    plain = forward_of(trunk, "eager" if dtype == torch.float32 else "eager-cast", dtype)(images.to(dtype))
    own_error = check_close(plain, expected=expected, tolerance=MOST_ERROR)["error"]
    return partial(check_close, expected=expected, tolerance=OWN_ERRORS * own_error)
