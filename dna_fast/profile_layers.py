"""What a space is made of, as a device sees it: every distinct layer once, and candidates' latencies as sums over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dna_fast.architecture import Architecture
from dna_fast.space import Frame, MBConvSpec, SearchSpace

PARTS = ("stem", "mbconv", "head")
IMPLEMENTATIONS = ("torch", "fused")
ELSEWHERE = "elsewhere"  # implementation of what a CSV file brings from another device
DTYPES = ("float32", "bfloat16", "float16")
NS_PER_US = 1000


@dataclass(frozen=True)
class LayerKey:
    """One piece of a network: everything that its latency depends on besides `Setting` and the device.

    The stem is both of its layers; its in_size is the image's. The head is the last convolution, pooling and classifier.
    """

    part: str  # of PARTS
    in_channels: int
    mid_channels: int  # stem: between its two layers; head: behind its convolution
    out_channels: int  # head: classes
    kernel: int
    stride: int
    se_channels: int
    in_size: int  # pixels per side
    padding: str

    def __str__(self) -> str:
        shape = f"{self.in_channels}-{self.mid_channels}-{self.out_channels} k{self.kernel} s{self.stride}"
        return f"{self.part} {shape} se{self.se_channels} at {self.in_size}, {self.padding}"


@dataclass(frozen=True)
class Setting:
    """How a network runs.

    Args:
        batch: images per call; latencies are of whole calls.
        dtype: of `DTYPES`.
        implementation: "torch": timm's layers; "fused": those that `teacher_fused.fuse` can, by ops.mbconv; "elsewhere".
    """

    batch: int
    dtype: str
    implementation: str

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"profile: batch must be >= 1, got {self.batch}")
        if self.dtype not in DTYPES:
            raise ValueError(f"profile: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.implementation not in (*IMPLEMENTATIONS, ELSEWHERE):
            raise ValueError(
                f"profile: implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {self.implementation!r}"
            )

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.dtype}, {self.implementation}"


def stem_key(frame: Frame) -> LayerKey:
    """The stem of a frame."""
    width = (3, frame.stem_channels, frame.stem_width)
    return LayerKey("stem", *width, 3, frame.stem_stride, frame.stem_se_channels, frame.resolution, frame.padding)


def mbconv_key(spec: MBConvSpec, in_size: int, frame: Frame) -> LayerKey:
    """A layer whose input has `in_size` pixels per side."""
    width = (spec.in_channels, spec.mid_channels, spec.out_channels)
    return LayerKey("mbconv", *width, spec.kernel, spec.stride, spec.se_channels, in_size, frame.padding)


def head_key(frame: Frame, width: int, in_size: int) -> LayerKey:
    """The head behind blocks of this width and size."""
    return LayerKey("head", width, frame.head_channels, frame.num_classes, 1, 1, 0, in_size, frame.padding)


def architecture_layers(arch: Architecture) -> list[LayerKey]:
    """Every piece of a network, in order."""
    keys, size = [stem_key(arch.frame)], arch.frame.stem_size
    for spec in (spec for layers in arch.blocks for spec in layers):
        keys.append(mbconv_key(spec, size, arch.frame))
        size = math.ceil(size / spec.stride)
    return [*keys, head_key(arch.frame, arch.blocks[-1][-1].out_channels, size)]


def space_layers(space: SearchSpace) -> list[LayerKey]:
    """Every distinct piece that an architecture of the space can have, first layers for each width before them."""
    last = len(space.blocks) - 1
    found = [stem_key(space.frame)]
    for b, block in enumerate(space.blocks):
        for c in range(len(block.cells)):
            found += [key for row in _cell_keys(space, b, c) for position in row for key in position]
    found += [head_key(space.frame, cell.width, space.out_size(last)) for cell in space.blocks[last].cells]
    return list(dict.fromkeys(found))


def latency_arrays(
    space: SearchSpace, nanoseconds: Mapping[LayerKey, int], extra_ns: int = 0
) -> list[NDArray[np.int64]]:
    """Latencies of every candidate for every width its block's input can have, as a cost table takes them.

    Args:
        nanoseconds: of every piece in `space_layers(space)`.
        extra_ns: added once per network, in block 0.

    Returns:
        Per block int64 [labels_in, n_b], whole microseconds, rounded up per candidate; the stem in block 0, the head in the
        last block.
    """
    last, blocks = len(space.blocks) - 1, []
    for b, block in enumerate(space.blocks):
        cells = []
        for c, cell in enumerate(block.cells):
            total = _path_sums(_cell_keys(space, b, c), nanoseconds.__getitem__)
            if b == 0:
                total = total + nanoseconds[stem_key(space.frame)] + extra_ns
            if b == last:
                total = total + nanoseconds[head_key(space.frame, cell.width, space.out_size(b))]
            cells.append(total)
        blocks.append(-(-np.concatenate(cells, axis=1) // NS_PER_US))
    return blocks


def _cell_keys(space: SearchSpace, block: int, cell: int) -> list[list[list[LayerKey]]]:
    """[labels_in][layer][operator] of a cell."""
    return [
        [
            [mbconv_key(space.mbconv(layer, o), layer.in_size, space.frame) for o in range(len(space.choices))]
            for layer in space.layers(block, cell, width)
        ]
        for width in space.input_widths(block)
    ]


def _path_sums(rows: Sequence[Sequence[Sequence[LayerKey]]], ns: Callable[[LayerKey], int]) -> NDArray[np.int64]:
    """[labels_in, paths] sums along every path of a cell, first layer most significant."""
    sums = []
    for positions in rows:
        total = np.zeros(1, dtype=np.int64)
        for operators in positions:
            total = np.add.outer(total, np.array([ns(key) for key in operators], dtype=np.int64)).ravel()
        sums.append(total)
    return np.stack(sums)


def missing(layers: Sequence[LayerKey], known: Callable[[LayerKey], bool]) -> Iterator[LayerKey]:
    """The pieces that are not known."""
    return (key for key in layers if not known(key))
