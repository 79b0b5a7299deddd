"""Where every value of a configuration comes from: its default, the file, or an override with what that replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from dna_fast._names import nearest
from dna_fast.config import Override, RunConfig, load_config, read_given, shipped_configs
from dna_fast.config_schema import default_of
from dna_fast.config_yaml import inline_yaml, to_yaml

INDENT = "  "


def find_config(name: str) -> Path:
    """The file that is meant by a path, a run directory, or the name of a configuration that comes with the package.

    Raises:
        ValueError: none of them.
    """
    path, shipped = Path(name), shipped_configs()
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise ValueError(f"{name}: a directory without config.yaml, so no run; give a file or a run directory")
        return path / "config.yaml"
    if path.exists() or name not in shipped:
        near = nearest(path.stem, shipped)[0] if not path.exists() and path.suffix in ("", ".yaml", ".yml") else None
        if near is not None:
            raise ValueError(
                f"{name}: no such file, run directory or shipped configuration ({', '.join(shipped)}); did you mean {near!r}?"
            )
        return path
    return shipped[name]


@dataclass(frozen=True)
class Sourced:
    """One value of a configuration.

    Attributes:
        value: resolved and checked.
        source: "default", "file" or "--set".
        words: the source for people, with what an override replaced.
        is_default: whether it is what nobody would have had to say.
    """

    value: Any
    source: str
    words: str
    is_default: bool


def sourced_config(path: Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, dict[str, Sourced]]:
    """A checked configuration, and every key (dotted, entries of mappings apart) with where its value comes from.

    Raises:
        ValueError: as `load_config`.
    """
    config = load_config(path, overrides)
    in_file, _ = read_given(path, ())
    _, given = read_given(path, overrides)
    found = {}
    for dotted, declared in RunConfig.declared_keys():
        value, default = _at(config.to_dict(), dotted), default_of(declared)
        if value is MISSING or (isinstance(value, Mapping) and _is_section(dotted)):
            continue  # inside a section that is null; or a section, whose keys follow
        if isinstance(value, Mapping) and value and dotted != "space":
            for name in value:
                key = f"{dotted}.{name}"
                found[key] = _sourced(key, value[name], MISSING, in_file, given)
        else:
            found[dotted] = _sourced(dotted, value, default, in_file, given)
    return config, found


def _sourced(dotted: str, value: Any, default: Any, in_file: Mapping[str, Any], given: Sequence[Override]) -> Sourced:
    is_default = default is not MISSING and value == (list(default) if isinstance(default, tuple) else default)
    said = [o for o in given if f"{dotted}.".startswith(f"{o.key}.")]
    if said:
        last = said[-1]
        replaced = last.replaced if last.key == dotted else _inside(last, dotted)
        return Sourced(value, "--set", f"--set; {_replaced_words(last, replaced, default)}", is_default)
    if _at(in_file, dotted) is not MISSING:
        return Sourced(value, "file", "file, as the default" if is_default else "file", is_default)
    return Sourced(value, "default", "default", is_default)


def described_overrides(path: Path, overrides: Sequence[str]) -> list[str]:
    """A line per override that counts: ``train.epochs = 3 (--set; the file says 20)``.

    Raises:
        ValueError: as `load_config`.
    """
    _, given = read_given(path, overrides)
    defaults = {dotted: default_of(declared) for dotted, declared in RunConfig.declared_keys()}
    lines = {}
    for override in given:
        replaced = _replaced_words(override, override.replaced, defaults.get(override.key, MISSING))
        lines[override.key] = f"{override.key} = {inline_yaml(override.value)} (--set; {replaced})"
    return list(lines.values())


def _replaced_words(override: Override, replaced: Any, default: Any) -> str:
    if replaced is not MISSING:
        return f"{'an earlier --set' if override.by_override else 'the file'} says {inline_yaml(replaced)}"
    if default is MISSING:
        return "not set before"
    return f"the default is {inline_yaml(list(default) if isinstance(default, tuple) else default)}"


def _inside(override: Override, dotted: str) -> Any:
    """What an override of a whole section replaced at a key in it."""
    rest = dotted[len(override.key) + 1 :]
    return _at(override.replaced, rest) if isinstance(override.replaced, Mapping) else MISSING


def _at(data: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        if not isinstance(data, Mapping) or name not in data:
            return MISSING
        data = data[name]
    return data


def _is_section(dotted: str) -> bool:
    return any(key.startswith(f"{dotted}.") for key, _ in RunConfig.declared_keys())


def annotated_yaml(keys: Mapping[str, Sourced]) -> str:
    """YAML that `load_config` reads back as the same, each value with its source behind it."""
    return "\n".join(_lines(keys)) + "\n"


def _lines(keys: Mapping[str, Sourced]) -> Iterator[str]:
    open_sections: list[str] = []
    for dotted, each in keys.items():
        *sections, last = dotted.split(".")
        shared = 0
        while shared < min(len(sections), len(open_sections)) and sections[shared] == open_sections[shared]:
            shared += 1
        for depth in range(shared, len(sections)):
            yield f"{INDENT * depth}{inline_yaml(sections[depth])}:"
        open_sections = sections
        indent = INDENT * len(sections)
        if isinstance(each.value, Mapping) and each.value:  # a space, spelled out
            yield f"{indent}{last}:  # {each.words}"
            yield from (f"{indent}{INDENT}{line}" for line in to_yaml(each.value).splitlines())
        else:
            yield f"{indent}{inline_yaml(last)}: {inline_yaml(each.value)}  # {_one_line(each.words)}"


def _one_line(words: str) -> str:
    return words if len(words) <= 100 else f"{words[:97]}..."
