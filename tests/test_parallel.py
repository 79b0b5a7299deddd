"""Many ranks give what one process gives, whatever befalls them on the way; all of it with gloo, on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import ranks_jobs
import torch
from zygote import Ended, zygote

from dna_fast._files import read_json
from dna_fast.placement import Batch, BlockCost, Placement, expected
from dna_fast.placement_cost import gradient_bytes, mean_gradient_bytes
from dna_fast.supernet import sample_paths
from dna_fast.tensor_files import read_tensors

STEPS = ranks_jobs.BATCHES * ranks_jobs.CONFIG.epochs
BLOCK = [
    pytest.param((2, 2), id="2 ranks", marks=pytest.mark.slow),
    pytest.param((1, 3), id="2 ranks, uneven"),
    pytest.param((1, 2, 1), id="3 ranks", marks=pytest.mark.slow),
    pytest.param((1, 1, 1, 1), id="4 ranks"),
]
DATA = [
    pytest.param((4,), 2, id="data 2"),
    pytest.param((4,), 4, id="data 4", marks=pytest.mark.slow),
    pytest.param((1, 3), 2, id="2x2"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training of a single process."""
    directory = tmp_path_factory.mktemp("alone")
    ranks.run(directory, 1, "train", out=str(directory))
    return directory


def _known(directory: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = read_json(directory / f"known_{rank}.json")
    return found


def _kept(directory: Path) -> list[dict[str, Any]]:
    """The checkpoints that count, but for times."""
    kept: list[dict[str, Any]] = read_json(directory / "state.json")["kept"]
    return [{"step": c["position"]["step"], "losses": c["measured"]["losses"], "files": c["files"]} for c in kept]


def _end_of(directory: Path) -> Path:
    return directory / f"step_{STEPS:08d}"


# ---- the same result -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", BLOCK)
def test_by_blocks_every_bit_is_that_of_one_process(stages: tuple[int, ...], alone: Path, tmp_path: Path) -> None:
    ranks.run(tmp_path, len(stages), "train", out=str(tmp_path), stages=stages)
    assert _kept(tmp_path) == _kept(alone), "weights, moments or losses differ"
    one = _known(alone)
    every = [_known(tmp_path, rank) for rank in range(len(stages))]
    assert [each["history"] for each in every] == [one["history"]] * len(stages)
    assert every[0]["told"] == one["told"]
    assert [block for each in every for block in each["blocks"]] == [0, 1, 2, 3]
    assert sum(each["weights"] for each in every) == one["weights"], "a rank holds more than its own students"


@pytest.mark.parametrize(("stages", "replicas"), DATA)
def test_by_data_it_is_that_of_one_process_up_to_rounding(
    stages: tuple[int, ...], replicas: int, alone: Path, tmp_path: Path
) -> None:
    size = len(stages) * replicas
    ranks.run(tmp_path, size, "train", out=str(tmp_path), stages=stages, replicas=replicas)
    # A sum over a batch of 32 images is grouped otherwise: a few units in the last place of float32 per step, of a loss that
    # contracts. A mistake (a slice left out, a sum for a mean) shows in the first digit.
    close = {"rtol": STEPS * 4 * 2**-23, "atol": 0.0}
    ours, theirs = (torch.tensor(_known(d)["history"], dtype=torch.float64) for d in (tmp_path, alone))
    torch.testing.assert_close(ours, theirs, **close)
    for block in range(4):
        _assert_close_weights(*(read_tensors(_end_of(d) / f"block_{block}.safetensors")[0] for d in (tmp_path, alone)))
    assert [_known(tmp_path, rank)["history"] for rank in range(size)] == [_known(tmp_path)["history"]] * size


# Behind these biases stands a batch norm, which takes them out again: their gradient is 0, what is computed is rounding, and Adam
# makes a step of it in whatever direction. Nothing depends on them.
WITHOUT_GRADIENT = ("in_adapter.bias", "stem.ds.bn2.bias")


def _assert_close_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    lr = ranks_jobs.CONFIG.learning_rates[0]
    for name, x in ours.items():
        if name.startswith("optimizer.step."):
            assert torch.equal(x, theirs[name]), name  # also says that the same operators were updated as often
        elif name.startswith("weight.") and not name.endswith(WITHOUT_GRADIENT):
            # Rounding moves a step of Adam's by a small share of the learning rate, where the gradient is not all rounding.
            torch.testing.assert_close(x, theirs[name], rtol=0, atol=0.02 * lr, msg=name)


def test_operators_that_are_not_drawn_do_not_move(tmp_path: Path) -> None:
    """Neither weights nor moments, by data on two ranks; those that are drawn do."""
    steps = 3
    ranks.run(tmp_path, 2, "train", out=str(tmp_path), stages=(4,), replicas=2, epochs=1, batches=steps)
    drawn = Counter((b, *operator) for b in range(4) for operator in _drawn(b, steps))
    initial = ranks_jobs.supernet()
    never = 0
    for b in range(4):
        end, _ = read_tensors(tmp_path / f"step_{steps:08d}" / f"block_{b}.safetensors")
        for name, before in initial.block(b).named_parameters():
            parts = name.split(".")
            if parts[2:3] != ["layers"]:
                continue
            times = drawn[b, int(parts[1]), int(parts[3]), int(parts[4])]
            never += times == 0
            assert torch.equal(end[f"weight.{name}"], before) == (times == 0), name
            assert (f"optimizer.exp_avg.{name}" in end) == (times > 0), name
            assert times == 0 or int(end[f"optimizer.step.{name}"]) == times, name
    assert never > 0, "choose a number of steps that leaves something out"


def _drawn(block: int, steps: int) -> Iterator[tuple[int, int, int]]:
    for step in range(steps):
        for c, path in enumerate(sample_paths(ranks_jobs.SPACE, seed=0, step=step, block=block)):
            yield from ((c, layer, choice) for layer, choice in enumerate(path))


# ---- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stages", "replicas"), [((1, 2, 1), 1), ((4,), 2), ((1, 3), 2)], ids=["block", "data", "2x2"])
def test_ranks_send_the_bytes_that_the_table_says(stages: tuple[int, ...], replicas: int, tmp_path: Path) -> None:
    size = len(stages) * replicas
    ranks.run(tmp_path, size, "train", out=str(tmp_path), stages=stages, replicas=replicas, epochs=1)
    whole, points = ranks_jobs.supernet(), ranks_jobs.teacher().plan.points
    costs = [
        BlockCost(1.0, 1.0, 4 * p.channels * p.height * p.width, mean_gradient_bytes(whole.block(b)))
        for b, p in enumerate(points)
    ]
    placement = Placement.of(stages, replicas)
    table = expected(placement, costs, Batch(ranks_jobs.CONFIG.batch_size, ranks_jobs.CONFIG.bn_group), 0.0)
    for rank in range(size):
        stage, sent = rank // replicas, _known(tmp_path, rank)["sent"]
        assert sent["features"] == ranks_jobs.BATCHES * table.feature_bytes[stage]
        drawn = 0
        for block in placement.blocks(stage) if replicas > 1 else ():
            for step in range(ranks_jobs.BATCHES):
                paths = sample_paths(ranks_jobs.SPACE, seed=0, step=step, block=block)
                drawn += gradient_bytes(whole.block(block), paths) + 4  # and the loss
        assert sent["gradients"] == drawn


# ---- trouble ---------------------------------------------------------------------------------------------------------


def _fails(tmp_path: Path, size: int, **arguments: Any) -> tuple[Ended, ...]:
    job = ranks.start(tmp_path, size, "train", out=str(tmp_path), **arguments)
    ended = job.wait()
    assert job.seconds < ranks.OVER_S
    return ended


def _told(ended: tuple[Ended, ...]) -> str:
    """The one line that all ranks together say."""
    lines = [line for e in ended for line in e.said.splitlines() if "error" in line]
    assert len(lines) == 1, lines
    return lines[0]


KILLS = [  # stages, which rank dies, the stages of those who go on
    pytest.param((2, 2), 0, (4,), id="first of a pipeline"),
    pytest.param((1, 2, 1), 1, (3, 1), id="middle of a pipeline"),
    pytest.param((2, 2), 1, (1, 1, 1, 1), id="last, more ranks go on", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stages", "victim", "after"), KILLS)
def test_a_rank_is_killed_and_another_number_of_ranks_goes_on_with_the_same_bits(
    stages: tuple[int, ...], victim: int, after: tuple[int, ...], alone: Path, tmp_path: Path
) -> None:
    """In the second epoch: the checkpoint of the first stays."""
    trouble = {"trouble": "SIGKILL", "rank": victim, "step": ranks_jobs.BATCHES + 5}
    ended = _fails(tmp_path, len(stages), stages=stages, **trouble)
    assert ended[victim].killed
    assert [e.code for rank, e in enumerate(ended) if rank != victim] == [2] * (len(ended) - 1)
    assert f"error: rank {victim} died (process " in _told(ended)
    assert "give the same command again, on as many ranks as you like" in _told(ended)
    assert [c["step"] for c in _kept(tmp_path)] == [ranks_jobs.BATCHES]
    ranks.run(tmp_path, len(after), "train", out=str(tmp_path), stages=after)
    assert _kept(tmp_path) == _kept(alone)


def test_a_replica_is_killed_and_one_process_goes_on(alone: Path, tmp_path: Path) -> None:
    trouble = {"trouble": "SIGKILL", "rank": 1, "step": ranks_jobs.BATCHES + 5}
    ended = _fails(tmp_path, 2, stages=(4,), replicas=2, **trouble)
    assert [e.code for e in ended] == [2, -9]
    assert "error: rank 1 died (process " in _told(ended)
    ranks.run(tmp_path, 1, "train", out=str(tmp_path))
    ours, theirs = (torch.tensor(_known(d)["history"], dtype=torch.float64) for d in (tmp_path, alone))
    torch.testing.assert_close(ours, theirs, rtol=STEPS * 4 * 2**-23, atol=0.0)


def test_a_loader_that_dies_is_told_once_by_its_rank(tmp_path: Path) -> None:
    ended = _fails(tmp_path, 4, stages=(1, 3), replicas=2, trouble="loader", rank=1, step=3)
    assert [e.code for e in ended] == [2] * 4
    assert _told(ended) == "error: rank 1: data: the loader died"


def test_a_loss_that_is_not_finite_is_told_once_by_its_rank(tmp_path: Path) -> None:
    ended = _fails(tmp_path, 2, stages=(2, 2), trouble="not finite", rank=1, step=3)
    assert [e.code for e in ended] == [2] * 2
    assert _told(ended).startswith("error: rank 1: training: the loss of block 2 became nan before step 10")


def test_replicas_that_differ_are_not_saved(tmp_path: Path) -> None:
    """As where a machine miscomputes: without a look nobody would ever know."""
    ended = _fails(tmp_path, 2, stages=(4,), replicas=2, trouble="drift", rank=1, step=3)
    assert [e.code for e in ended] == [2] * 2
    assert _told(ended).startswith("error: rank 1: training: after step 12 weights differ from those of rank 0")
    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize(
    ("trouble", "rank"),
    [
        pytest.param("full disk", 0, id="first rank", marks=pytest.mark.slow),
        pytest.param("full disk", 1, id="last rank"),
        pytest.param("no state", 0, id="state.json"),
    ],
)
def test_a_full_disk_of_one_rank_costs_no_checkpoint(trouble: str, rank: int, alone: Path, tmp_path: Path) -> None:
    ended = _fails(tmp_path, 2, stages=(2, 2), trouble=trouble, rank=rank, step=ranks_jobs.BATCHES + 2)
    assert [e.code for e in ended] == [2] * 2
    assert _told(ended).startswith(f"error: rank {rank}: {tmp_path}")
    outlook = f"The last good checkpoint, of step {ranks_jobs.BATCHES}, is intact, and training goes on from it"
    assert outlook in _told(ended)
    assert [path.name for path in sorted(tmp_path.glob("step_*"))] == [f"step_{ranks_jobs.BATCHES:08d}"]
    ranks.run(tmp_path, 2, "train", out=str(tmp_path), stages=(1, 3))
    assert _kept(tmp_path) == _kept(alone)


INTERRUPTIONS = [  # the signal, the rank that gets it, at which step
    pytest.param("SIGINT", 0, ranks_jobs.BATCHES - 2, id="first rank, behind the last batch of an epoch"),
    pytest.param("SIGINT", 0, ranks_jobs.BATCHES - 1, id="first rank, at an epoch's end", marks=pytest.mark.slow),
    pytest.param("SIGINT", 2, 2, id="last rank"),
]


@pytest.mark.parametrize(("name", "rank", "step"), INTERRUPTIONS)
def test_ctrl_c_on_one_rank_saves_one_checkpoint_of_all(
    name: str, rank: int, step: int, alone: Path, tmp_path: Path
) -> None:
    ended = _fails(tmp_path, 3, stages=(1, 2, 1), trouble=name, rank=rank, step=step)
    assert [(e.code, e.said) for e in ended] == [(130, "interrupted\n"), (130, ""), (130, "")]
    (kept,) = _kept(tmp_path)
    assert step < kept["step"] <= ranks_jobs.BATCHES
    ranks.run(tmp_path, 2, "train", out=str(tmp_path), stages=(2, 2))
    assert _kept(tmp_path) == _kept(alone)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job(tmp_path: Path) -> None:
    """Stopped, it neither computes nor closes what connects it; the others must not wait for it for ever."""
    job = ranks.start(tmp_path, 2, "train", out=str(tmp_path), stages=(2, 2), trouble="SIGSTOP", rank=1, step=3)
    first = zygote().wait(job.pids[0], job.logs[0])
    os.kill(job.pids[1], signal.SIGKILL)
    zygote().wait(job.pids[1], job.logs[1])
    assert (first.code, job.seconds < ranks.OVER_S) == (2, True)
    assert "error: rank 1 died (process " in first.said
    assert "no sign of life for 40 s" in first.said


def test_all_ranks_fall_back_to_the_same_checkpoint(alone: Path, tmp_path: Path) -> None:
    """The newest is damaged: rank 0 says so, and all begin with the one before."""
    for path in alone.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    damaged = _end_of(tmp_path) / "block_3.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    ended = ranks.run(tmp_path, 2, "train", out=str(tmp_path), stages=(2, 2))
    assert ["DamagedWarning" in e.said for e in ended] == [True, False]
    assert _kept(tmp_path) == _kept(alone)


# ---- rating ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_a_table_does_not_depend_on_the_number_of_ranks(size: int, tmp_path: Path) -> None:
    """Nor one that is gone on with by another number, from a part of the ratings."""
    (one,) = ranks.run(tmp_path / "one", 1, "rate_all", out=str(tmp_path / "one"))
    many = ranks.run(tmp_path / "many", size, "rate_all", out=str(tmp_path / "many"))
    tables = [(tmp_path / "one" / "table_0.npz").read_bytes()]
    tables += [(tmp_path / "many" / f"table_{rank}.npz").read_bytes() for rank in range(size)]
    assert len(set(tables)) == 1
    total = json.loads(one.said)[-1]
    assert max(json.loads(e.said)[-1] for e in many) == total, "no rank has seen the end"
    for path in list((tmp_path / "many" / "rating").glob("*_operator_[01].npy")):
        path.unlink()
    ranks.run(tmp_path / "many", 5 - size, "rate_all", out=str(tmp_path / "many"))
    assert (tmp_path / "many" / "table_0.npz").read_bytes() == tables[0]
