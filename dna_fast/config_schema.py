"""Declaring and checking configuration keys: a section is a frozen dataclass whose fields say all about their keys.

`dna_fast.config_sections` declares the sections of a run with it; reading, checking and documenting follow from that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dna_fast._names import ALIKE, nearest, plain

S = TypeVar("S", bound="Section")


class ConfigError(ValueError):
    """A key's value is not what it must be; `key` is dotted, e.g. ``train.epochs``."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


# ---- keys and their rules --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What every number of a key must satisfy, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Rule("> 0", lambda v: v > 0)
NOT_NEGATIVE = Rule(">= 0", lambda v: v >= 0)
FRACTION = Rule("between 0 and 1", lambda v: 0 <= v <= 1)
BELOW_ONE = Rule(">= 0 and < 1", lambda v: 0 <= v < 1)
TENTHS = Rule("between 0 and 10", lambda v: 0 <= v <= 10)
DECAY = Rule("> 0 and <= 1", lambda v: 0 < v <= 1)


def key(
    doc: str,
    default: Any = MISSING,
    *,
    unit: str = "",
    rule: Rule | None = None,
    in_identity: bool = True,
    is_path: bool = False,
) -> Any:
    """A documented field.

    Args:
        doc: what it means, one sentence.
        default: omitted for a required key; a class is called for each new instance.
        unit: of its numbers; names and switches have none.
        rule: what its numbers must satisfy.
        in_identity: whether it takes part in determining the trained weights.
        is_path: whether it names a file or directory, relative to the configuration file.
    """
    metadata = {"doc": doc, "unit": unit, "rule": rule, "in_identity": in_identity, "is_path": is_path}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group of keys. Checks types, values, and `check`'s rules between keys whenever it is made."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            value = _checked(getattr(self, f.name), f, hints[f.name], self.dotted(f.name))
            object.__setattr__(self, f.name, value)  # frozen for everybody else
        self.check()

    def check(self) -> None:
        """Rules between keys; raises ConfigError."""

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, as plain dicts, lists, numbers and text."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    def identifying(self) -> dict[str, Any]:
        """As `to_dict`, of the keys in the identity."""
        chosen: dict[str, Any] = {}
        for f in fields(self):
            if f.metadata["in_identity"]:
                value = getattr(self, f.name)
                chosen[f.name] = value.identifying() if isinstance(value, Section) else _plain(value)
        return chosen

    @classmethod
    def dotted(cls, name: str) -> str:
        return f"{cls.section}.{name}" if cls.section else name

    @classmethod
    def declared_keys(cls) -> Iterator[tuple[str, Field[Any]]]:
        """(dotted key, field) of this section and of those inside it, in order."""
        for f in fields(cls):
            yield cls.dotted(f.name), f
            if (inner := cls.inner(f.name)) is not None:
                yield from inner.declared_keys()

    @classmethod
    def inner(cls, name: str) -> type[Section] | None:
        """The section that a key holds, None if it holds a value."""
        hint = get_type_hints(cls)[name]
        kinds = (h for h in (hint, *get_args(hint)) if isinstance(h, type) and issubclass(h, Section))
        return next(kinds, None)

    @classmethod
    def from_mapping(cls: type[S], data: Mapping[str, Any]) -> S:
        """Builds the section; ConfigError on an unknown or missing key or an invalid value."""
        for error in cls.own_problems(data, ()):
            raise error
        return cls(**data)

    @classmethod
    def own_problems(cls, data: Mapping[str, Any], elsewhere: Iterable[str]) -> Iterator[ConfigError]:
        """Keys that this section does not have, and those without a default that are missing.

        Args:
            elsewhere: the dotted keys of all sections, for a key that stands in the wrong one.
        """
        names = [f.name for f in fields(cls)]
        for name in data:
            if name not in names:
                yield ConfigError(cls.dotted(str(name)), unknown_key(str(name), names, elsewhere))
        for f in fields(cls):
            if is_required(f) and f.name not in data:
                inner = cls.inner(f.name)
                needed = [inner.dotted(g.name) for g in fields(inner) if is_required(g)] if inner is not None else []
                least = f" Give at least {', '.join(needed)}." if needed else ""
                yield ConfigError(cls.dotted(f.name), f"missing, and has no default. {f.metadata['doc']}{least}")

    @classmethod
    def problems(cls, data: Mapping[str, Any], elsewhere: Iterable[str] = ()) -> list[ConfigError]:
        """All that is wrong with `data`: every key, and where all keys of a section are right, the rules between them."""
        hints, found = get_type_hints(cls), list(cls.own_problems(data, elsewhere))
        for f in fields(cls):
            inner, value = cls.inner(f.name), data.get(f.name)
            try:
                if inner is not None and isinstance(value, Mapping):
                    found += inner.problems(value, elsewhere)
                elif f.name in data:
                    _checked(value, f, hints[f.name], cls.dotted(f.name))
            except ConfigError as error:
                found.append(error)
        if not found:
            try:
                cls.from_mapping(data)
            except ConfigError as error:
                found.append(error)
        return found


def is_required(declared: Field[Any]) -> bool:
    """Whether a key has no default."""
    return declared.default is MISSING and declared.default_factory is MISSING


def default_of(declared: Field[Any]) -> Any:
    """What a key is where nobody says; MISSING where it must be said."""
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def unknown_key(name: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """What to say about a key that is not one: the nearest that is, here or in another section, and all that are known here."""
    known = list(known)
    homes = [dotted for dotted in elsewhere if dotted.rpartition(".")[2] == plain(name)]
    if homes and plain(name) not in known and not nearest(name, known, least=ALIKE):
        return f"not a key here; did you mean {' or '.join(homes)}? Known here: {', '.join(known)}"
    return f"unknown key; did you mean {nearest(name, known)[0]!r}? Known: {', '.join(known)}"


def _checked(value: Any, declared: Field[Any], hint: Any, dotted: str) -> Any:
    """The value as its type and rule say, or ConfigError."""
    value, rule = _conform(value, hint, dotted), declared.metadata["rule"]
    for number in value if isinstance(value, tuple) else (value,):
        if rule is not None and number is not None and not rule.holds(number):
            raise ConfigError(dotted, f"expected {rule.words}, got {number!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def type_words(hint: Any) -> str:
    """A type for people."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_words(h) for h in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(h) for h in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {type_words(get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    return names.get(hint, "a mapping")


def _conform(value: Any, hint: Any, dotted: str) -> Any:
    """The value as its type says (lists become tuples, whole numbers numbers, mappings sections), or ConfigError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        options = [h for h in args if h is not NoneType]
        for option in options:
            try:
                return _conform(value, option, dotted)
            except ConfigError:
                if isinstance(value, Mapping | list | tuple) and option is options[-1]:
                    raise  # what is wrong inside says more than that the whole is of no type
    if isinstance(hint, type) and issubclass(hint, Section):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return hint.from_mapping(value)
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_conform(v, args[0], f"{dotted}[{i}]") for i, v in enumerate(value))
    elif hint is Any or (origin is Literal and value in args and type(value) in map(type, args)):
        return value
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _conform(v, args[1], f"{dotted}.{k}") for k, v in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise ConfigError(dotted, f"expected {type_words(hint)}, got {value!r}")


# ---- quantities and bounds -------------------------------------------------------------------------------------------

COST_NAMES = ("params", "macs", "macs_official", "activation_bytes", "latency_us")

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_quantity(text: int | str) -> int:
    """'460M' -> 460000000, exactly; suffixes k, M, G are powers of 1000, a bare number has none.

    Raises:
        ValueError: not such a number, or not a whole one.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMG]?)", text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a number >= 0 with an optional suffix k, M or G, such as 460M or 900, got {text!r}")
    exact = Fraction(match[1]) * _FACTORS[match[2]]
    if exact.denominator != 1:
        raise ValueError(f"expected a whole number, got {text!r} = {float(exact)!r}; write it with fewer decimals")
    return int(exact)


def resolve_quantity(text: int | str, teacher_macs: int | None = None) -> int:
    """As `parse_quantity`; 'teacher/3' is a third of the teacher's macs, rounded down.

    Args:
        text: the quantity.
        teacher_macs: the teacher's multiply-accumulates for one image; None where no teacher is known.

    Raises:
        ValueError: not a quantity, or relative to a teacher that is not known.
    """
    match = re.fullmatch(r"teacher\s*/\s*([0-9]+(?:\.[0-9]+)?)", text.strip()) if isinstance(text, str) else None
    if match is None:
        return parse_quantity(text)
    if Fraction(match[1]) == 0:
        raise ValueError(f"expected a divisor > 0, got {text!r}")
    if teacher_macs is None:
        raise ValueError(f"{text!r} needs the teacher's macs, and no teacher is known here; give a number such as 460M")
    return int(teacher_macs / Fraction(match[1]))


def check_bounds(dotted: str, bounds: Mapping[str, int | str]) -> None:
    """Raises ConfigError unless all names are costs and all bounds quantities."""
    for name, bound in bounds.items():
        if name not in COST_NAMES:
            raise ConfigError(f"{dotted}.{name}", unknown_key(name, COST_NAMES))
        try:
            # Checks the form, for which any teacher will do; costs other than macs have none to refer to.
            resolve_quantity(bound, teacher_macs=1 if name == "macs" else None)
        except ValueError as error:
            raise ConfigError(f"{dotted}.{name}", str(error)) from error
