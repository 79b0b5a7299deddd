"""The command line: one subcommand, one stage. Stages are imported when they are run, so that --help is instant."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dna_fast.display import Display
    from dna_fast.pipeline import Run

# What wrong input, a missing file or a missing package raises; anything else is a bug and shows its traceback.
EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError)
EXIT_NO_ANSWER, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Block-wise distillation architecture search: a teacher is cut into blocks, a student block with all candidates learns to "
    "reproduce each of them, every candidate is rated, and the best architecture under your budgets is found exactly.\n\n"
    "Usual order: [bold]train[/bold] CONFIG --out RUN, [bold]rate[/bold] RUN, [bold]search[/bold] RUN --max macs=460M, "
    "[bold]retrain[/bold] RUN. Try [bold]demo[/bold] first: it does all of it in minutes on a CPU.\n\n"
    "Exit codes: 0 done; 1 no architecture meets the budgets, or a limit was reached first; 2 wrong input or a failure; "
    "130 interrupted (state is saved).",
)

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the configuration (train.epochs=3). Repeatable."
    ),
]


def _display() -> Display:
    from dna_fast.display import Display

    return Display()


def _open(directory: Path) -> Run:
    from dna_fast.pipeline import Run

    return Run.open(directory)


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

    run_demo(config or shipped_config("digits"), out, _display(), overrides or ())


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML configuration, or a run directory to go on with.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run directory; needed with a configuration file.")] = None,
    overrides: Overrides = None,
) -> None:
    """Train the supernet: every student block against the teacher's block. Goes on from the last checkpoint if there is one."""
    from dna_fast.pipeline import Run
    from dna_fast.stages import prepare_teacher, train_supernet

    if config.is_dir():
        run = Run.open(config)
        if overrides:
            raise ValueError(
                "--set: a run that exists keeps its configuration; give the configuration file and another --out"
            )
    else:
        if out is None:
            raise ValueError(f"--out: expected a run directory to train {config} in, e.g. --out runs/{config.stem}")
        run = Run.start(config, out, overrides or ())
    display = _display()
    train_supernet(run, prepare_teacher(run, display), display)
    display.say(f"Next: dna-fast rate {run.directory}")


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
) -> None:
    """Rate every candidate of a trained supernet. An interrupted rating goes on with the first operators that are not done."""
    from dna_fast.config import parse_quantity
    from dna_fast.stages import prepare_teacher, rate_candidates

    opened, display = _open(run), _display()
    try:
        max_memory_bytes = None if max_memory is None else parse_quantity(max_memory)
    except ValueError as error:
        raise ValueError(f"--max-memory: {error}") from error
    rate_candidates(opened, prepare_teacher(opened, display), display, max_memory_bytes=max_memory_bytes)
    display.say(f"Next: dna-fast search {run} --max macs=...")


@app.command()
def cost(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run directory: writes the costs of every candidate.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A published model (dna_a .. dna_d, efficientnet_b0) or an architecture file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Exact costs: of a published or found architecture, or of every candidate of a run's space."""
    from dna_fast.architecture import Architecture, from_zoo
    from dna_fast.cost import architecture_cost

    if (run is None) == (model is None):
        raise ValueError("cost: give either a run directory or --model NAME")
    if model is not None:
        arch = Architecture.load(model) if model.endswith(".json") else from_zoo(model)
        costs: dict[str, Any] = dict(architecture_cost(arch))
    else:
        assert run is not None
        table = _open(run).costs()
        candidates = sum(len(labels) for labels in table.labels)
        if as_json:
            print(json.dumps({"file": str(run / "costs.npz"), "costs": table.names, "candidates": candidates}))
        else:
            _display().say(f"{run / 'costs.npz'}: {', '.join(table.names)} of {candidates:,} candidates")
        return
    if as_json:
        print(json.dumps(costs))
    else:
        _display().table(("cost", arch.name), [(name, f"{value:,}") for name, value in costs.items()])


@app.command()
def search(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A rated run directory; or give --ratings and --costs.")
    ] = None,
    ratings: Annotated[Path | None, typer.Option(help="A table of ratings (.npz).")] = None,
    costs: Annotated[
        Path | None, typer.Option(help="A table of costs (.npz); default: exact costs of the ratings' space.")
    ] = None,
    maximum: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="COST=BOUND", help="Upper bound, inclusive, e.g. macs=460M. Repeatable."),
    ] = None,
    minimum: Annotated[
        list[str] | None, typer.Option("--min", metavar="COST=BOUND", help="Lower bound, inclusive. Repeatable.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Rating to minimise; default: the table's own.")] = None,
    top: Annotated[int | None, typer.Option(help="How many of the best to list.")] = None,
    apart: Annotated[int, typer.Option(help="In at least how many blocks every two of them differ.")] = 1,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Leave nothing else: 3:4x112, 3:4x112:0215, 3:op2 or op2. Repeatable."),
    ] = None,
    forbid: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Leave out: a cell, a candidate or an operator, as --fix. Repeatable."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Which budget binds, and what the next unit of it buys.")
    ] = False,
    front: Annotated[
        Path | None, typer.Option(help="Write the complete front of rating and bounded costs (macs without) as CSV.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw rating against macs: the front, what was found.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write search.json and architecture.json; default: RUN.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the best architectures under budgets, exactly.

    Bounds given here replace all of the run's own. RUN's search.json and architecture.json are written anew.
    """
    from dna_fast.fronts import plot_answer, write_front
    from dna_fast.query import Query, answer, print_answer, write_answer

    if run is not None and ratings is not None:
        raise ValueError("search: give either a run directory or --ratings, not both")
    query = Query.of_files(ratings, costs) if run is None else Query.of_run(_open(run))
    query = query.asking(maximum or (), minimum or (), metric, top).ruled(fix or (), forbid or (), apart)
    found = answer(query)
    if (directory := out if out is not None else run) is not None:
        write_answer(query, found, directory)
    why = query.explain().lines()[1:] if explain else []
    if as_json:
        print(json.dumps(found.to_dict() | ({"explanation": why} if explain else {})))
    else:
        print_answer(found, _display())
        for line in why:
            _display().say(f"  {line}")
    if front is not None and (points := write_front(query, front)) and not as_json:
        _display().say(f"{front}: {points} points")
    if plot is not None and found.solutions:
        plot_answer(query, found, plot)
    if not found.solutions:
        raise typer.Exit(EXIT_NO_ANSWER)


@app.command()
def retrain(
    run: RunDir,
    arch: Annotated[Path | None, typer.Option(help="An architecture file; default: the run's winner.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also train the baselines that the configuration asks for.")] = True,
) -> None:
    """Train the found architecture from scratch, and its baselines by the same recipe."""
    from dna_fast.architecture import Architecture
    from dna_fast.query import Query
    from dna_fast.stages import compare, plot_comparison, prepare_teacher

    opened, display = _open(run), _display()
    path = arch if arch is not None else run / "architecture.json"
    if not path.exists():
        raise ValueError(f"{path}: no architecture yet; run: dna-fast search {run} --max macs=...")
    name = "found" if arch is None else arch.stem
    results = compare(
        opened, {name: Architecture.load(path)}, prepare_teacher(opened, display), display, with_baselines=baselines
    )
    if all(result.arch.candidates for result in results):  # a published network is no member of the rated space
        plot_comparison(run / "front.png", Query.of_run(opened).as_answered(run), results)


@app.command()
def info(as_json: AsJson = False) -> None:
    """What was built and what is installed: for bug reports."""
    from dna_fast.about import facts

    found = facts()
    if as_json:
        print(json.dumps(found))
    else:
        _display().table(("what", "found"), list(found.items()))


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where a failure came from.")] = False,
) -> None:
    """Options before the subcommand; `main` reads --traceback itself, because failures end there."""


def main() -> None:
    """Entry point: a failure is one message on standard error and an exit code, not a traceback."""
    try:
        code = app(standalone_mode=False) or 0
    except (
        KeyboardInterrupt,
        typer.Abort,
    ):  # Ctrl-C is Abort in some releases of typer, in others it is returned as a code
        code = EXIT_INTERRUPTED
    except Exception as error:
        if hasattr(error, "show") and hasattr(
            error, "exit_code"
        ):  # a usage error; its class moved between typer's versions
            error.show()
            sys.exit(error.exit_code)
        if "--traceback" in sys.argv or not isinstance(error, EXPECTED):
            raise
        sys.stderr.write(f"error: {error}\n")
        code = EXIT_ERROR
    if code == EXIT_INTERRUPTED:
        command = shlex.join(["dna-fast", *sys.argv[1:]])
        sys.stderr.write(
            f"\ninterrupted; what was finished is saved. To go on, give the same command again: {command}\n"
        )
    sys.exit(code)
