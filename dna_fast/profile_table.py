"""The latencies of a device: a JSON file of samples, a CSV file of what was measured elsewhere, and costs made from either."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from dna_fast._files import read_json, write_json, written_aside
from dna_fast.architecture import Architecture
from dna_fast.profile_fit import MIN_NETWORKS, LatencyFit, fit_latency
from dna_fast.profile_layers import (
    ELSEWHERE,
    NS_PER_US,
    LayerKey,
    Setting,
    architecture_layers,
    latency_arrays,
    missing,
    space_layers,
)
from dna_fast.space import SearchSpace
from dna_fast.tables import CostTable

FORMAT, VERSION = "dna_fast.profile", 1
LATENCY = "latency_us"

_KEY_FIELDS = tuple(f.name for f in fields(LayerKey))
_SETTING_FIELDS = tuple(f.name for f in fields(Setting))
CSV_COLUMNS = (*_KEY_FIELDS, "batch", "dtype", LATENCY)


@dataclass
class Timing:
    """What was measured of one thing.

    Args:
        samples_us: one per round, microseconds per call.
        kept: why it ran by plain torch where the setting says fused; empty where it did as the setting says.
        peak_bytes: of activations, of a whole network; None: not measured.
    """

    samples_us: list[float] = field(default_factory=list)
    kept: str = ""
    peak_bytes: int | None = None

    @property
    def median_us(self) -> float:
        return median(self.samples_us)

    @property
    def spread_us(self) -> tuple[float, float]:
        """First and third quartile of the samples."""
        if len(self.samples_us) < 2:
            return self.samples_us[0], self.samples_us[0]
        low, _, high = quantiles(self.samples_us, n=4, method="inclusive")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; median and quartiles are for readers, the samples are what is read back."""
        low, high = self.spread_us
        more = {} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes}
        if self.kept:
            more["kept"] = self.kept  # type: ignore[assignment]
        return {"median_us": self.median_us, "quartiles_us": [low, high], "samples_us": self.samples_us, **more}


@dataclass(frozen=True)
class Network:
    """A whole architecture that was measured."""

    space_sha256: str
    candidates: tuple[int, ...]


@dataclass
class Profile:
    """Latencies on one device; grows while they are measured.

    Args:
        device: what tells it from others, in words: processor, threads, versions.
        layers, networks: what was measured.
    """

    device: dict[str, str]
    layers: dict[tuple[LayerKey, Setting], Timing] = field(default_factory=dict)
    networks: dict[tuple[Network, Setting], Timing] = field(default_factory=dict)

    @property
    def settings(self) -> list[Setting]:
        """In the order in which they were first measured."""
        return list(dict.fromkeys(setting for _, setting in self.layers))

    # ---- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, spaces: Sequence[SearchSpace] = ()) -> None:
        """Writes the profile atomically, with the fits for these spaces (read back, they are fitted again)."""
        write_json(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "device": self.device,
                "layers": [{**asdict(k), **asdict(s), **t.to_dict()} for (k, s), t in self.layers.items()],
                "networks": [{**asdict(n), **asdict(s), **t.to_dict()} for (n, s), t in self.networks.items()],
                "fits": [
                    {"space_sha256": space.sha256, **asdict(setting), **asdict(found), "helps": found.helps}
                    for space in spaces
                    for setting in self.settings
                    if (found := self.fit(space, setting)) is not None
                ],
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged, of another kind or a newer version.
        """
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{path}: not a profile: expected a JSON object of format {FORMAT!r}")
        if not isinstance(data.get("version"), int) or not 1 <= data["version"] <= VERSION:
            raise ValueError(
                f"{path}: expected a version up to {VERSION}, got {data.get('version')!r}; upgrade dna_fast"
            )
        try:
            profile = cls(dict(data["device"]))
            for record in data["layers"]:
                key = LayerKey(**{name: record[name] for name in _KEY_FIELDS})
                profile.layers[key, _setting(record)] = _timing(record)
            for record in data["networks"]:
                network = Network(record["space_sha256"], tuple(record["candidates"]))
                profile.networks[network, _setting(record)] = _timing(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: damaged ({error!r}); delete it and measure again") from error
        return profile

    # ---- what it says of a space ------------------------------------------------------------------------------------

    def missing(self, space: SearchSpace, setting: Setting) -> list[LayerKey]:
        """The pieces of a space that were not measured in this setting."""
        return list(missing(space_layers(space), lambda key: (key, setting) in self.layers))

    def is_complete(self, space: SearchSpace) -> bool:
        """Whether the first setting, which makes `latency_us`, has every piece of a space."""
        return bool(self.settings) and not self.missing(space, self.settings[0])

    def summed_us(self, arch: Architecture, setting: Setting) -> float:
        """The latency of a network as the sum over its pieces, uncorrected."""
        return math.fsum(self.layers[key, setting].median_us for key in architecture_layers(arch))

    def fit(self, space: SearchSpace, setting: Setting) -> LatencyFit | None:
        """The correction that whole networks of the space ask for; None where too few were measured."""
        measured = {
            network.candidates: timing
            for (network, own), timing in self.networks.items()
            if own == setting and network.space_sha256 == space.sha256
        }
        if len(measured) < MIN_NETWORKS or self.missing(space, setting):
            return None
        summed = [self.summed_us(Architecture.from_space(space, choice), setting) for choice in measured]
        return fit_latency(np.array(summed), np.array([timing.median_us for timing in measured.values()]))

    def latency_us(self, space: SearchSpace, setting: Setting) -> list[Any]:
        """Per block int64 [labels_in, n_b]: whole microseconds of every candidate, corrected where the correction helps.

        Raises:
            ValueError: pieces that were not measured; the message names every one of them.
        """
        if absent := self.missing(space, setting):
            raise ValueError(
                f"profile: {len(absent)} of {len(space_layers(space))} layers of {space.name} are missing ({setting}): "
                f"{'; '.join(map(str, absent))}. Measure them and add them"
            )
        found = self.fit(space, setting)
        offset, factor = (found.offset_us, found.factor) if found is not None and found.helps else (0.0, 1.0)
        ns = {key: math.ceil(factor * self.layers[key, setting].median_us * NS_PER_US) for key in space_layers(space)}
        return latency_arrays(space, ns, math.ceil(offset * NS_PER_US))


def add_latencies(table: CostTable, profile: Profile) -> CostTable:
    """The cost table with `latency_us`, by the profile's first setting, and one more cost for every further setting.

    Settings that lack layers of the table's space are left out, but for the first.

    Raises:
        ValueError: the first setting lacks some; every one of them is named. Or the profile is empty.
    """
    if not profile.settings:
        raise ValueError("profile: it holds no layer; measure some, or fill in the CSV file")
    first, *others = profile.settings
    names = {first: LATENCY}
    names |= {
        s: f"{LATENCY}_b{s.batch}_{s.dtype}_{s.implementation}" for s in others if not profile.missing(table.space, s)
    }
    latency = {}
    for setting, name in names.items():
        table = table.add(name, profile.latency_us(table.space, setting))
        found = profile.fit(table.space, setting)
        latency[name] = {
            "device": profile.device,
            **asdict(setting),
            "correction": asdict(found) if found is not None and found.helps else None,
        }
    return CostTable(table.space, table.costs, table.reduce, {**table.metadata, "latency": latency})


# ---- CSV ------------------------------------------------------------------------------------------------------------


def write_template(path: str | Path, space: SearchSpace, batch: int, dtype: str) -> int:
    """Writes the pieces of a space as CSV, latency_us left empty, to be measured elsewhere; returns how many."""
    layers = space_layers(space)
    with written_aside(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows({**asdict(key), "batch": batch, "dtype": dtype, LATENCY: ""} for key in layers)
    return len(layers)


def read_csv(path: str | Path, device: str) -> Profile:
    """A profile from a CSV file with the columns `CSV_COLUMNS`; lines with an empty latency_us are left out.

    Args:
        device: its name, for people.

    Raises:
        ValueError: no such file, missing columns, a value that is none, the same layer twice; the message names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    if absent := [column for column in CSV_COLUMNS if column not in header]:
        raise ValueError(f"{path}: expected the columns {', '.join(CSV_COLUMNS)}, got no {', '.join(absent)}")
    profile = Profile({"device": device, "source": Path(path).name})
    for line, row in enumerate(rows, start=2):
        if not (row[LATENCY] or "").strip():
            continue
        try:
            numbers = {name: int(row[name]) for name in _KEY_FIELDS if name not in ("part", "padding")}
            key = LayerKey(part=row["part"], padding=row["padding"], **numbers)
            setting, latency = Setting(int(row["batch"]), row["dtype"], ELSEWHERE), float(row[LATENCY])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        if not 0 < latency < math.inf:
            raise ValueError(f"{path}, line {line}: {LATENCY} must be > 0, got {row[LATENCY]}")
        if (key, setting) in profile.layers:
            raise ValueError(f"{path}, line {line}: {key} ({setting}) is there twice; leave one")
        profile.layers[key, setting] = Timing([latency])
    return profile


def _setting(record: dict[str, Any]) -> Setting:
    return Setting(**{name: record[name] for name in _SETTING_FIELDS})


def _timing(record: dict[str, Any]) -> Timing:
    return Timing([float(x) for x in record["samples_us"]], record.get("kept", ""), record.get("peak_bytes"))


def check_device(path: str | Path, there: dict[str, str], here: dict[str, str]) -> None:
    """Refuses to mix latencies of two devices in one file.

    Args:
        path: of the profile.
        there, here: the device it is of, and the one to be added.

    Raises:
        ValueError: they differ; the message says in what.
    """
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        words = "; ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names)
        raise ValueError(f"{path}: measured on another device: {words}. Choose another --out")
