"""dna-fast compare: is the found network better than chance?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dna_fast.cli_options import AsJson, RunDir, open_display, open_run


def compare(
    run: RunDir,
    randoms: Annotated[int, typer.Option(help="Random architectures of the winner's macs (within 1 %).")] = 8,
    inherited: Annotated[bool, typer.Option(help="Also train every one of them from the run's trained blocks.")] = True,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="retrain.KEY=VALUE", help="Override a key of retraining, for this command. Repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the found network with random ones of equal macs, uniform ones (one operator everywhere) and the largest.

    All by one recipe, from scratch and with inherited weights, as many epochs in all. RUN/comparison has table and picture; what an
    interrupted one has finished is used again.
    """
    from dna_fast.architecture import Architecture
    from dna_fast.cli_retrain import configure
    from dna_fast.comparison import compare_all, uniform_architectures, with_random, write_comparison
    from dna_fast.cost import architecture_cost
    from dna_fast.retrain_inherited import Inheritance
    from dna_fast.stages import baseline_architectures, prepare_teacher, retrain_all

    display, opened, path = open_display(quiet=as_json), open_run(run), run / "architecture.json"
    configure(opened, None, overrides or [])
    if not path.exists():
        raise ValueError(f"{path}: no architecture yet; run: dna-fast search {run} --max macs=...")
    winner, teacher = Architecture.load(path), prepare_teacher(opened, display)
    inheritance = Inheritance(opened, teacher) if inherited else None
    if inheritance is not None:
        inheritance.recipes()  # what is wrong with them must not show after hours of training
    opened.config = with_random(opened.config, randoms)
    networks = {
        "found": winner,
        **baseline_architectures(opened, winner),
        **uniform_architectures(opened.space, architecture_cost(winner)["macs"]),
    }
    scratch = retrain_all(opened, networks, teacher, display)
    heirs = [] if inheritance is None else retrain_all(opened, networks, inheritance, display)
    found = compare_all(scratch, heirs)
    written = write_comparison(found, run / "comparison")
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    display.table(
        ("network", "macs", "params", "scratch", "inherited, head alone", "inherited"),
        [
            (
                r.name,
                f"{r.macs / 1e6:.2f} M",
                f"{r.params:,}",
                *(str(a or "") for a in (r.scratch, r.head, r.inherited)),
            )
            for r in found.rows
        ],
    )
    for words, estimate in found.findings.items():
        display.say(f"{words}: {estimate} {estimate.why}")
    display.note(", ".join(map(str, written)))
