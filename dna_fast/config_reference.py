"""The reference of all configuration keys, written from their declarations; docs/configuration.md is its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from dna_fast.config import RunConfig, shipped_configs
from dna_fast.config_schema import COST_NAMES, Section, default_of, type_words
from dna_fast.config_yaml import inline_yaml

HEAD = """# Configuration

One YAML file says everything about a run. This page is written from the declarations in `dna_fast/config.py` by
`dna-fast config reference > docs/configuration.md`; a test compares the two.

    dna-fast config show digits --set train.epochs=3     # the resolved configuration, and where every value comes from
    dna-fast config check mine.yaml                      # everything that is wrong with it, before anything is trained
    dna-fast config reference                            # this page

Configurations that come with the package: {shipped}. `config show` takes their names, a file, or a run directory.

A key without a default must be given. *Identity* says whether the key takes part in what determines the trained supernet: a
change of such a key needs a new run.
"""

TAIL = f"""
## Overrides

`--set KEY=VALUE` (of `train`, `demo` and `config`) replaces one key; the value is YAML: `--set train.epochs=3`,
`--set 'train.learning_rates=[0.002]'`, `--set search.max.macs=460M`, `--set 'retrain={{epochs: 3, warmup_epochs: 0}}'`. It can be given
several times; a later one wins. What an override replaces is printed when the command starts and shown by `config show`; the run
directory's `config.yaml` holds the result. A run that exists keeps its configuration.

An unknown key is an error that names the nearest one, in whichever section it belongs; so are a key that is given twice, a number outside
its rule, and a value of another type: nothing is converted silently, but whole numbers where any number may stand.

## Paths

Relative paths in a file are relative to that file, those in `--set` to the working directory. `~` is the home directory. Resolved
configurations hold absolute paths. A `space` that is a `.json` or `.yaml` file is read once and becomes part of the configuration.

## Quantities

Bounds and amounts of memory are whole numbers or text with one of the suffixes k, M, G, powers of 1000: `900`, `5.3M`, `4G`. They are
exact: `1.0005k` is refused. A bound on `macs` may be a share of the teacher's, `teacher/3`, rounded down. Costs that can be bounded:
{", ".join(f"`{name}`" for name in COST_NAMES)}. Bounds are inclusive.

## Identity

`identity` is the sha256 of all keys marked *yes*, with the space by its content. Checkpoints and ratings carry it, together with the
teacher's weights and the images' fingerprint; weights of another identity are refused. Where files lie is left out, for they may move.
A run directory is refused for any other configuration; the keys marked *no* can be changed in its `config.yaml`.
"""


def reference() -> str:
    """The page, as Markdown."""
    parts = [HEAD.format(shipped=", ".join(f"`{name}`" for name in shipped_configs()))]
    parts += ["\n".join(_section(section)) + "\n" for section in _sections(RunConfig)]
    return "\n".join(parts) + TAIL


def _sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for f in fields(section):
        if (inner := section.inner(f.name)) is not None:
            yield from _sections(inner)


def _section(section: type[Section]) -> Iterator[str]:
    doc = (section.__doc__ or "").strip().splitlines()[0]
    yield f"## {f'`{section.section}`' if section.section else 'Top level'}\n"
    yield f"{doc}\n"
    yield "| key | type | default | unit | rule | identity | meaning |"
    yield "|---|---|---|---|---|---|---|"
    hints = get_type_hints(section)
    for f in fields(section):
        yield "| " + " | ".join(_cells(section, f, hints[f.name])) + " |"


def _cells(section: type[Section], declared: Field[Any], hint: Any) -> tuple[str, ...]:
    metadata = declared.metadata
    inner = section.inner(declared.name)
    kind = type_words(hint).replace("'", "`") if inner is None else f"section `{inner.section}`"
    if inner is not None and default_of(declared) is None:
        kind += " or null"
    rule = metadata["rule"]
    return (
        f"`{section.dotted(declared.name)}`",
        kind + (" (a path)" if metadata["is_path"] else ""),
        _default(declared, inner),
        metadata["unit"],
        f"`{rule.words}`" if rule is not None else "",
        "yes" if metadata["in_identity"] else "no",
        metadata["doc"].replace("|", "\\|"),
    )


def _default(declared: Field[Any], inner: type[Section] | None) -> str:
    default = default_of(declared)
    if default is MISSING:
        return "required"
    if inner is not None and default is not None:
        return "its defaults"
    return f"`{inline_yaml(list(default) if isinstance(default, tuple) else default)}`"
