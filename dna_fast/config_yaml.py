"""YAML without its traps: 1e-4 is a number, and a key that is given twice is an error."""

from __future__ import annotations

import re
from functools import cache
from typing import Any


def parse_yaml(text: str) -> Any:
    """YAML -> dicts, lists, numbers, text.

    Raises:
        ValueError: not YAML, or a key twice; the message has line and column where they are known.
        RuntimeError: PyYAML is not installed.
    """
    yaml = _pyyaml()
    try:
        return yaml.load(text, Loader=_dialect()[0])
    except yaml.YAMLError as error:
        where = str(error).replace('in "<unicode string>", line', "at line")
        advice = "; indent with spaces" if "'\\t'" in where else ""
        raise ValueError(f"not valid YAML: {where}{advice}") from error


def to_yaml(data: Any) -> str:
    """Dicts (in their order), lists, numbers, text -> YAML that `parse_yaml` reads back as the same."""
    text: str = _pyyaml().dump(data, Dumper=_dialect()[1], sort_keys=False, width=120)
    return text


def inline_yaml(data: Any) -> str:
    """The same on one line, as it stands behind a key."""
    text: str = _pyyaml().dump([data], Dumper=_dialect()[1], sort_keys=False, width=10**9, default_flow_style=True)
    return text.strip()[1:-1]


def _pyyaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise RuntimeError(
            "configuration files need PyYAML, which is not installed; pip install 'dna_fast[torch]'"
        ) from error
    return yaml


@cache
def _dialect() -> tuple[Any, Any]:
    """(loader, dumper) of the dialect; made on first use, so that importing needs no PyYAML."""
    yaml = _pyyaml()

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                name = self.construct_object(key_node, deep=True)
                if not isinstance(name, str):
                    raise yaml.YAMLError(f"keys must be text, got {name!r}{key_node.start_mark}")
                if name in seen:
                    raise yaml.YAMLError(f"key {name!r} is given twice{key_node.start_mark}")
                seen.add(name)
            return super().construct_mapping(node, deep)

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        def ignore_aliases(self, data: Any) -> bool:
            return True  # equal lists are written out, not as references

    # YAML 1.1, which PyYAML speaks, takes 1e-4 for text because it has no point; both sides must agree on it.
    number = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    for side in (Loader, Dumper):
        side.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader, Dumper
