"""The search space: which architectures exist, of which layers they are made, and in which order they are counted."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDINGS = ("symmetric", "same")


def _require_positive(what: str, record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value <= 0:
            raise ValueError(f"{what}: {name} must be a positive integer, got {value!r}")


@dataclass(frozen=True)
class Choice:
    """One operator: an MBConv with this depthwise kernel and expansion."""

    kernel: int
    expand_ratio: int

    def __post_init__(self) -> None:
        _require_positive("choice", self, "kernel", "expand_ratio")
        if self.kernel % 2 == 0:
            raise ValueError(f"choice: kernel must be odd, got {self.kernel}")

    @property
    def name(self) -> str:
        """Short name for tables and plots, e.g. ``e6k3``; carries no meaning that code reads."""
        return f"e{self.expand_ratio}k{self.kernel}"


@dataclass(frozen=True)
class MBConvSpec:
    """One concrete MBConv layer; every number explicit."""

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    stride: int
    se_channels: int  # 0: no squeeze-excite

    def __post_init__(self) -> None:
        _require_positive("layer", self, "in_channels", "mid_channels", "out_channels", "kernel", "stride")
        if self.kernel % 2 == 0:
            raise ValueError(f"layer: kernel must be odd, got {self.kernel}")
        if self.se_channels != 0:
            _require_positive("layer", self, "se_channels")

    @property
    def has_residual(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Layer:
    """A position in a cell, before its operator is chosen."""

    in_channels: int  # what the first convolution reads
    nominal_channels: int  # what mid and se widths are computed from
    out_channels: int
    stride: int
    in_size: int  # pixels per side at the space's resolution
    out_size: int

    def mbconv(self, choice: Choice, se_ratio: float) -> MBConvSpec:
        """The layer with its operator chosen."""
        return MBConvSpec(
            in_channels=self.in_channels,
            mid_channels=self.nominal_channels * choice.expand_ratio,
            out_channels=self.out_channels,
            kernel=choice.kernel,
            stride=self.stride,
            se_channels=round(self.nominal_channels * se_ratio),
        )


@dataclass(frozen=True)
class Cell:
    """One depth and width that a block offers."""

    depth: int
    width: int

    def __post_init__(self) -> None:
        _require_positive("cell", self, "depth", "width")


@dataclass(frozen=True)
class Block:
    """A segment of the network that is trained alone; its stride sits in its first layer."""

    stride: int
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        _require_positive("block", self, "stride")
        if not self.cells:
            raise ValueError("block: needs at least one cell, got none")
        if len(set(self.cells)) != len(self.cells):
            raise ValueError(f"block: cells must differ, got {[(c.depth, c.width) for c in self.cells]}")


@dataclass(frozen=True)
class Frame:
    """What is fixed around the blocks: the stem, the head, and conventions all layers share.

    Stem: 3x3 convolution to ``stem_channels`` with ``stem_stride``, then a depthwise-separable 3x3 layer to ``stem_width``.
    Head: 1x1 convolution to ``head_channels``, average pool, linear to ``num_classes``.
    """

    stem_channels: int = 32
    stem_width: int = 16
    stem_stride: int = 2
    head_channels: int = 1280
    num_classes: int = 1000
    resolution: int = 224
    se_ratio: float = 0.25
    padding: str = "symmetric"
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        _require_positive(
            "space",
            self,
            "stem_channels",
            "stem_width",
            "stem_stride",
            "head_channels",
            "num_classes",
            "resolution",
        )
        if not 0 <= self.se_ratio <= 1:
            raise ValueError(f"space: se_ratio must lie in [0, 1], got {self.se_ratio}")
        if self.padding not in PADDINGS:
            raise ValueError(f"space: padding must be one of {', '.join(PADDINGS)}, got {self.padding!r}")
        if not self.bn_eps > 0:
            raise ValueError(f"space: bn_eps must be > 0, got {self.bn_eps}")

    @property
    def stem_size(self) -> int:
        """Pixels per side behind the stem."""
        return math.ceil(self.resolution / self.stem_stride)

    @property
    def stem_se_channels(self) -> int:
        return round(self.stem_channels * self.se_ratio)


@dataclass(frozen=True)
class SearchSpace:
    """All architectures: one candidate (cell, path) per block.

    Raises:
        ValueError: an empty or inconsistent space; the message names the field.
    """

    name: str
    choices: tuple[Choice, ...]
    blocks: tuple[Block, ...]
    frame: Frame = Frame()

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("space: choices must list at least one operator, got none")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"space: choices must differ, got {[c.name for c in self.choices]}")
        if not self.blocks:
            raise ValueError("space: blocks must list at least one block, got none")

    # ---- layers -----------------------------------------------------------------------------------------------------

    def nominal_width(self, block: int) -> int:
        """Nominal input width of a block: the width of the previous block's first cell, or of the stem."""
        return self.frame.stem_width if block == 0 else self.blocks[block - 1].cells[0].width

    def in_size(self, block: int) -> int:
        """Pixels per side of a block's input."""
        size = self.frame.stem_size
        for earlier in self.blocks[:block]:
            size = math.ceil(size / earlier.stride)
        return size

    def out_size(self, block: int) -> int:
        """Pixels per side of a block's output."""
        return math.ceil(self.in_size(block) / self.blocks[block].stride)

    def layers(self, block: int, cell: int, in_width: int | None = None) -> tuple[Layer, ...]:
        """The layers of a cell, first to last.

        Args:
            block, cell: which cell.
            in_width: width of the cell chosen before it; default its nominal input width.
        """
        nominal = self.nominal_width(block)
        in_channels = nominal if in_width is None else in_width
        size, out_size = self.in_size(block), self.out_size(block)
        depth, width = self.blocks[block].cells[cell].depth, self.blocks[block].cells[cell].width
        first = Layer(in_channels, nominal, width, self.blocks[block].stride, size, out_size)
        return (first, *(Layer(width, width, width, 1, out_size, out_size) for _ in range(depth - 1)))

    def mbconv(self, layer: Layer, choice: int) -> MBConvSpec:
        """The concrete layer for operator number `choice`."""
        return layer.mbconv(self.choices[choice], self.frame.se_ratio)

    def fold_problems(self) -> list[str]:
        """Why adapters cannot be folded into the first layers of this space; empty if they can."""
        problems = []
        for b in range(1, len(self.blocks)):
            for c, cell in enumerate(self.blocks[b].cells):
                if self.blocks[b].stride == 1 and cell.width in (self.nominal_width(b), *self.input_widths(b)):
                    problems.append(
                        f"block {b} cell {c}: its first layer has a residual (stride 1, width {cell.width} in and out)"
                    )
        return problems

    # ---- labels -----------------------------------------------------------------------------------------------------

    def input_widths(self, block: int) -> tuple[int, ...]:
        """Distinct widths a block's input can have, ascending: the rows of its 2-D tables."""
        if block == 0:
            return (self.frame.stem_width,)
        return tuple(sorted({cell.width for cell in self.blocks[block - 1].cells}))

    def labels(self, block: int) -> NDArray[np.int64]:
        """[candidates] the width each candidate shows to the next block."""
        cells = self.blocks[block].cells
        return np.repeat(np.array([c.width for c in cells], dtype=np.int64), [self.num_paths(c) for c in cells])

    # ---- counting ---------------------------------------------------------------------------------------------------

    def num_paths(self, cell: Cell) -> int:
        return int(len(self.choices) ** cell.depth)

    def num_candidates(self, block: int) -> int:
        return sum(self.num_paths(cell) for cell in self.blocks[block].cells)

    @property
    def num_architectures(self) -> int:
        return math.prod(self.num_candidates(b) for b in range(len(self.blocks)))

    def cell_offset(self, block: int, cell: int) -> int:
        """Candidate index of a cell's first path."""
        return sum(self.num_paths(c) for c in self.blocks[block].cells[:cell])

    def path_index(self, path: Sequence[int]) -> int:
        """A path read as a base-n number, first layer most significant."""
        index = 0
        for digit in path:
            if not 0 <= digit < len(self.choices):
                raise ValueError(f"path {tuple(path)}: choices run from 0 to {len(self.choices) - 1}, got {digit}")
            index = index * len(self.choices) + int(digit)
        return index

    def candidate_index(self, block: int, cell: int, path: Sequence[int]) -> int:
        """(block, cell, path) -> index within the block.

        Raises:
            ValueError: no such block or cell, a path of the wrong length or with an unknown choice.
        """
        self._check_block(block)
        cells = self.blocks[block].cells
        if not 0 <= cell < len(cells):
            raise ValueError(f"block {block}: cells run from 0 to {len(cells) - 1}, got {cell}")
        if len(path) != cells[cell].depth:
            raise ValueError(f"block {block} cell {cell}: a path has {cells[cell].depth} choices, got {tuple(path)}")
        return self.cell_offset(block, cell) + self.path_index(path)

    def candidate(self, block: int, index: int) -> tuple[int, tuple[int, ...]]:
        """index within the block -> (cell, path); the inverse of `candidate_index`.

        Raises:
            ValueError: no such block or candidate.
        """
        self._check_block(block)
        if not 0 <= index < self.num_candidates(block):
            raise ValueError(f"block {block}: candidates run from 0 to {self.num_candidates(block) - 1}, got {index}")
        rest = int(index)
        cell = 0
        while rest >= (paths := self.num_paths(self.blocks[block].cells[cell])):
            rest, cell = rest - paths, cell + 1
        path = []
        for _ in range(self.blocks[block].cells[cell].depth):
            rest, digit = divmod(rest, len(self.choices))
            path.append(digit)
        return cell, tuple(reversed(path))

    def paths(self, block: int, cell: int) -> NDArray[np.int64]:
        """[paths, depth] every path of a cell in index order."""
        depth = self.blocks[block].cells[cell].depth
        grid = np.indices((len(self.choices),) * depth, dtype=np.int64)
        return grid.reshape(depth, -1).T

    def _check_block(self, block: int) -> None:
        if not 0 <= block < len(self.blocks):
            raise ValueError(f"blocks run from 0 to {len(self.blocks) - 1}, got {block}")

    # ---- files ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON or YAML; `from_dict` reads it back."""
        return {
            "name": self.name,
            "choices": [asdict(choice) for choice in self.choices],
            "blocks": [{"stride": b.stride, "cells": [asdict(cell) for cell in b.cells]} for b in self.blocks],
            "frame": asdict(self.frame),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Builds and validates a space from a plain dict.

        Raises:
            ValueError: an unknown key (the nearest known one is named), a missing key, an invalid value.
        """
        try:
            top = _checked_keys(
                "space", data, ("name", "choices", "blocks", "frame"), required=("name", "choices", "blocks")
            )
            blocks = [_checked_keys(f"space.blocks[{i}]", b, ("stride", "cells")) for i, b in enumerate(top["blocks"])]
            return cls(
                name=str(top["name"]),
                choices=tuple(_record(Choice, f"space.choices[{i}]", c) for i, c in enumerate(top["choices"])),
                blocks=tuple(
                    Block(
                        b["stride"],
                        tuple(_record(Cell, f"space.blocks[{i}].cells[{j}]", c) for j, c in enumerate(b["cells"])),
                    )
                    for i, b in enumerate(blocks)
                ),
                frame=_record(Frame, "space.frame", top.get("frame", {})),
            )
        except TypeError as error:
            raise ValueError(f"space: a list or mapping was expected somewhere else: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> SearchSpace:
        """Reads a space from a JSON file."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON: {error}") from error
        return cls.from_dict(data)

    @property
    def sha256(self) -> str:
        """Identity of the space: equal spaces, and no others, share it (the name is part of it)."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def summary(self) -> str:
        """One line for people."""
        cells = sum(len(b.cells) for b in self.blocks)
        candidates = sum(self.num_candidates(b) for b in range(len(self.blocks)))
        # Decimal: a large space has more architectures than a float can hold
        sizes = f"{candidates:,} candidates, {Decimal(self.num_architectures):.2e} architectures"
        return f"{self.name}: {len(self.blocks)} blocks, {cells} cells, {sizes}"


def _checked_keys(
    where: str, data: object, allowed: Sequence[str], required: Sequence[str] | None = None
) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected a mapping with {', '.join(allowed)}, got {data!r}")
    for key in data:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unknown key {key!r}; did you mean {near!r}? Known: {', '.join(allowed)}")
    for key in allowed if required is None else required:
        if key not in data:
            raise ValueError(f"{where}: missing key {key!r}")
    return data


def _record(kind: type, where: str, data: object) -> Any:
    names = [f.name for f in fields(kind)]
    checked = _checked_keys(where, data, names, required=() if kind is Frame else None)
    try:
        return kind(**checked)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


SIX_CHOICES = tuple(Choice(kernel=k, expand_ratio=e) for e, k in itertools.product((6, 3), (3, 5, 7)))


def _blocks(*rows: tuple[int, Sequence[tuple[int, int]]]) -> tuple[Block, ...]:
    return tuple(Block(stride, tuple(Cell(depth, width) for depth, width in cells)) for stride, cells in rows)


def preset(name: str) -> SearchSpace:
    """A space by name.

    ``dna``: the 16-cell space of the paper at 224 pixels (1.96e17 architectures).
    ``digits``: a small one at 64 pixels for the embedded data set.

    Raises:
        ValueError: unknown name.
    """
    if name == "dna":
        blocks = _blocks(
            (2, [(2, 24), (3, 24), (2, 32)]),
            (2, [(2, 40), (3, 40), (4, 40)]),
            (2, [(2, 80), (3, 80), (4, 80)]),
            (1, [(3, 112), (4, 112), (4, 96)]),
            (2, [(4, 192), (5, 192), (5, 160)]),
            (1, [(1, 320)]),
        )
        return SearchSpace("dna", SIX_CHOICES, blocks)
    if name == "digits":
        frame = Frame(stem_channels=8, stem_width=8, head_channels=128, num_classes=10, resolution=64)
        blocks = _blocks((2, [(2, 12), (3, 12)]), (2, [(2, 16), (3, 20)]), (1, [(2, 32), (3, 32)]))
        return SearchSpace("digits", SIX_CHOICES, blocks, frame)
    raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")


PRESETS = ("dna", "digits")
