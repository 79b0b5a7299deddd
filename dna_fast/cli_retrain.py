"""dna-fast retrain: the found architecture and what it is compared with, by one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dna_fast import cli_ranks
from dna_fast.cli_options import RunDir, TensorBoard, open_run
from dna_fast.resume import Resume, check_resume

if TYPE_CHECKING:
    from dna_fast.architecture import Architecture
    from dna_fast.pipeline import Run
    from dna_fast.retrain_inherited import Inheritance
    from dna_fast.teacher import Teacher


class Init(str, Enum):
    """Where a network's weights come from before it is trained."""

    SCRATCH = "scratch"
    INHERITED = "inherited"


def retrain(
    run: RunDir,
    arch: Annotated[Path | None, typer.Option(help="An architecture file; default: the run's winner.")] = None,
    init: Annotated[
        Init,
        typer.Option(
            help="scratch: random weights. inherited: the trained blocks', adapters folded away; the head is fitted first, in "
            "retrain.head_epochs of retrain.epochs. Networks go to models/NAME_inherited.",
        ),
    ] = Init.SCRATCH,
    baselines: Annotated[bool, typer.Option(help="Also train the baselines that the configuration asks for.")] = True,
    also: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Also train these of dna_a .. dna_d, efficientnet_b0, with commas between; from scratch.",
        ),
    ] = "",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="released (the paper's, 500 epochs) or stronger (RandAugment and erasing besides) instead of the configuration's; "
            "the learning rate follows retrain.batch_size. Networks go to models/NAME_RECIPE.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="retrain.KEY=VALUE", help="Override a key of retraining, for this command. Repeatable."
        ),
    ] = None,
    tensorboard: TensorBoard = False,
    resume: Annotated[
        Resume,
        typer.Option(
            help="What to do about training of this architecture that the run holds: auto goes on with it, or begins; never refuses "
            "to go on; must refuses to begin. Baselines go on in any case."
        ),
    ] = Resume.AUTO,
) -> None:
    """Train the found architecture from scratch or from its trained blocks, and its baselines by the same recipe."""
    from dna_fast.architecture import Architecture
    from dna_fast.query import Query
    from dna_fast.recipes import named_baselines, parse_baselines
    from dna_fast.stages import compare, plot_comparison, prepare_teacher

    with cli_ranks.joined() as world:
        opened, display, named = open_run(run), cli_ranks.display_of(world), parse_baselines(also)
        opened.world = world
        configure(opened, recipe, overrides or [])
        check_ranks(opened)
        path = arch if arch is not None else run / "architecture.json"
        if not path.exists():
            raise ValueError(f"{path}: no architecture yet; run: dna-fast search {run} --max macs=...")
        suffix = "" if recipe is None else f"_{recipe}"
        name = ("found" if arch is None else arch.stem) + suffix
        chosen = Architecture.load(path)
        with cli_ranks.leader_first(world, "teacher"):
            teacher = prepare_teacher(opened, display)
        others = {other + suffix: a for other, a in named_baselines(named, opened.space.frame).items()}
        for other in others.values():
            opened.distiller(other, teacher)  # what does not fit must not show after the first network's hours
        start = _start(opened, teacher, init)
        if opened.is_leader:
            check_resume(resume, *_leftovers(opened, start, chosen, name))
        results = compare(
            opened,
            {name: chosen},
            start,
            display,
            with_baselines=baselines,
            also=others,
            tensorboard=tensorboard,
        )
        rated = [
            result for result in results if result.arch.candidates
        ]  # a published network is no member of the rated space
        if chosen.candidates and opened.is_leader:
            plot_comparison(run / "front.png", Query.of_run(opened).as_answered(run), rated)
        display.note(f"Next: dna-fast report {run}")


def check_ranks(run: Run) -> None:
    """Looks, before anything is loaded, whether the ranks can retrain together.

    Raises:
        ValueError: a batch that they cannot share, a teacher that needs it whole.
    """
    if run.world is None:
        return
    from dna_fast.retrain_ranks import check_share

    recipe = run.recipe()
    check_share(recipe, run.world.size)
    if run.config.teacher.bn == "batch" and (recipe.distill_weight > 0 or recipe.feature_weight > 0):
        raise ValueError(
            "teacher.bn: batch normalises whole batches, of which a rank has a part, so retraining cannot distil from it on several "
            "ranks; retrain by one process, or set retrain.distill_weight=0 and retrain.feature_weight=0"
        )


def _start(run: Run, teacher: Teacher, init: Init) -> Teacher | Inheritance:
    """Where networks get their weights from."""
    if init is Init.SCRATCH:
        return teacher
    from dna_fast.retrain_inherited import Inheritance

    return Inheritance(run, teacher)


def _leftovers(run: Run, start: Teacher | Inheritance, arch: Architecture, name: str) -> tuple[str, Sequence[Path]]:
    """The name that a network is trained under, and the files that its training leaves."""
    from dna_fast.stages import INHERITED
    from dna_fast.teacher import Teacher

    if isinstance(start, Teacher):
        return name, [run.fit_checkpoint(arch, start, name)]
    return name + INHERITED, start.checkpoints(arch, name + INHERITED)


def configure(run: Run, recipe: str | None, overrides: list[str]) -> None:
    """Replaces what the run's configuration says of retraining, for this command only.

    Raises:
        ValueError: an unknown recipe, a key of another section, a value that does not fit.
    """
    from dna_fast.config import load_config
    from dna_fast.recipes import recipe_overrides

    if strange := [text for text in overrides if not text.startswith("retrain.")]:
        raise ValueError(
            f"--set {strange[0]}: expected a key of retraining, retrain.KEY=VALUE; the others belong to the trained run"
        )
    stored = run.directory / "config.yaml"
    if recipe is not None:
        batch_size = load_config(stored, overrides).retrain.batch_size
        overrides = [*recipe_overrides(recipe, batch_size), *overrides]
    if overrides:
        run.config = load_config(stored, overrides)
