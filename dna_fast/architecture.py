"""One network: every layer explicit, from a space, a file, a timm string or the zoo."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from dna_fast._files import read_json, write_json
from dna_fast._names import nearest
from dna_fast.space import SIX_CHOICES, Frame, MBConvSpec, SearchSpace, _checked_keys, _record

FORMAT, VERSION = "dna_fast.architecture", 1

_KEYS = ("format", "version", "name", "frame", "blocks", "candidates")


@dataclass(frozen=True)
class Architecture:
    """A network between the frame's stem and head.

    Args:
        name: for people.
        frame: stem, head and conventions.
        blocks: the layers of every block, first to last; a stride sits in a block's first layer.
        candidates: index per block in the space it was chosen from; None where it comes from no space.

    Raises:
        ValueError: no layer in a block, widths that do not chain up, a stride inside a block, candidates that
            are not one per block.
    """

    name: str
    frame: Frame
    blocks: tuple[tuple[MBConvSpec, ...], ...]
    candidates: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        where = f"architecture {self.name}"
        if not self.blocks or not all(self.blocks):
            depths = [len(layers) for layers in self.blocks]
            raise ValueError(f"{where}: needs at least one block and one layer in each, got depths {depths}")
        width = self.frame.stem_width
        for b, layers in enumerate(self.blocks):
            for i, spec in enumerate(layers):
                here = f"{where}: block {b} layer {i}"
                if spec.in_channels != width:
                    raise ValueError(
                        f"{here}: in_channels must be the width before it, {width}, got {spec.in_channels}"
                    )
                if i and spec.stride != 1:
                    raise ValueError(
                        f"{here}: only a first layer may have a stride, got {spec.stride}; begin a block there"
                    )
                width = spec.out_channels
        given = self.candidates
        if given is not None and (len(given) != len(self.blocks) or not all(type(i) is int and i >= 0 for i in given)):
            raise ValueError(f"{where}: candidates must be one index per block, {len(self.blocks)}, got {given}")

    @classmethod
    def from_space(cls, space: SearchSpace, choice: Sequence[int], name: str | None = None) -> Architecture:
        """The architecture that takes these candidates.

        Args:
            choice: one candidate index per block.
            name: default the space's name and the indices.

        Raises:
            ValueError: not one valid candidate per block.
            TypeError: an index that is no integer.
        """
        if len(choice) != len(space.blocks):
            raise ValueError(f"an architecture has one candidate per block, {len(space.blocks)}, got {list(choice)}")
        candidates = tuple(index(i) for i in choice)
        width, blocks = space.frame.stem_width, []
        for b, candidate in enumerate(candidates):
            cell, path = space.candidate(b, candidate)
            layers = space.layers(b, cell, width)
            blocks.append(tuple(space.mbconv(layer, operator) for layer, operator in zip(layers, path, strict=True)))
            width = layers[-1].out_channels
        if name is None:
            name = "-".join((space.name, *map(str, candidates)))
        return cls(name, space.frame, tuple(blocks), candidates)

    # ---- files ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "frame": asdict(self.frame),
            "blocks": [[asdict(spec) for spec in layers] for layers in self.blocks],
            "candidates": None if self.candidates is None else list(self.candidates),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Builds and validates an architecture from a plain dict.

        Raises:
            ValueError: another format, a newer version, an unknown key (the nearest known one is named), a missing key,
                an invalid value.
        """
        top = _checked_keys("architecture", data, _KEYS)
        if top["format"] != FORMAT:
            raise ValueError(f"architecture: format must be {FORMAT!r}, got {top['format']!r}")
        if type(top["version"]) is not int or not 1 <= top["version"] <= VERSION:
            got = f"got {top['version']!r}; a newer one needs a newer dna_fast"
            raise ValueError(f"architecture: version must be 1 to {VERSION}, {got}")
        try:
            blocks = tuple(
                tuple(_record(MBConvSpec, f"architecture.blocks[{b}][{i}]", spec) for i, spec in enumerate(layers))
                for b, layers in enumerate(top["blocks"])
            )
            candidates = None if top["candidates"] is None else tuple(top["candidates"])
            return cls(str(top["name"]), _record(Frame, "architecture.frame", top["frame"]), blocks, candidates)
        except TypeError as error:
            raise ValueError(f"architecture: a value has the wrong type: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the architecture as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged or describes no valid architecture; the message names it.
        """
        data = read_json(path)
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    # ---- timm -------------------------------------------------------------------------------------------------------

    def to_timm(self) -> list[list[str]]:
        """The architecture as an arch_def of timm's EfficientNet builder: a list per stage, the stem's ds layer first.

        Expansion and SE get the digits that timm's arithmetic needs to arrive at exactly mid_channels and se_channels.
        A string cannot say that mid_channels is no multiple of 8: timm would round it. `export.build_model` does not.
        """
        frame = self.frame
        stem = f"ds_r1_k3_s1_c{frame.stem_width}"
        if frame.stem_se_channels:
            stem += f"_se{_se_decimal(frame.stem_se_channels, frame.stem_channels, 1.0, frame.se_ratio)}"
        return [[stem], *([_layer_string(spec, frame.se_ratio) for spec in layers] for layers in self.blocks)]

    @classmethod
    def from_timm(
        cls, arch_def: Sequence[Sequence[str]], frame: Frame, name: str, *, mid_divisor: int = 8
    ) -> Architecture:
        """Reads an arch_def of timm's EfficientNet builder; the inverse of `to_timm`.

        Args:
            arch_def: strings per stage; first the stem's ds layer, then ir layers. Widths are taken as written.
            frame: what the strings do not say. Its stem must agree with the first stage.
            mid_divisor: mid_channels are rounded to multiples of it. 8 is what timm builds from the strings alone; 1
                reads back every width that `to_timm` wrote.

        Raises:
            ValueError: a layer that is no MBConv or an option that changes it; the message names the string.
        """
        if len(arch_def) < 2:
            raise ValueError(f"timm arch_def: expected the stem's stage and at least one more, got {list(arch_def)}")
        _check_stem(arch_def[0], frame)
        width, blocks = frame.stem_width, []
        for stage in arch_def[1:]:
            layers: list[MBConvSpec] = []
            for text in stage:
                layers.extend(_read_layers(text, width, not layers, mid_divisor))
                width = layers[-1].out_channels
            blocks.append(tuple(layers))
        return cls(name, frame, tuple(blocks))


# ---- timm's strings -------------------------------------------------------------------------------------------------

# How near a printed ratio must come to a whole number of channels: far from where any way of rounding goes elsewhere.
_CLOSE = 0.01


def _decimals(value: float) -> Iterator[str]:
    """Decimal notations of a value, shortest first; the last has every digit of the float."""
    for digits in range(18):
        text = f"{value:.{digits}f}"
        yield text.rstrip("0").rstrip(".") if digits else text


def _rounded_mid(value: float, divisor: int) -> int:
    """What timm's make_divisible makes of in_channels x expansion."""
    if divisor == 1:
        return round(value)
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def _rounded_se(mid: int, se_ratio: float, expansion: float) -> int:
    """What timm makes of the ratio; in floats, so 108 x (0.25 / 6) need not be the 4.5 that rounds to 4."""
    return round(mid * (se_ratio / expansion))


def _se_decimal(se: int, mid: int, expansion: float, usual: float) -> str:
    """Decimal from which timm computes `se` channels: the frame's own ratio if it gives them, else their actual share."""
    if "e" not in repr(usual) and _rounded_se(mid, usual, expansion) == se:
        return repr(usual)
    return next(x for x in _decimals(se * expansion / mid) if abs(mid * (float(x) / expansion) - se) < _CLOSE)


def _layer_string(spec: MBConvSpec, se_ratio: float) -> str:
    mid, cin = spec.mid_channels, spec.in_channels
    expand = next(e for e in _decimals(mid / cin) if abs(cin * float(e) - mid) < _CLOSE)
    text = f"ir_r1_k{spec.kernel}_s{spec.stride}_e{expand}_c{spec.out_channels}"
    return f"{text}_se{_se_decimal(spec.se_channels, mid, float(expand), se_ratio)}" if spec.se_channels else text


def _options(text: str, kind: str, required: str) -> dict[str, str]:
    """The numbers of a string such as ir_r1_k3_s2_e6_c24_se0.25 by letter; se is the only one that may be missing."""
    where = f"timm string {text!r}"
    if not isinstance(text, str) or text.split("_")[0] != kind:
        raise ValueError(f"{where}: expected a layer of type {kind!r} here, the stem being ds and the rest ir")
    options: dict[str, str] = {}
    for option in text.split("_")[1:]:
        match = re.fullmatch(r"(se|e)(\d+\.?\d*)|([rksc])([1-9]\d*)", option)
        key, value = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        if key not in (*required, "se") or key in options:
            raise ValueError(
                f"{where}: cannot read option {option!r}; expected {', '.join(required)}, each once, se at most once, "
                "and nothing that changes activation, skip or convolutions"
            )
        options[key] = value
    if missing := [key for key in required if key not in options]:
        raise ValueError(f"{where}: expected {', '.join(required)}, each once, got no {', '.join(missing)}")
    return options


def _check_stem(stage: Sequence[str], frame: Frame) -> None:
    if len(stage) != 1 or not isinstance(stage[0], str):
        raise ValueError(f"timm arch_def: the first stage must be one ds string, got {list(stage)}")
    # timm's own strings give the layer an expansion of 1, which means nothing there
    options = _options(stage[0].replace("_e1_", "_"), "ds", "rksc")
    se = _rounded_se(frame.stem_channels, float(options.get("se", 0)), 1.0)
    got = (*(int(options[key]) for key in "rksc"), se)
    expected = (1, 3, 1, frame.stem_width, frame.stem_se_channels)
    if got != expected:
        raise ValueError(
            f"timm string {stage[0]!r}: the frame's stem has repeats, kernel, stride, width and SE channels "
            f"{expected}, got {got}; pass the frame that belongs to this arch_def"
        )


def _read_layers(text: str, in_channels: int, first_in_stage: bool, mid_divisor: int) -> list[MBConvSpec]:
    """The layers of one string: timm gives only the first of its repeats the stride."""
    options = _options(text, "ir", "rksec")
    kernel, stride, out_channels = (int(options[key]) for key in "ksc")
    expansion, se_ratio = float(options["e"]), float(options.get("se", 0))
    if not expansion:
        raise ValueError(f"timm string {text!r}: the expansion e must be > 0")
    if stride != 1 and not first_in_stage:
        raise ValueError(f"timm string {text!r}: a stride inside a stage, which timm ignores; begin a stage there")
    layers = []
    for _ in range(int(options["r"])):
        mid = _rounded_mid(in_channels * expansion, mid_divisor)
        se = _rounded_se(mid, se_ratio, expansion)
        try:
            layers.append(MBConvSpec(in_channels, mid, out_channels, kernel, stride, se))
        except ValueError as error:
            raise ValueError(f"timm string {text!r}: {error}") from error
        in_channels, stride = out_channels, 1
    return layers


# ---- the zoo --------------------------------------------------------------------------------------------------------

# model: width of every block, operators of its layers in the order of SIX_CHOICES. Source: the paper's released models.
_ZOO = {
    "dna_a": ((24, 40, 80, 96, 160, 320), "430/3340/2340/1441/14441/0"),
    "dna_b": ((24, 40, 80, 96, 192, 320), "342/242/1440/1441/24442/0"),
    "dna_c": ((24, 40, 80, 112, 192, 320), "10/1101/1011/0114/1411/0"),
    "dna_d": ((24, 40, 80, 112, 192, 320), "212/2222/2112/2121/21112/0"),
    "efficientnet_b0": ((24, 40, 80, 112, 192, 320), "00/11/000/111/1111/0"),
}
_ZOO_STRIDES = (2, 2, 2, 1, 2, 1)


def zoo() -> tuple[str, ...]:
    """Names that `from_zoo` knows."""
    return tuple(_ZOO)


def from_zoo(name: str) -> Architecture:
    """A published network, at 224 pixels and 1000 classes. mid and se follow the actual input width of every layer.

    Raises:
        ValueError: unknown name; the nearest known one is named.
    """
    if name not in _ZOO:
        near = nearest(name, _ZOO)[0]
        raise ValueError(f"unknown network {name!r}; did you mean {near!r}? Known: {', '.join(_ZOO)}")
    widths, operators = _ZOO[name]
    frame = Frame()
    blocks, in_channels = [], frame.stem_width
    for width, path, block_stride in zip(widths, operators.split("/"), _ZOO_STRIDES, strict=True):
        layers = []
        for i, operator in enumerate(path):
            choice = SIX_CHOICES[int(operator)]
            layers.append(
                MBConvSpec(
                    in_channels=in_channels,
                    mid_channels=in_channels * choice.expand_ratio,
                    out_channels=width,
                    kernel=choice.kernel,
                    stride=block_stride if i == 0 else 1,
                    se_channels=round(in_channels * frame.se_ratio),
                )
            )
            in_channels = width
        blocks.append(tuple(layers))
    return Architecture(name, frame, tuple(blocks))


# ---- choosing without a search --------------------------------------------------------------------------------------


def random_choice(space: SearchSpace, rng: np.random.Generator) -> tuple[int, ...]:
    """One candidate per block, each drawn uniformly."""
    return tuple(int(rng.integers(space.num_candidates(b))) for b in range(len(space.blocks)))


def uniform_choice(space: SearchSpace, cells: Sequence[int], operator: int) -> tuple[int, ...]:
    """The candidates that have the same operator in every layer.

    Args:
        cells: one cell index per block.
        operator: index into the space's choices.

    Raises:
        ValueError: not one valid cell per block, an unknown operator.
    """
    if len(cells) != len(space.blocks):
        raise ValueError(f"expected one cell per block, {len(space.blocks)}, got {list(cells)}")
    candidates = []
    for b, cell in enumerate(cells):
        offered = space.blocks[b].cells
        depth = offered[cell].depth if 0 <= cell < len(offered) else 0  # of an unknown cell candidate_index tells
        candidates.append(space.candidate_index(b, cell, (operator,) * depth))
    return tuple(candidates)
