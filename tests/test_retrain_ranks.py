"""Ranks that retrain a network together: what one process gives, the same bits on all of them, and nothing lost when one fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ranks
import torch
import yaml
from ranks_retrain import BATCH, EVAL_IMAGES, IMAGES, PLAIN, RECIPES, Part
from safetensors import safe_open
from small_run import CONFIG
from test_retrain import EVAL, TensorLoader, tiny_model
from torch import Tensor, nn
from zygote import Ended

from dna_fast import retrain_norms, retrain_ranks
from dna_fast._files import read_json
from dna_fast.cli_retrain import check_ranks
from dna_fast.config import load_config
from dna_fast.pipeline import Run
from dna_fast.recipe import count_correct
from dna_fast.retrain import fit
from dna_fast.retrain_ranks import GradientBuckets, RankTraining, check_share
from dna_fast.retrain_step import older

CALL, CHECKPOINT = "ranks_retrain:train", "checkpoint.safetensors"
STEPS = IMAGES // BATCH * PLAIN.epochs


def _run(directory: Path, size: int, **arguments: Any) -> list[dict[str, Any]]:
    """What every rank knows at the end."""
    ranks.run(directory, size, CALL, out=str(directory), **arguments)
    return [read_json(directory / f"known_{rank}.json") for rank in range(size)]


def _fails(directory: Path, size: int, **arguments: Any) -> tuple[Ended, ...]:
    """How the ranks of a job ended that something befell; within a minute."""
    job = ranks.start(directory, size, CALL, out=str(directory), **arguments)
    ended = job.wait()
    assert job.seconds < ranks.OVER_S
    return ended


def _told(ended: Sequence[Ended]) -> str:
    """The one message of all ranks."""
    (line,) = [line for e in ended for line in e.said.splitlines() if line.startswith("error")]
    return line


def _weights(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(directory / "weights.pt")
    return found


def _assert_same_training(ours: Path, theirs: Path) -> None:
    """Losses, accuracies and weights, up to the rounding of sums over a batch of 12 in every one of the steps.

    Steps of SGD carry an error on and hardly enlarge it; a slice left out or a sum for a mean shows in the first digits.
    """
    rtol = STEPS * BATCH * 2**-23
    a, b = (read_json(directory / "known_0.json")["history"] for directory in (ours, theirs))
    torch.testing.assert_close([x[0] for x in a], [x[0] for x in b], rtol=rtol, atol=0)
    assert [x[1:3] for x in a] == [x[1:3] for x in b], "learning rates or accuracies differ"
    weights = _weights(theirs)
    for name, x in _weights(ours).items():
        torch.testing.assert_close(x, weights[name], rtol=rtol, atol=rtol, msg=name)


# ---- the same result -------------------------------------------------------------------------------------------------

DEFAULT_TIER = {("sync, mixed", 2), ("sync, distilled", 2), ("frozen", 3)}


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        pytest.param(recipe, size, marks=() if (recipe, size) in DEFAULT_TIER else pytest.mark.slow)
        for recipe in ("sync", "sync, mixed", "sync, distilled", "frozen")
        for size in (2, 3)
    ],
)
def test_it_is_that_of_one_process(recipe: str, size: int, tmp_path: Path) -> None:
    """With batch norms that see the whole batch, or stand still; also of ranks that began with other weights than rank 0."""
    _run(tmp_path / "alone", 1, recipe=recipe)
    every = _run(tmp_path / "ranks", size, recipe=recipe)
    _assert_same_training(tmp_path / "ranks", tmp_path / "alone")
    assert every == [every[0]] * size, "ranks hold other bits"
    assert not every[0]["left"]
    assert every[0]["told"] == [10]


@pytest.mark.parametrize("recipe", ["local", pytest.param("head", marks=pytest.mark.slow)])
def test_ranks_hold_the_same_bits(recipe: str, tmp_path: Path) -> None:
    """Weights, their average and the batch norms' statistics, though every rank normalises and drops out its own part."""
    every = _run(tmp_path, 3, recipe=recipe)
    assert every == [every[0]] * 3
    assert every[0]["history"][-1][2]["total"] == EVAL_IMAGES


def test_running_statistics_are_the_mean_over_ranks(tmp_path: Path) -> None:
    """With weights that stand still, of what each rank's part alone would leave."""
    _run(tmp_path, 2, recipe="still")
    recipe = replace(RECIPES["still"], batch_size=BATCH // 2)
    parts = []
    for rank in range(2):
        model = tiny_model(recipe)
        fit(model, Part(TensorLoader(IMAGES, BATCH, training=True), rank, 2), EVAL, recipe, seed=3)
        parts.append(model.state_dict())
    checked = 0
    for name, x in _weights(tmp_path).items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(x, (parts[0][name] + parts[1][name]) / 2, rtol=1e-5, atol=1e-6, msg=name)
            checked += not torch.allclose(parts[0][name], parts[1][name], rtol=1e-3)
    assert checked, "both parts have the same statistics"


# ---- stopping and going on -------------------------------------------------------------------------------------------


def test_a_rank_is_killed_and_another_number_goes_on(tmp_path: Path) -> None:
    """Inside an epoch, from the last checkpoint, to the end of one process; two ranks, or one, from the checkpoint before."""
    ended = _fails(tmp_path / "two", 3, recipe="frozen", trouble="SIGKILL", rank=1, step=7)
    assert [e.code for e in ended] == [2, -9, 2]
    assert _told(ended).startswith("error: rank 1 died (process ")
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    assert older(tmp_path / "two" / CHECKPOINT).exists()
    (tmp_path / "two" / CHECKPOINT).write_bytes(b"damaged")
    _run(tmp_path / "alone", 1, recipe="frozen")
    for size, name in enumerate(("one", "two"), start=1):
        every = _run(tmp_path / name, size, recipe="frozen")
        _assert_same_training(tmp_path / name, tmp_path / "alone")
        assert every == [every[0]] * size


@pytest.mark.parametrize(
    "rank", [pytest.param(0, id="first rank", marks=pytest.mark.slow), pytest.param(1, id="last rank")]
)
def test_ctrl_c_loses_no_bit(rank: int, tmp_path: Path) -> None:
    ended = _fails(tmp_path / "ranks", 2, recipe="local", trouble="SIGINT", rank=rank, step=6)
    assert [(e.code, e.said) for e in ended] == [(130, "interrupted\n"), (130, "")]
    resumed = _run(tmp_path / "ranks", 2, recipe="local")
    whole = _run(tmp_path / "whole", 2, recipe="local")
    assert resumed[0]["weights"] == resumed[1]["weights"] == whole[0]["weights"]
    assert [r[:3] for r in resumed[0]["history"]] == [r[:3] for r in whole[0]["history"]]


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "rank", "message"),
    [
        ("not finite", 1, "error: rank 1: fit: the loss became nan in epoch 0, step 4 .*first so in step 4, on this"),
        ("drift", 1, "error: rank 1: fit: after step 4 weights differ from those of rank 0; no checkpoint was written"),
        ("full disk", 0, "error: rank 0: .*checkpoint.safetensors: cannot be written: No space left on device"),
        ("loader", 1, "error: rank 1: data: the loader died"),
    ],
    ids=["not finite", "drift", "full disk", "loader"],
)
def test_what_fails_on_one_rank_is_told_once(trouble: str, rank: int, message: str, tmp_path: Path) -> None:
    """And costs nothing that was saved."""
    ended = _fails(tmp_path, 2, recipe="frozen", trouble=trouble, rank=rank, step=3)
    assert [e.code for e in ended] == [2, 2]
    assert re.match(message, _told(ended)), _told(ended)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"])["position"]["step"] == 3


@pytest.mark.parametrize(("images", "size", "near"), [(64, 3, "63 or 66"), (4096, 6, "4092 or 4098"), (2, 4, "4")])
def test_a_batch_must_be_for_all_ranks(images: int, size: int, near: str) -> None:
    with pytest.raises(ValueError, match=rf"retrain\.batch_size: {images} images .* {size} ranks .* take {near} \("):
        check_share(replace(PLAIN, batch_size=images), size)
    check_share(replace(PLAIN, batch_size=4 * size), size)


def _small_run(path: Path, **sections: dict[str, Any]) -> Run:
    config = {name: {**CONFIG[name], **values} for name, values in sections.items()}
    path.write_text(yaml.safe_dump({**CONFIG, **config}))
    run = Run(path.parent, load_config(path))
    run.world = SimpleNamespace(size=2)  # type: ignore[assignment]
    return run


def test_a_teacher_that_needs_whole_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.bn: batch normalises whole batches"):
        check_ranks(_small_run(tmp_path / "c.yaml", teacher={"bn": "batch"}))
    check_ranks(_small_run(tmp_path / "c.yaml", teacher={"bn": "batch"}, retrain={"distill_weight": 0.0}))
    check_ranks(_small_run(tmp_path / "c.yaml"))


class _Told:
    """World and file system of a rank that is not the first, which reads `told`."""

    def __init__(self, told: list[str]) -> None:
        self.told, self.is_leader = told, False

    def told_by_leader(self, said: object = None) -> list[str]:
        return self.told


def test_ranks_must_see_the_same_checkpoint(tmp_path: Path) -> None:
    def goes_on(words: str, path: Path) -> None:
        world = _Told([path.name, words])
        RankTraining.go_on(SimpleNamespace(world=world, load=lambda path: "step 3, sha256 b"), tmp_path / "x")  # type: ignore[arg-type]

    path = tmp_path / "c.safetensors"
    with pytest.raises(ValueError, match="rank 0 has this checkpoint; all ranks must see the run directory"):
        goes_on("step 3, sha256 a", path)
    path.touch()
    with pytest.raises(ValueError, match="of step 3, sha256 b here, rank 0 reads step 3, sha256 a"):
        goes_on("step 3, sha256 a", path)
    goes_on("step 3, sha256 b", path)


# ---- parts -----------------------------------------------------------------------------------------------------------


class _Averages:
    """Stands for the ranks' exchanges: notes what was sent when; all ranks have the gradients of this one, twice."""

    replicas = 1

    def __init__(self) -> None:
        self.sent: list[list[Tensor]] = []

    def begin_average(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        self.sent.append(list(tensors))

        def end() -> None:
            for tensor in tensors:
                tensor.mul_(2)

        return end


def test_ranks_and_updates_drop_out_differently() -> None:
    seeds = {
        RankTraining._drop_seed(SimpleNamespace(seed=7, step=step, world=SimpleNamespace(rank=rank)))  # type: ignore[arg-type]
        for step in range(5)
        for rank in range(3)
    }
    assert len(seeds) == 15


def test_gradients_are_sent_in_buckets_while_others_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain_ranks, "BUCKET_BYTES", 4 * (64 + 8))
    model, grid = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))), _Averages()
    buckets = GradientBuckets(list(model.parameters()), grid)  # type: ignore[arg-type]
    assert [len(bucket) for bucket in buckets.buckets] == [2, 2, 2]
    sent_by_then: list[int] = []
    model[0].weight.register_hook(lambda gradient: sent_by_then.append(len(grid.sent)))
    for _ in range(2):
        grid.sent.clear()
        model.zero_grad()
        buckets.begin()
        model(torch.ones(2, 8)).sum().backward()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        buckets.end()
        assert [[g.shape for g in sent] for sent in grid.sent] == [[(8,), (8, 8)]] * 3
        assert all(torch.equal(p.grad, 2 * g) for p, g in zip(model.parameters(), expected, strict=True))  # type: ignore[arg-type]
    assert sent_by_then == [2, 2], "the last layers' gradients did not travel during the backward pass"
    buckets.detach()
    model(torch.ones(2, 8)).sum().backward()
    assert len(grid.sent) == 3


def test_what_has_no_gradient_holds_nothing_up() -> None:
    model, grid = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), _Averages()
    buckets = GradientBuckets(list(model.parameters()), grid)  # type: ignore[arg-type]
    with torch.no_grad():
        x = model[0](torch.ones(2, 8))
    model[1](x).sum().backward()
    buckets.end()
    assert [len(sent) for sent in grid.sent] == [2]


def test_shared_batch_norms_are_torchs_where_there_is_one_rank() -> None:
    """The operators that stand in on the CPU: values, gradients, statistics; in evaluation mode, and taken back."""
    recipe = replace(PLAIN, ema_decay=0.0)
    plain, shared = tiny_model(recipe).double().train(), retrain_norms.share_norms(tiny_model(recipe)).double().train()
    retrain_norms.attach(shared, _OneRank())  # type: ignore[arg-type]
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(shared(images), plain(images), **close)
    for model in (plain, shared):
        model.zero_grad()
        model(images).square().sum().backward()
    for (name, ours), theirs in zip(shared.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **close, msg=name)
    for (name, ours), theirs in zip(shared.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **close, msg=name)
    torch.testing.assert_close(shared.eval()(images), plain.eval()(images), **close)
    retrain_norms.detach(shared)
    assert not any("forward" in module.__dict__ for module in shared.modules())


class _OneRank:
    replicas = 1

    def begin_average(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        return lambda: None


def test_a_rank_without_images_to_judge_counts_none() -> None:
    assert count_correct(tiny_model(PLAIN), TensorLoader(0, 4, training=False)) == (0, 0)
