"""Rating of a run's supernet: what the ratings depend on, and the table of them, by one process or by ranks that share the work."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from dna_fast import __version__
from dna_fast._files import file_sha256, json_sha256
from dna_fast.config_schema import parse_quantity
from dna_fast.ops._library import find, isa
from dna_fast.pipeline_ranks import memory_of_a_rank
from dna_fast.pipeline_ranks import share as share_of
from dna_fast.rate import OnProgress, RateOptions, rate
from dna_fast.rating_store import RatingStore

if TYPE_CHECKING:
    from dna_fast.pipeline import Run
    from dna_fast.tables import RatingTable
    from dna_fast.teacher import Teacher


def rate_run(
    run: Run, teacher: Teacher, on_progress: OnProgress | None = None, max_memory_bytes: int | None = None
) -> RatingTable:
    """As `Run.rate`."""
    config = run.config.rate
    if max_memory_bytes is None and config.max_memory is not None:
        max_memory_bytes = parse_quantity(config.max_memory)
    supernet, found = run.trained_supernet(teacher)
    calibration, rated = (run.images.split(name) for name in ("calibration", "rating"))
    provenance = {
        "teacher_sha256": teacher.weights_sha256(),
        "teacher_cuts": list(teacher.plan.names),
        "data_fingerprint": run.images.train.fingerprint(),
        "configuration": run.config.identity(),
        "seed": run.config.seed,
        "epochs": run.config.train.epochs,
        "supernet_checkpoint": run.checkpoint.value,
        "supernet_epochs": found.position.epoch,
        "supernet_sha256": json_sha256(found.files),
    }
    depends_on = [provenance, config.mode, config.batch_size, config.calibration_images, *_machine(run.device)]
    share = None
    with nullcontext() if run.world is None else run.world.leader_first("rating store"):
        store = RatingStore(run.directory / "rating", json_sha256(depends_on))
    if run.world is not None:
        share = share_of(run.world)
        max_memory_bytes = max_memory_bytes or memory_of_a_rank(run, run.world)
    table = rate(
        supernet,
        teacher,
        (
            run.images.loader(calibration, config.batch_size, training=False),
            run.images.loader(rated, config.batch_size, training=False),
        ),
        RateOptions(config.mode, config.metric, max_memory_bytes, provenance),
        store=store,
        share=share,
        on_progress=on_progress,
    )
    if run.world is not None:
        run.world.wait_for_all("tables")  # until every rank has read the others' ratings
        if not run.world.is_leader:
            return table
    table.save(run.directory / "ratings.npz")
    store.clear()  # the table has them; a rating begun anew must not find those of older code
    return table


def _machine(device: torch.device) -> tuple[str, ...]:
    """What arithmetic depends on, threads apart: ratings of two machines or builds must not be mixed in one table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return name, isa(), str(torch.__version__), __version__, file_sha256(find())
