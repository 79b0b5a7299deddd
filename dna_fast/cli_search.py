"""Commands that need no training: costs of architectures, and the search over tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dna_fast.cli_options import EXIT_NO_ANSWER, AsJson, open_display, open_run


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
        table = open_run(run).costs()
        candidates = sum(len(labels) for labels in table.labels)
        if as_json:
            print(json.dumps({"file": str(run / "costs.npz"), "costs": table.names, "candidates": candidates}))
        else:
            open_display().say(f"{run / 'costs.npz'}: {', '.join(table.names)} of {candidates:,} candidates")
        return
    if as_json:
        print(json.dumps(costs))
    else:
        open_display().table(("cost", arch.name), [(name, f"{value:,}") for name, value in costs.items()])


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
        Path | None,
        typer.Option(
            help="Write the complete front of rating and bounded costs (macs without any) as CSV; rules narrow it."
        ),
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
    from dna_fast.provenance import stage_record
    from dna_fast.query import Query, answer, print_answer, write_answer

    if run is not None and ratings is not None:
        raise ValueError("search: give either a run directory or --ratings, not both")
    query = Query.of_files(ratings, costs) if run is None else Query.of_run(open_run(run))
    query = query.asking(maximum or (), minimum or (), metric, top).ruled(fix or (), forbid or (), apart)
    directory = out if out is not None else run
    finish = stage_record(directory, "search", "cpu") if directory is not None else None
    found = answer(query)
    if directory is not None and finish is not None:
        write_answer(query, found, directory)
        finish(True)
    why = query.explain().lines()[1:] if explain else []
    if as_json:
        print(json.dumps(found.to_dict() | ({"explanation": why} if explain else {})))
    else:
        print_answer(found, open_display())
        for line in why:
            open_display().say(f"  {line}")
    if front is not None and (points := write_front(query, front)) and not as_json:
        open_display().say(f"{front}: {points} points")
    if plot is not None and found.solutions:
        plot_answer(query, found, plot)
    if not found.solutions:
        raise typer.Exit(EXIT_NO_ANSWER)
