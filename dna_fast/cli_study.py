"""dna-fast study: how well scores rank trained networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dna_fast.cli_options import AsJson, open_display, open_run

PUBLISHED = "published"


def study(
    what: Annotated[
        str,
        typer.Argument(
            metavar="published|FILE.csv|RUN",
            help="The published set of 23 ImageNet networks; your own models, one per line; or a rated run, of whose space "
            "--sample architectures are trained.",
        ),
    ],
    truth: Annotated[str, typer.Option(help="CSV: the column measured after training; more is better.")] = "accuracy",
    scores: Annotated[str, typer.Option(help="CSV: the columns to judge, e.g. rating,params.")] = "",
    lower: Annotated[str, typer.Option(help="CSV: those of the scores of which less is better.")] = "",
    cost: Annotated[
        str, typer.Option(help="CSV: the column by which models cost the same; always among the scores.")
    ] = "macs",
    name: Annotated[str | None, typer.Option(help="CSV: the column with the models' names.")] = None,
    sample: Annotated[
        int | None, typer.Option(help="RUN: how many architectures to train, the same number for every bucket of macs.")
    ] = None,
    buckets: Annotated[int, typer.Option(help="RUN: of macs, from the smallest architecture to the largest.")] = 4,
    between: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="RUN: macs to sample from, e.g. 4M,6M; default: all of the space."),
    ] = None,
    width: Annotated[
        float, typer.Option(help="CSV, published: models of one bucket differ in cost by at most this share.")
    ] = 0.1,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap behind the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the resamples, and of the sampled architectures.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where to write study.json and study.png; default: RUN/study, or study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rank agreement of ratings with trained accuracy: Kendall, Spearman, Pearson, overall and at equal cost.

    Beside every rating stand macs, params and a score without training. An interrupted RUN study goes on where it stopped.
    """
    import numpy as np

    from dna_fast.study import Columns, read_models
    from dna_fast.study import study as judge
    from dna_fast.study_plan import draw_plan, train_study
    from dna_fast.study_published import published_models
    from dna_fast.study_report import print_study, write_study

    display, directory = open_display(quiet=as_json), Path("study") if out is None else out
    if what == PUBLISHED:
        models = published_models()
    elif Path(what).is_dir():
        if sample is None:
            raise ValueError("study: --sample says how many architectures of a run's space to train, e.g. --sample 24")
        directory = Path(what) / "study" if out is None else out
        run = open_run(Path(what))
        plan = draw_plan(run, sample, buckets, seed, None if between is None else _range(between))
        models = train_study(run, directory, plan, display)
    else:
        wanted = Columns(truth, _names(scores), cost, frozenset(_names(lower)), name)
        models = read_models(what, wanted)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 0))))
    found = judge(models, rng, bucket_width=width, resamples=resamples)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print_study(found, display)
    written = write_study(found, directory)
    if not as_json:
        display.note(", ".join(map(str, written)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _range(text: str) -> tuple[int, int]:
    from dna_fast.config import parse_quantity

    ends = text.split(",")
    if len(ends) != 2:
        raise ValueError(f"--between: expected the cheapest and the dearest, e.g. 4M,6M, got {text!r}")
    return parse_quantity(ends[0]), parse_quantity(ends[1])
