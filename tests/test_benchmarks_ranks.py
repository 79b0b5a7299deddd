"""The benchmark of training on ranks: what its race accepts, what a failing worker says, what the section makes of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_ranks, rank_worker
from benchmarks.races import ranks
from benchmarks.results import Entry, Race, Result
from benchmarks.sections import ranks as section
from dna_fast.placement import Batch
from dna_fast.space import Block, Cell, Choice, Frame, SearchSpace

# ---- the race --------------------------------------------------------------------------------------------------------

EXACT = {"features": 100.0, "gradients": 8.0, "counted_features": 100.0, "counted_gradients": 8.0}
REQUEST = {"model": "m", "space": "s", "batch": 8, "bn_group": 4, "steps": 2, "turns": 2}


@pytest.mark.parametrize(
    ("way", "error"), [("alone", 0.0), ("block", 0.0), ("data", 1e-3), ("alone-threads", 1e-3)], ids=lambda v: str(v)
)
def test_exact_bytes_and_losses_pass_and_no_more(way: str, error: float) -> None:
    ranks.check(way, error, {"sent": [EXACT, EXACT]})
    with pytest.raises(AssertionError, match=rf"{way}: expected the losses of one process within {error:g}, got"):
        ranks.check(way, error * 1.01 + 1e-9, {})


@pytest.mark.parametrize("what", ["features", "gradients"])
def test_a_byte_that_was_not_predicted_is_told_with_its_rank(what: str) -> None:
    sent = [EXACT, {**EXACT, what: EXACT[what] + 1}]
    expected = f"data: rank 1 sent {sent[1][what]} bytes of {what} a step, predicted {EXACT[what]}"
    with pytest.raises(AssertionError) as told:
        ranks.check("data", 0.0, {"sent": sent})
    assert str(told.value) == expected


def test_every_way_is_run_in_every_turn_and_compared_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(way: str, request: dict[str, Any]) -> dict[str, Any]:
        order.append(way)
        losses = [[1.0, 2.0], [0.5, 1.0]]
        if way == "data":
            losses[1][0] *= 1.0005
        return {"seconds": float(len(order)), "losses": losses, "stages": way}

    monkeypatch.setattr(ranks, "_run", run)
    entries = {e["way"]: e for e in ranks.main(REQUEST)["entries"]}
    ways = ["alone", "alone-threads", "data", "block"]
    assert order == [*ways, *reversed(ways)]  # in turns, so that a machine that warms up is fair to all
    assert [entries[way]["seconds"] for way in ways] == [[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]
    assert entries["data"]["error"] == pytest.approx(5e-4)
    assert entries["block"]["error"] == 0.0
    assert [(entries[way]["ranks"], entries[way]["threads"]) for way in ways] == [(1, 1), (1, 2), (2, 1), (2, 1)]


def test_a_way_that_trains_something_else_ends_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"alone": 1.0, "alone-threads": 1.0, "data": 1.0, "block": 1.0 + 1e-7}
    monkeypatch.setattr(ranks, "_run", lambda way, _: {"seconds": 1.0, "losses": [[wrong[way]]]})
    with pytest.raises(AssertionError, match="block: expected the losses of one process within 0, got 1"):
        ranks.main(REQUEST)


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_a_failing_worker_is_told_with_its_way_and_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)alone: exit status 1; it ended with\n.*unknown preset"):
        ranks._run("alone", {**REQUEST, "space": "nothing of that name"})


@pytest.mark.parametrize("way", ranks.WAYS)
def test_ranks_and_threads_are_asked_for(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        *_, asked, answer = command
        seen.append((command, env["OMP_NUM_THREADS"], Path(asked).read_text(encoding="utf-8")))
        Path(answer).write_text('{"seconds": 1.0}', encoding="utf-8")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert ranks._run(way, REQUEST) == {"seconds": 1.0}
    ((command, threads, asked),) = seen
    count, expected_threads = ranks.WAYS[way]
    assert command[0] == sys.executable
    assert threads == str(expected_threads)
    assert ("--nproc-per-node" in command) == (count > 1)
    assert count == 1 or command[command.index("--nproc-per-node") + 1] == str(count)
    assert (f'"placement": "{way}"' if count > 1 else '"placement": null') in asked


@pytest.mark.slow
@pytest.mark.parametrize("way", ["data", "block"])
def test_two_ranks_send_exactly_what_is_predicted_for_their_paths(way: str) -> None:
    space = SearchSpace(
        "eights",
        (Choice(3, 2), Choice(5, 3)),
        (Block(2, (Cell(1, 16), Cell(2, 24))), Block(2, (Cell(2, 32),))),
        Frame(stem_channels=16, stem_width=8, num_classes=4, resolution=64),
    )
    request = {**REQUEST, "model": "tf_efficientnet_b0", "space": space.to_dict()}
    found = ranks._run(way, request)
    ranks.check(way, 0.0, found)
    first, second = found["sent"]
    assert first["counted_gradients" if way == "data" else "counted_features"] > 0
    assert second["features"] == 0.0  # nothing comes behind the last stage
    assert found["losses"][0] == pytest.approx(ranks._run("alone", request)["losses"][0], rel=ranks.TOLERANCE)


def test_the_same_images_come_again_from_any_batch() -> None:
    loader = rank_worker.Again(2, 3, torch.ones(2, 3, 4, 4))
    assert len(loader) == 3
    assert [len(list(loader.epoch(0, start))) for start in (0, 1, 3)] == [3, 2, 0]
    assert all(batch.images is loader.images for batch in loader.epoch(1))


@pytest.mark.parametrize("tier", bench_ranks.TIERS)
def test_batches_of_the_tiers_can_be_shared(tier: str) -> None:
    facts = bench_ranks.TIERS[tier]
    assert Batch(facts["batch"], facts["bn_group"]).problem(ranks.RANKS) is None


# ---- the section -----------------------------------------------------------------------------------------------------


def entry(way: str, seconds: float, **fields: Any) -> Entry:
    return Entry({"way": way, **fields}, {"median": seconds})


def test_the_section_compares_with_one_thread_and_shows_the_rank_that_sends_most() -> None:
    small = {"features": 2e6, "gradients": 1e6, "counted_features": 2e6, "counted_gradients": 1e6}
    large = {"features": 0.0, "gradients": 5e6, "counted_features": 0.0, "counted_gradients": 5e6}
    entries = (
        entry("alone", 4.0),
        entry("alone-threads", 2.5),
        entry("data", 2.0, stages="6x2", predicted_s=1.6, sent=[small, large]),
        entry(
            "block", 3.2, stages="2+4x1", predicted_s=2.0, sent=[{**small, "gradients": 0.0, "counted_gradients": 0.0}]
        ),
    )
    race = Race("training on ranks", {**REQUEST, "batch": 16}, entries)
    made = section.section(Result("ranks", "full", "2026-01-02", "r", False, {}, (race,)))
    assert made.measured == {}
    rows = [line for line in made.lines if line.startswith(("| one", "| two"))]
    assert rows == [
        "| one process, one thread | - | 4.00 | 1.00x | - | - | - | - |",
        "| one process, two threads | - | 6.40 | 1.60x | - | - | - | - |",
        "| two ranks, `data` | 6x2 | 8.00 | 2.00x | 2.50x | 2.00 MB | 5.00 MB | 5.00 MB |",
        "| two ranks, `block` | 2+4x1 | 5.00 | 1.25x | 2.00x | 2.00 MB | - | 2.00 MB |",
    ]
    assert any("16 images a step in groups of" in line for line in made.lines)


def test_the_section_leaves_out_what_was_not_run() -> None:
    race = Race("training on ranks", REQUEST, (entry("alone", 1.0), entry("data", 1.0)))
    made = section.section(Result("ranks", "quick", "2026-01-02", "r", False, {}, (race,)))
    assert len([line for line in made.lines if line.startswith(("| one", "| two"))]) == 2


def test_sections_and_race_know_the_same_ways() -> None:
    assert list(section.WAYS) == list(ranks.WAYS)
