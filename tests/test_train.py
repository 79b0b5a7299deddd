"""Training: unsampled operators stay put, interruption changes nothing, one teacher pass a step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dna_fast.config import TrainConfig
from dna_fast.supernet import sample_paths
from dna_fast.train import Progress, Trainer
from tests.toy import SPACE, ToyBatch, ToyLoader, toy_supernet, toy_teacher

CONFIG = TrainConfig(epochs=3, batch_size=16, bn_group=8, learning_rates=(0.01,), reference_batch=16)


def _loader() -> ToyLoader:
    return ToyLoader([16] * 12, seed=4, shuffled=True)


def _trainer(checkpoints: Path | None = None, identity: str = "a", config: TrainConfig = CONFIG) -> Trainer:
    return Trainer(toy_supernet(), toy_teacher(), config, seed=0, checkpoints=checkpoints, identity=identity)


def _state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights and optimizer moments, by name."""
    state = dict(trainer.supernet.state_dict())
    for name, p in trainer.supernet.named_parameters():
        for optimizer in trainer.optimizers:
            state.update({f"{name}.{key}": value for key, value in optimizer.state.get(p, {}).items()})
    return state


def _assert_equal(a: Trainer, b: Trainer) -> None:
    ours, theirs = _state(a), _state(b)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert torch.equal(x, theirs[name]), name


def test_losses_fall() -> None:
    history = _trainer().run(_loader())
    assert [record["epoch"] for record in history] == [0, 1, 2]
    for block in range(2):
        assert history[-1]["losses"][block] < 0.7 * history[0]["losses"][block]


def test_operators_that_were_not_drawn_do_not_move() -> None:
    trainer = _trainer()
    images = next(_loader().epoch(0)).images
    for _ in range(2):  # in the second step Adam holds moments of the first one's operators
        before = {name: p.clone() for name, p in trainer.supernet.named_parameters()}
        drawn = set()
        for b in range(2):
            for c, path in enumerate(sample_paths(SPACE, seed=0, step=trainer.position.step, block=b)):
                drawn |= {f"blocks.{b}.cells.{c}.layers.{depth}.{choice}." for depth, choice in enumerate(path)}
        trainer.step(images)
        for name, p in trainer.supernet.named_parameters():
            moved = not torch.equal(before[name], p)
            is_operator = ".layers." in name
            assert moved == (not is_operator or any(name.startswith(prefix) for prefix in drawn)), name
        trainer.position = type(trainer.position)(step=1)


def test_the_teacher_runs_once_a_step_and_never_trains() -> None:
    trainer = _trainer()
    calls: list[int] = []
    trainer.teacher.register_forward_hook(lambda *_: calls.append(1))
    before = {name: t.clone() for name, t in trainer.teacher.state_dict().items()}
    trainer.step(next(_loader().epoch(0)).images)
    assert len(calls) == 1
    assert all(torch.equal(t, before[name]) for name, t in trainer.teacher.state_dict().items())


@pytest.mark.parametrize("stop_at", [1, 11, 12, 17], ids=lambda s: f"step{s}")
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = _trainer()
    whole.run(_loader())
    first = _trainer(tmp_path)
    stop = _CtrlCAt(first, stop_at)
    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = _trainer(tmp_path)
    assert second.position.step == stop_at
    second.run(_loader())
    _assert_equal(whole, second)


class _CtrlCAt(ToyLoader):
    """Sends the process a real Ctrl-C while the given step's batch is being loaded."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        super().__init__([16] * 12, seed=4, shuffled=True)
        self.trainer, self.step = trainer, step

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for batch in super().epoch(epoch, start_batch):
            if self.trainer.position.step == self.step - 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    _trainer(tmp_path).run(_loader())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "step_00000036"]


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    done = _trainer(tmp_path)
    done.run(_loader())
    again = _trainer(tmp_path)
    assert again.run(_loader()) == done.history
    _assert_equal(done, again)


def test_learning_rates_scale_and_decay() -> None:
    config = TrainConfig(
        epochs=2, batch_size=16, bn_group=8, learning_rates=(0.02, 0.05), reference_batch=32, lr_decay=0.5
    )
    trainer = _trainer(config=config)
    seen: list[tuple[float, ...]] = []
    record = lambda _: seen.append(tuple(o.param_groups[0]["lr"] for o in trainer.optimizers))  # noqa: E731
    trainer.run(ToyLoader([16] * 10, shuffled=True), record)
    assert seen[0] == (0.01, 0.025)
    assert seen[-1] == (0.005, 0.0125)
    assert [[g["weight_decay"] for g in o.param_groups] for o in trainer.optimizers] == [[1e-4, 0.0]] * 2


def test_progress_reports() -> None:
    seen: list[Progress] = []
    _trainer().run(_loader(), seen.append)
    assert seen[-1].position.step == seen[-1].total_steps == 36
    assert all(p.images_per_s > 0 and len(p.losses) == 2 for p in seen)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    _trainer(tmp_path).run(_loader())
    with pytest.raises(ValueError, match="belongs to another configuration"):
        _trainer(tmp_path, identity="b")


@pytest.mark.parametrize("damage", ["truncated", "missing", "json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    _trainer(tmp_path).run(_loader())
    block = tmp_path / "step_00000036" / "block_1.safetensors"
    if damage == "truncated":
        block.write_bytes(block.read_bytes()[:1000])
    elif damage == "missing":
        block.unlink()
    else:
        (tmp_path / "state.json").write_text("{")
    with pytest.raises(
        ValueError, match="state.json: damaged" if damage == "json" else r"block_1.safetensors: cannot be read"
    ):
        _trainer(tmp_path)


def test_a_loss_that_is_not_finite_is_named() -> None:
    trainer = _trainer()
    with torch.no_grad():
        trainer.supernet.block(1).cell(0).out_adapter.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="the loss of block 1 became nan"):
        trainer.run(_loader())


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"expected one or 2 \(one per block\), got 3"):
        _trainer(config=TrainConfig(epochs=1, batch_size=16, bn_group=8, learning_rates=(0.1, 0.1, 0.1)))
    with pytest.raises(ValueError, match="fewer images than one batch of 16"):
        _trainer().run(type("Empty", (), {"batch_size": 16, "__len__": lambda _: 0})())
