"""Commands about configurations: what one says and why, what is wrong with it, and all keys that there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dna_fast.cli_options import EXIT_ERROR, AsJson, Overrides

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Show, check and look up configurations.",
)


@app.command()
def show(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|RUN|NAME", help="A YAML file, a run directory, or a name: cifar10, digits, imagenet_b7."
        ),
    ],
    overrides: Overrides = None,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what is at its default.")] = False,
    defaults_only: Annotated[bool, typer.Option("--defaults-only", help="Only what nobody has set.")] = False,
    as_json: AsJson = False,
) -> None:
    """The resolved configuration, every value with its source: default, file, or --set with what it replaced.

    The YAML is a configuration itself: absolute paths, every key (with --changed, those that matter).
    """
    from dna_fast.config_sources import annotated_yaml, find_config, sourced_config

    if changed and defaults_only:
        raise ValueError("config show: --changed and --defaults-only leave nothing; give one of them")
    path = find_config(config)
    _, keys = sourced_config(path, overrides or ())
    if changed:
        keys = {key: each for key, each in keys.items() if not each.is_default}
    if defaults_only:
        keys = {key: each for key, each in keys.items() if each.source == "default"}
    if as_json:
        print(json.dumps({key: asdict(each) for key, each in keys.items()}))
    else:
        print(f"# {path}\n{annotated_yaml(keys)}", end="")


@app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML files, run directories or shipped names.")
    ],
    overrides: Overrides = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The files alone: no paths, no teacher; needs neither torch nor timm.")
    ] = False,
) -> None:
    """Everything that is wrong with configurations, as far as it shows without training. Exit code 2 if something is."""
    from dna_fast.config_check import problems
    from dna_fast.config_sources import find_config

    faulty = False
    for file in files:
        try:
            path = find_config(file)
            found = problems(path, overrides or (), quick=quick)
        except ValueError as error:
            path, found = Path(file), [str(error).removeprefix(f"{file}: ")]
        faulty = faulty or bool(found)
        print("\n".join(f"{path}: {problem}" for problem in found) or f"{path}: fine")
    if faulty:
        raise typer.Exit(EXIT_ERROR)


@app.command()
def reference() -> None:
    """All keys: type, default, unit, rule, meaning, as Markdown (docs/configuration.md)."""
    from dna_fast.config_reference import reference as page

    print(page(), end="")
