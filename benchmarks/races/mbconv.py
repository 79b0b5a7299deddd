"""One MBConv layer: ours against plain PyTorch, first with the allocator as it comes, then with one that keeps freed memory.

Request: layer (MBConvSpec's fields), size (pixels per side), batch, dtypes, ways (of baselines_torch, and "ours"), pieces (images
per call, tried besides the whole batch by opponents with the tuned allocator), allocators, threads, pace (Pace's fields).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.agreement import check_close, layer_tolerance
from benchmarks.baselines_torch import Run, exists, forward_of, mbconv_layer, settle_norms
from benchmarks.fused import fused_layer
from benchmarks.race import Contestant, Pace, keep_freed_memory, race
from benchmarks.roofs import peak

SEED = 0


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per contestant its times and errors; and what the layer takes: macs and silus of the batch, the machine's peak."""
    torch.set_num_threads(request["threads"])
    torch.manual_seed(SEED)
    spec, batch, size = request["layer"], request["batch"], request["size"]
    with torch.no_grad():
        layer = mbconv_layer(**spec)
        x = torch.randn(batch, spec["in_channels"], size, size).contiguous(memory_format=torch.channels_last)
        settle_norms(layer, x[:4])
        runs = list(_runs(request, layer, x))
        entries = []
        for allocator in request["allocators"]:
            if allocator == "tuned":
                keep_freed_memory()
            entrants = [
                Contestant({**fields, "allocator": allocator}, run, check)
                for fields, run, check in runs
                if fields["pieces"] == 0 or allocator == "tuned"
            ]
            entries += race(entrants, Pace(**request["pace"]))
    return {"entries": entries, "facts": {**work(spec, batch, size), "peak": peak(request["threads"])}}


def work(spec: dict[str, int], batch: int, size: int) -> dict[str, int]:
    """Exact macs and silus of a batch."""
    cin, mid, out, gate = (spec[f"{part}_channels"] for part in ("in", "mid", "out", "se"))
    before, after = size**2, (-(-size // spec["stride"])) ** 2
    macs = cin * mid * before + mid * spec["kernel"] ** 2 * after + 2 * mid * gate + mid * out * after
    silus = mid * (before + after) + gate
    return {"macs": batch * macs, "silus": batch * silus}


def _runs(request: dict[str, Any], layer: nn.Module, x: Tensor) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """(fields, run, check) of every contestant but for the allocator."""
    for name in request["dtypes"]:
        dtype: torch.dtype = getattr(torch, name)
        images = x.to(dtype)
        spec = request["layer"]
        additions = spec["in_channels"] + spec["kernel"] ** 2 + spec["mid_channels"]
        tolerance = layer_tolerance(additions, dtype)
        check = partial(check_close, expected=exact(layer, images), tolerance=tolerance)
        nchw = images.contiguous(memory_format=torch.contiguous_format)
        for fields in fields_of(request["ways"], request["pieces"], len(x), dtype):
            way = fields["way"]
            if way == "ours":
                run: Run = fused_layer(layer, dtype)
            else:
                run = forward_of(layer, way, dtype, fields["pieces"])
            yield fields, partial(run, nchw if way == "eager-nchw" else images), check


def fields_of(ways: Sequence[str], pieces: Sequence[int], batch: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Way, dtype and pieces of all contestants of one dtype; those whose way runs in it."""
    name = str(dtype).removeprefix("torch.")
    return [
        {"way": way, "dtype": name, "pieces": images}
        for way in ways
        if way == "ours" or exists(way, dtype)
        for images in ((0,) if way in ("ours", "eager-nchw") else (0, *(p for p in pieces if p < batch)))
    ]


def exact(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer in float64, the images as given; in pieces, because expanded tensors in float64 are large."""
    model = copy.deepcopy(layer).double()
    return torch.cat([model(piece.double()) for piece in torch.split(x, 4)])
