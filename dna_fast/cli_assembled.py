"""dna-fast assembled: do sums of ratings hold for whole networks?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dna_fast.cli_options import AsJson, RunDir, open_display, open_run


def assembled(
    run: RunDir,
    top: Annotated[int, typer.Option(help="How many of the search's best to assemble.")] = 8,
    sample: Annotated[
        int,
        typer.Option(help="How many random architectures: half fit a correction between neighbours, half judge it."),
    ] = 64,
    heads: Annotated[bool, typer.Option(help="Also fit a head to each of the best (retrain.head_epochs).")] = False,
    seed: Annotated[int, typer.Option(help="Of the random architectures, and of the resamples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Assemble networks from a rated run's blocks and measure them whole: does the sum of ratings rank them, and would pairs help?

    Nothing is trained but heads, if asked for. RUN/assembled/assembled.json holds all of it. An interrupted one goes on.
    """
    from dna_fast._files import write_json
    from dna_fast.assembled_study import AssembledPlan, assembled_study
    from dna_fast.query import Query
    from dna_fast.retrain_inherited import Inheritance
    from dna_fast.stages import prepare_teacher

    display, opened, plan = open_display(quiet=as_json), open_run(run), AssembledPlan(top, sample, seed, heads)
    query, directory = Query.of_run(opened), Path(run) / "assembled"
    inheritance = Inheritance(opened, prepare_teacher(opened, display))
    with display.progress("assembling") as update:
        found = assembled_study(
            inheritance, query, plan, directory, lambda done, total: update(done, total, "networks")
        )
    write_json(directory / "assembled.json", found.to_dict())
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    rows = [
        (n.role, "/".join(map(str, n.choice)), f"{n.macs / 1e6:.2f} M", f"{n.rating:.4f}", f"{n.corrected:.4f}")
        + (f"{n.distance:.4f}", "" if n.head_accuracy is None else f"{100 * n.head_accuracy:.1f} %")
        for n in found.networks
        if n.role in ("best", "corrected")
    ]
    display.table(("network", "candidates", "macs", "rating", "corrected", "distance", "top-1 with a head"), rows)
    for of, estimate in found.agreement.items():
        display.say(f"Kendall's tau of summed ratings with the distance, {of}: {estimate} {estimate.why}")
    for name, estimate in found.held_out.items():
        display.say(f"  networks held out, {name}: {estimate} {estimate.why}")
    if found.gain is not None:
        display.say(f"  distance of the best minus that of the best with correction: {found.gain}")
    display.say(f"Correction between neighbouring blocks: {found.verdict}.")
