"""One declarative YAML file says everything about a run; this module reads, resolves and identifies it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from dna_fast._files import json_sha256, written_aside
from dna_fast._names import ALIKE, nearest
from dna_fast.config_schema import NOT_NEGATIVE, ConfigError, Section, key, parse_quantity, resolve_quantity
from dna_fast.config_sections import (
    DataConfig,
    FitConfig,
    RateConfig,
    RetrainConfig,
    SearchConfig,
    SupernetConfig,
    TeacherConfig,
    TrainConfig,
)
from dna_fast.config_yaml import parse_yaml, to_yaml
from dna_fast.placement import check_words
from dna_fast.space import PRESETS, SearchSpace, preset

__all__ = [
    "ConfigError",
    "DataConfig",
    "FitConfig",
    "RateConfig",
    "RetrainConfig",
    "RunConfig",
    "SearchConfig",
    "SupernetConfig",
    "TeacherConfig",
    "TrainConfig",
    "load_config",
    "parse_quantity",
    "resolve_quantity",
    "shipped_config",
]

SPACE_SUFFIXES = (".json", ".yaml", ".yml")
# setup.py copies the checkout's configs/ into the package when it builds a wheel; an editable install has only the former.
SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Everything about a run. However it is made, it is checked, and its learning rates are one per block."""

    name: str = key("Name of the run in reports.", in_identity=False)
    seed: int = key("Seed of everything random.", 0, unit="seed", rule=NOT_NEGATIVE)
    device: Literal["auto", "cpu", "cuda"] = key(
        "Where to compute; auto: the GPU if torch can use one.", "auto", in_identity=False
    )
    space: str | Mapping[str, Any] = key("A preset, a .json or .yaml file, or the space itself.")
    data: DataConfig = key("Images.")
    teacher: TeacherConfig = key("Teacher.", TeacherConfig)
    supernet: SupernetConfig = key("Student.", SupernetConfig)
    train: TrainConfig = key("Training of the student blocks.", TrainConfig)
    rate: RateConfig = key("Rating.", RateConfig)
    search: SearchConfig = key("Search.", SearchConfig, in_identity=False)
    retrain: RetrainConfig = key("Retraining.", RetrainConfig, in_identity=False)

    def check(self) -> None:
        space = _checked_space(self.space)
        blocks, rates = len(space.blocks), self.train.learning_rates
        if len(rates) not in (1, blocks):
            expected = f"1 or {blocks} numbers (one per block of the space)"
            raise ConfigError("train.learning_rates", f"expected {expected}, got {len(rates)}")
        if len(rates) != blocks:
            object.__setattr__(self, "train", replace(self.train, learning_rates=rates * blocks))
        try:
            check_words(self.train.placement, blocks)
        except ValueError as error:
            raise ConfigError("train.placement", str(error)) from error
        if self.teacher.cuts is not None and len(self.teacher.cuts) != blocks:
            raise ConfigError("teacher.cuts", f"expected {blocks} names (one per block), got {len(self.teacher.cuts)}")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> RunConfig:
        for error in _misplaced(cls, data, [dotted for dotted, _ in cls.declared_keys()]):
            raise error  # only from here all sections can be seen
        return super().from_mapping(data)

    @classmethod
    def problems(cls, data: Mapping[str, Any], elsewhere: Iterable[str] = ()) -> list[ConfigError]:
        found = super().problems(data, [*elsewhere, *(dotted for dotted, _ in cls.declared_keys())])
        if any(error.key.startswith("space") for error in found):
            return found
        try:  # where another key is wrong, `check` has not come to the space
            _checked_space(data["space"])
        except ConfigError as error:
            found.append(error)
        return found

    def search_space(self) -> SearchSpace:
        """The space that `space` names or spells out."""
        return preset(self.space) if isinstance(self.space, str) else SearchSpace.from_dict(self.space)

    def dump(self, path: str | Path) -> None:
        """Writes the resolved configuration, every key, as YAML that `load_config` reads back as the same."""
        with written_aside(path) as aside:
            aside.write_text(to_yaml(self.to_dict()), encoding="utf-8")

    def identity(self) -> str:
        """sha256 of all that determines the trained supernet weights, but for the content of images and teacher.

        Where files lie is left out, for they may move: their content has identities of its own, the data set's
        fingerprint in `splits.npz` and the teacher weights' sha256 in `teacher.json`.
        """
        identifying = self.identifying() | {"space": self.search_space().sha256}
        return json_sha256(identifying)


def _checked_space(given: str | Mapping[str, Any]) -> SearchSpace:
    if isinstance(given, str) and given not in PRESETS:
        known = f"a preset ({', '.join(PRESETS)}), a {', '.join(SPACE_SUFFIXES)} file, or a mapping"
        near = nearest(given, PRESETS, least=ALIKE)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError("space", f"expected {known}, got {given!r}{hint}")
    try:
        return preset(given) if isinstance(given, str) else SearchSpace.from_dict(given)
    except ValueError as error:
        raise ConfigError("space", str(error).removeprefix("space: ")) from error


def _misplaced(section: type[Section], data: Mapping[str, Any], keys: Sequence[str]) -> Iterator[ConfigError]:
    """Unknown and missing keys of a section and those inside it; `keys` are all that there are, dotted."""
    yield from section.own_problems(data, keys)
    for f in fields(section):
        inner, value = section.inner(f.name), data.get(f.name)
        if inner is not None and isinstance(value, Mapping):
            yield from _misplaced(inner, value, keys)


# ---- files -----------------------------------------------------------------------------------------------------------


def shipped_config(name: str) -> Path:
    """Finds a configuration that comes with the package, in a wheel's package or in the checkout.

    Args:
        name: without suffix, such as ``digits``.

    Raises:
        ValueError: not one of them; the message lists them.
    """
    shipped = shipped_configs()
    if name not in shipped:
        raise ValueError(f"expected the name of a shipped configuration ({', '.join(shipped)}), got {name!r}")
    return shipped[name]


def shipped_configs() -> dict[str, Path]:
    """Name -> file of every configuration that comes with the package."""
    directory = next((d for d in SHIPPED if d.is_dir()), SHIPPED[0])
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads, overrides, resolves and checks a configuration.

    Args:
        path: a YAML file; paths in it are relative to its directory.
        overrides: each 'dotted.key=value' with a YAML value; paths in them are relative to the working directory.

    Returns:
        The configuration with absolute paths and, where the space came from a file, the space itself.

    Raises:
        ValueError: the file or an override is not valid; the message names file or override, dotted key and what to do.
    """
    path = Path(path)
    data, given = read_given(path, overrides)
    try:
        return RunConfig.from_mapping(data)
    except ConfigError as error:
        raise ValueError(f"{blamed(error, path, given)}: {error}") from error


@dataclass(frozen=True)
class Override:
    """One --set: what it says, and what was said before it."""

    text: str
    key: str
    value: Any
    replaced: Any = MISSING  # MISSING: nobody had said anything
    by_override: bool = False  # whether the replaced value came from an earlier one


def read_given(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[Override, ...]]:
    """What file and overrides say together, unchecked but with absolute paths, and what each override did.

    Raises:
        ValueError: not a mapping, or not an override; the message names which.
    """
    source = f"{path}"
    given: list[Override] = []
    try:
        data = _read_mapping(path)
        _anchor_paths(data, path.parent)
        for text in overrides:
            source = f"override {text!r}"
            given.append(_override(data, text, given))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return data, tuple(given)


def blamed(error: ConfigError, path: Path, given: Sequence[Override]) -> str:
    """Who said what is wrong: the last override of a key below or above it, else the file."""
    at = f"{error.key.partition('[')[0]}."
    guilty = [o.text for o in given if at.startswith(f"{o.key}.") or o.key.startswith(at)]
    return f"override {guilty[-1]!r}" if guilty else f"{path}"


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"no such file; examples: {', '.join(map(str, shipped_configs().values()))}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not text in UTF-8 ({error.reason} at byte {error.start}); is it a configuration?") from error
    if data is None:
        raise ValueError(
            f"expected a mapping with {', '.join(f.name for f in fields(RunConfig))}, got an empty file (None)"
        )
    if not isinstance(data, dict):
        raise ValueError(f"expected a mapping with {', '.join(f.name for f in fields(RunConfig))}, got {data!r}")
    return data


def _override(data: dict[str, Any], text: str, earlier: Sequence[Override]) -> Override:
    """Puts one override into `data`."""
    dotted, equals, value = text.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or "" in names:
        raise ValueError("expected 'dotted.key=value', such as train.epochs=3")
    key = ".".join(names)
    # Alone first: its paths are relative to the working directory, those in the file are not.
    alone: dict[str, Any] = {}
    _section_of(alone, names)[names[-1]] = parse_yaml(value)
    _anchor_paths(alone, Path.cwd())
    new, section = _section_of(alone, names)[names[-1]], _section_of(data, names)
    before = section.get(names[-1], MISSING)
    section[names[-1]] = new
    return Override(text, key, new, before, any(key == o.key for o in earlier))


def _section_of(data: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The mapping that holds the last of `names`; missing ones on the way are made."""
    at = data
    for depth, name in enumerate(names[:-1], start=1):
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        if not isinstance(at, dict):
            raise ValueError(
                f"{'.'.join(names[:depth])} is {at!r}, so it has no key {names[depth]!r}; give it as a whole"
            )
    return at


def _anchor_paths(data: dict[str, Any], base: Path) -> None:
    """Makes relative paths absolute, and a space file the space itself: the result means the same everywhere."""
    for dotted, declared in RunConfig.declared_keys():
        section: Any = data
        *names, last = dotted.split(".")
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        if declared.metadata["is_path"] and isinstance(section, dict) and isinstance(section.get(last), str):
            section[last] = os.path.abspath(base / Path(section[last]).expanduser())
    space = data.get("space")
    if isinstance(space, str) and space not in PRESETS and space.endswith(SPACE_SUFFIXES):
        data["space"] = _read_space(base / Path(space).expanduser()).to_dict()


def _read_space(path: Path) -> SearchSpace:
    try:
        if path.suffix == ".json":
            return SearchSpace.from_file(path)
        return SearchSpace.from_dict(parse_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError("space", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError("space", f"in {path}: {error}") from error
