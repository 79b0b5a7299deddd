"""The command line: one subcommand, one stage. Stages are imported when they are run, so that --help is instant."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dna_fast import cli_config, cli_failures, cli_ranks
from dna_fast.cli_assembled import assembled
from dna_fast.cli_compare import compare
from dna_fast.cli_data import data
from dna_fast.cli_export import export
from dna_fast.cli_options import (
    EXIT_INTERRUPTED,
    VERBOSITY,
    AsJson,
    Overrides,
    RunDir,
    TensorBoard,
    open_display,
    say_overrides,
)
from dna_fast.cli_profile import profile
from dna_fast.cli_report import report
from dna_fast.cli_retrain import retrain
from dna_fast.cli_search import cost, search
from dna_fast.cli_study import study
from dna_fast.memory import ask_for_huge_pages
from dna_fast.resume import DamagedWarning, Resume, Which, check_resume

# Options of every subcommand, which may stand behind it as well.
EVERYWHERE = ("-q", "--quiet", "-v", "-vv", "--verbose", "--traceback")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Block-wise distillation architecture search: a teacher is cut into blocks, a student block with all candidates learns to "
    "reproduce each of them, every candidate is rated, and the best architecture under your budgets is found exactly.\n\n"
    "Usual order: [bold]train[/bold] CONFIG --out RUN, [bold]rate[/bold] RUN, [bold]search[/bold] RUN --max macs=460M, "
    "[bold]retrain[/bold] RUN, [bold]report[/bold] RUN, [bold]export[/bold] RUN. Try [bold]demo[/bold] first: it does all of it in "
    "minutes on a CPU.\n\n"
    "Exit codes: 0 done; 1 no architecture meets the budgets, or a limit was reached first; 2 wrong input or a failure; "
    "130 interrupted (state is saved).",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: the digits' that comes with dna_fast.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole job on the embedded data set: teacher, supernet, rating, search, retraining. Minutes on two CPU cores."""
    from dna_fast.config import shipped_config
    from dna_fast.demo import run_demo

    path, display = config or shipped_config("digits"), open_display()
    say_overrides(display, path, overrides)
    run_demo(path, out, display, overrides or ())


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML configuration, or a run directory to go on with.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run directory; needed with a configuration file.")] = None,
    overrides: Overrides = None,
    tensorboard: TensorBoard = False,
    resume: Annotated[
        Resume,
        typer.Option(
            help="What to do about training that the run directory holds: auto goes on with it, or begins; never refuses to go on; "
            "must refuses to begin."
        ),
    ] = Resume.AUTO,
    profiled: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Write a profiler's trace of a few steps to RUN/logs/profile, for TensorBoard or Perfetto.",
        ),
    ] = False,
    placement: Annotated[
        str | None,
        typer.Option(
            metavar="PLACEMENT",
            help="Under torchrun, which rank trains what, instead of train.placement: auto, data, block, a grid such as 2x4, or the "
            "blocks of each stage such as 3+2+1. Going on, it may be another one, on another number of ranks.",
        ),
    ] = None,
) -> None:
    """Train the supernet: every student block against the teacher's block. Goes on from the last checkpoint if there is one."""
    from dna_fast.pipeline import Run
    from dna_fast.stages import prepare_teacher, train_supernet

    with cli_ranks.joined() as world:
        display = cli_ranks.display_of(world)
        with cli_ranks.leader_first(world, "run"):
            directory = config if config.is_dir() else out
            if directory is not None and (world is None or world.is_leader):
                check_resume(resume, "teacher and supernet", Run.training_files(directory))
            if config.is_dir():
                run = Run.open(config)
                if overrides:
                    raise ValueError(
                        "--set: a run that exists keeps its configuration; give the configuration file and another --out"
                    )
            else:
                if out is None:
                    raise ValueError(
                        f"--out: expected a run directory to train {config} in, e.g. --out runs/{config.stem}"
                    )
                say_overrides(display, config, overrides)
                run = Run.start(config, out, overrides or ())
        run.world = world
        with cli_ranks.leader_first(world, "teacher"):
            teacher = prepare_teacher(run, display, tensorboard=tensorboard)
        train_supernet(run, teacher, display, tensorboard=tensorboard, placement=placement, profiled=profiled)
        display.note(f"Next: dna-fast rate {run.directory}")


@app.command()
def rate(
    run: RunDir,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="What the features of operator prefixes may take at once in mode trie, e.g. 4G (weights and scratch, some "
            "70 MiB, come on top); default: rate.max_memory, or half of what is free. Ratings on the CPU do not depend on it.",
        ),
    ] = None,
    tensorboard: TensorBoard = False,
    checkpoint: Annotated[
        Which,
        typer.Option(
            help="The supernet to rate: the last, or that behind the epoch of the least mean loss relative to the first's."
        ),
    ] = Which.LAST,
) -> None:
    """Rate every candidate of a trained supernet. An interrupted rating goes on with the first operators that are not done."""
    from dna_fast.config import parse_quantity
    from dna_fast.pipeline import Run
    from dna_fast.stages import prepare_teacher, rate_candidates

    with cli_ranks.joined() as world:
        opened, display = Run.open(run, checkpoint), cli_ranks.display_of(world)
        opened.world = world
        try:
            max_memory_bytes = None if max_memory is None else parse_quantity(max_memory)
        except ValueError as error:
            raise ValueError(f"--max-memory: {error}") from error
        with cli_ranks.leader_first(world, "teacher"):
            teacher = prepare_teacher(opened, display)
        rate_candidates(opened, teacher, display, max_memory_bytes=max_memory_bytes, tensorboard=tensorboard)
        display.note(f"Next: dna-fast search {run} --max macs=...")


app.command()(cost)
app.command()(search)
app.add_typer(cli_config.app, name="config")
app.add_typer(data, name="data")


app.command()(retrain)
app.command()(report)
app.command()(export)
app.command()(profile)
app.command()(study)
app.command()(assembled)
app.command()(compare)


@app.command()
def info(as_json: AsJson = False) -> None:
    """What was built and what is installed: for bug reports."""
    from dna_fast.about import facts

    found = facts()
    if as_json:
        print(json.dumps(found))
    else:
        open_display().table(("what", "found"), list(found.items()))


@app.callback()
def _options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results, warnings and errors alone.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Also details, such as every checkpoint; -vv: all.")
    ] = 0,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where a failure came from.")] = False,
) -> None:
    """Options that every subcommand has; `main` reads --traceback itself, because failures end there."""
    cli_ranks.check_command(context.invoked_subcommand)
    VERBOSITY.set(-1 if quiet else verbose)
    ask_for_huge_pages()
    context.with_resource(open_display().logging())


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows what the library warns a user of as a line, without the place in the code."""
    other = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        return (
            f"warning: {message}\n"
            if issubclass(category, DamagedWarning)
            else other(message, category, *place, **line)
        )

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = other


def main() -> None:
    """Entry point: a failure is one message on standard error and an exit code, not a traceback."""
    try:
        with _plain_warnings():
            code = app(args=_options_first(sys.argv[1:]), prog_name="dna-fast", standalone_mode=False) or 0
    except (
        KeyboardInterrupt,
        typer.Abort,
    ):  # Ctrl-C is Abort in some releases of typer, in others it is returned as a code
        code = EXIT_INTERRUPTED
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        code = cli_failures.report(error)
    if code == EXIT_INTERRUPTED:
        program = ["dna-fast"] if cli_ranks.ranks() == 1 else ["torchrun", "...", "-m", "dna_fast"]
        command = shlex.join([*program, *sys.argv[1:]])
        sys.stderr.write(
            f"\ninterrupted; what was finished is saved. To go on, give the same command again: {command}\n"
        )
    sys.exit(code)


def _options_first(arguments: list[str]) -> list[str]:
    """The arguments with the options of every subcommand before it, as people write them behind it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    first = [a for a in arguments[:end] if a in EVERYWHERE]
    return first + [a for a in arguments[:end] if a not in EVERYWHERE] + arguments[end:]
