"""A run directory as the stages leave it, without the hours: real writers, made-up numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from small_run import CONFIG

from dna_fast._files import write_json
from dna_fast.architecture import Architecture, random_choice
from dna_fast.checkpoint_state import Checkpoint, Measured, Position, write_state
from dna_fast.config import RunConfig
from dna_fast.cost import cost_table
from dna_fast.query import Query, answer, write_answer
from dna_fast.recipe import Accuracy
from dna_fast.retrain_step import EpochRecord, FitResult
from dna_fast.space import SearchSpace
from dna_fast.stage_log import stage_log
from dna_fast.tables import METRICS, RatingTable

EPOCHS, STEPS = 2, 20
SCORES = {"found": 80, "random_0": 78, "largest": 99}  # of 100 images


def write_run(directory: Path, *, seed: int = 0, config: dict[str, Any] | None = None) -> RunConfig:
    """Writes everything a finished run has that a report reads."""
    run = RunConfig.from_mapping({**CONFIG, "seed": seed, **(config or {})})
    run.dump(directory / "config.yaml")  # makes the directory
    space = run.search_space()
    rng = np.random.default_rng(seed)
    with open(directory / "splits.npz", "wb") as file:
        np.savez(file, fingerprint=np.array(f"data{seed}"), rating=np.arange(128), calibration=np.arange(100))
    _write_teacher(directory, space)
    _write_supernet(directory, len(space.blocks))
    table = _ratings(space, rng)
    table.save(directory / "ratings.npz")
    costs = cost_table(space)
    costs.save(directory / "costs.npz")
    query = Query(table, costs, {"macs": (None, int(costs.total([0] * len(space.blocks))["macs"] * 2))}, top=3)
    winner = write_answer(query, answer(query), directory)
    assert winner is not None
    networks = {"found": winner}
    for name in ("random_0", "largest"):
        networks[name] = Architecture.from_space(space, random_choice(space, rng), name)
    for name, arch in networks.items():
        write_network(directory, name, arch, SCORES[name], 100)
    record = {
        "dna_fast": "0.1",
        "revision": "abc123",
        "torch": "2.15",
        "command": ["dna-fast", "train"],
        "seconds": 12.5,
    }
    write_json(directory / "provenance.json", {"train": record})
    return run


def write_network(directory: Path, name: str, arch: Architecture, correct: int, total: int) -> None:
    """A retrained network with its log."""
    arch.save(directory / "models" / name / "architecture.json")
    write_json(directory / "models" / name / "training.json", fit_result(correct, total).to_dict())
    with stage_log(directory, f"models/{name}", ("epoch", "step", "lr", "loss")) as log:
        for step in range(10, STEPS + 1, 10):
            log.add({"epoch": step // 10 - 1, "step": step, "lr": 0.1, "loss": 3.0 / step})


def fit_result(correct: int, total: int) -> FitResult:
    history = [EpochRecord(epoch, 2.0 / (epoch + 1), 0.1, None, 5.0) for epoch in range(EPOCHS)]
    return FitResult(tuple(history), Accuracy(correct, total), 10.0)


def _write_teacher(directory: Path, space: SearchSpace) -> None:
    sizes = [space.out_size(b) for b in range(len(space.blocks))]
    points = [
        {"name": f"blocks.{b + 1}", "channels": 12 + b, "height": size, "width": size, "macs": 1_234_000 + b}
        for b, size in enumerate(sizes)
    ]
    known = {"source": "trained here", "weights_sha256": "5ha", "macs": 7_654_321, "bn": "eval", "points": points}
    write_json(directory / "teacher.json", known)
    write_json(directory / "teacher_training.json", fit_result(90, 100).to_dict())


def _write_supernet(directory: Path, blocks: int) -> None:
    records = tuple(
        {"epoch": e, "losses": losses(e, blocks), "seconds": 1.5, "images_per_s": 9.0, "steps": STEPS}
        for e in range(EPOCHS)
    )
    measured = Measured(records, (0.0,) * blocks, 0, 0.0)
    newest = Checkpoint(directory / "supernet" / "step_1", Position(EPOCHS, 0, EPOCHS * STEPS), measured, {})
    newest.directory.mkdir(parents=True)
    write_state(directory / "supernet", "1d", [newest])
    columns = ("epoch", "step", "images_per_s", *(f"loss_{b}" for b in range(blocks)))
    with stage_log(directory, "supernet", columns) as log:
        for step in range(10, EPOCHS * STEPS + 1, 10):
            now = dict(zip(columns[3:], losses(step / STEPS, blocks), strict=True))
            log.add({"epoch": step // STEPS, "step": step, "images_per_s": 9.0, **now})


def losses(epoch: float, blocks: int) -> list[float]:
    """What the supernet's blocks lose."""
    return [(b + 1.5) / (1 + epoch) for b in range(blocks)]


def _ratings(space: SearchSpace, rng: np.random.Generator) -> RatingTable:
    blocks: Sequence[Any] = RatingTable.from_losses(
        space, [rng.uniform(0.5, 1.0, space.num_candidates(b)) for b in range(len(space.blocks))]
    ).blocks
    filled = []
    for block in blocks:
        copy = block.copy()
        for metric in METRICS:
            copy[metric] = block["relative_l1"]
            copy[f"{metric}_se"] = rng.uniform(0.05, 0.1, len(copy))
        filled.append(copy)
    return RatingTable(space, filled, metadata={"teacher_sha256": "5ha", "seed": 0})
