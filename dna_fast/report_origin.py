"""The sections of a report about where its numbers come from: configuration, identities, versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field
from typing import Any

from dna_fast.config import RunConfig
from dna_fast.report_facts import RunFacts
from dna_fast.report_html import Html, code, details, element, joined, paragraph, table

RECORD_KEYS = ("revision", "dna_fast", "python", "torch", "timm", "dali", "device", "started", "seconds")
LONG = 90  # characters of a value, beyond which it is folded away


def configuration_section(facts: RunFacts) -> Html:
    """Every key; what differs from its default is marked, and comes first to the eye."""
    rows: list[tuple[object, ...]] = []
    marked: list[int] = []
    for dotted, value, declared in settings(facts.config):
        default = _default(declared)
        if default is MISSING:
            usual: object = "required"
        else:
            usual = code(_plain(default))
            if _plain(default) != _plain(value):
                marked.append(len(rows))
        rows.append((dotted, _folded(_plain(value)), usual, declared.metadata.get("unit") or ""))
    head = ("key", "value", "default", "unit")
    note = f"{len(marked)} values that differ from their defaults are marked. Space: {facts.costs.space.summary()}."
    return joined(
        [paragraph(note), element("div", table(head, rows, label="configuration", marked=marked), class_="keys")]
    )


def settings(config: RunConfig) -> Iterator[tuple[str, Any, Field[Any]]]:
    """(dotted key, value, declaration) of everything but sections; of a section that is null, the section."""
    plain = config.to_dict()
    declared = dict(RunConfig.declared_keys())
    sections = {dotted.rpartition(".")[0] for dotted in declared}
    for dotted, field in declared.items():
        value: Any = plain
        for name in dotted.split("."):
            value = value.get(name, MISSING) if isinstance(value, Mapping) else MISSING
        if value is not MISSING and not (dotted in sections and isinstance(value, Mapping)):
            yield dotted, value, field


def differing(configs: Mapping[str, RunConfig]) -> list[tuple[object, ...]]:
    """(key, value of every run) of the keys in which runs differ."""
    values = [{dotted: _plain(value) for dotted, value, _ in settings(config)} for config in configs.values()]
    keys = dict.fromkeys(key for known in values for key in known)
    rows = [(key, *(known.get(key, "–") for known in values)) for key in keys]
    return [(key, *map(_folded, known)) for key, *known in rows if len(set(known)) > 1]


def _default(declared: Field[Any]) -> Any:
    if declared.default_factory is not MISSING:
        made = declared.default_factory()
        return made.to_dict() if hasattr(made, "to_dict") else made
    return declared.default


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)


def _folded(value: str) -> Html:
    return code(value) if len(value) <= LONG else details(f"{value[: LONG // 2]}…", code(value))


def provenance_section(facts: RunFacts) -> Html:
    """Identities, seeds, versions and sha256."""
    parts: list[object] = [
        element("h3", "Identities"),
        table(("what", "value"), _identities(facts), label="identities"),
    ]
    if facts.records:
        rows = [
            (stage, *(_record_words(record.get(key)) for key in RECORD_KEYS)) for stage, record in facts.records.items()
        ]
        commands = [(stage, code(_command(record.get("command")))) for stage, record in facts.records.items()]
        parts += [
            element("h3", "Stages"),
            table(("stage", *RECORD_KEYS), rows, label="stages and their versions"),
            details("Commands", table(("stage", "command"), commands, label="commands")),
        ]
    else:
        parts.append(paragraph("No provenance.json: stages of older releases left no versions.", class_="note"))
    hashes = [(name, code(digest)) for name, digest in facts.sha256.items()]
    return joined([*parts, element("h3", "Files"), table(("file", "sha256"), hashes, label="sha256 of files")])


def _identities(facts: RunFacts) -> list[tuple[object, object]]:
    rows: list[tuple[object, object]] = [
        ("seed", facts.config.seed),
        ("space", code(facts.costs.space.sha256)),
        ("configuration identity", code(facts.config.identity())),
    ]
    if facts.data is not None:
        rows.append(("training images, fingerprint", code(facts.data.fingerprint)))
        rows.append(("held-out images", f"{facts.data.rated:,} rated, {facts.data.calibration:,} calibrate"))
    if facts.teacher is not None:
        rows.append(("teacher weights, sha256", code(facts.teacher.sha256)))
    if facts.supernet is not None:
        rows.append(("supernet identity", code(facts.supernet.identity)))
    if facts.ratings is not None:
        rows += [(f"ratings: {name}", code(_plain(value))) for name, value in sorted(facts.ratings.metadata.items())]
    return rows


def _record_words(value: Any) -> str:
    return "–" if value is None else str(value)


def _command(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else _record_words(value)
