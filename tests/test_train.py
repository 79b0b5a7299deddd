"""Training: unsampled operators stay put, interruption changes nothing, one teacher pass a step."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy import SPACE, ToyBatch, ToyLoader, toy_supernet, toy_teacher

from dna_fast.checkpoint import CheckpointStore, Position, find_checkpoint
from dna_fast.config import TrainConfig
from dna_fast.resume import DamagedWarning, Which
from dna_fast.supernet import sample_paths
from dna_fast.train import Problem, Progress, Trainer

CONFIG = TrainConfig(epochs=3, batch_size=16, bn_group=8, learning_rates=(0.01,), reference_batch=16)


def _loader() -> ToyLoader:
    return ToyLoader([16] * 12, seed=4, shuffled=True)


def _trainer(checkpoints: Path | None = None, identity: str = "a", config: TrainConfig = CONFIG) -> Trainer:
    return Trainer(Problem(toy_supernet(), toy_teacher(), config, seed=0, checkpoints=checkpoints, identity=identity))


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


@pytest.mark.parametrize("amp_dtype", [None, "bfloat16"], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("boundary", ["adapter", "wide"])
def test_losses_fall(boundary: str, amp_dtype: Any) -> None:
    config = replace(CONFIG, amp_dtype=amp_dtype)
    trainer = Trainer(Problem(toy_supernet(boundary), toy_teacher(), config, seed=0))
    computed = set()
    for conv in (m for m in trainer.supernet.modules() if isinstance(m, torch.nn.Conv2d)):
        conv.register_forward_hook(lambda _, args, output: computed.add(output.dtype))
    history = trainer.run(_loader())
    assert computed == {torch.bfloat16 if amp_dtype else torch.float32}
    assert all(p.dtype == torch.float32 for p in trainer.supernet.parameters())
    assert [record["epoch"] for record in history] == [0, 1, 2]
    # A wide cell ends in a batch norm, whose output has the teacher's scale from the start; an adapter has to find it.
    factor = {"adapter": 0.7, "wide": 0.9}[boundary]
    for block in range(2):
        assert history[-1]["losses"][block] < factor * history[0]["losses"][block]


def test_operators_that_were_not_drawn_do_not_move() -> None:
    trainer = _trainer()
    images = next(_loader().epoch(0)).images
    for _ in range(2):  # in the second step Adam holds moments of the first one's operators
        before = {name: t.clone() for name, t in _state(trainer).items()}
        drawn = set()
        for b in range(2):
            for c, path in enumerate(sample_paths(SPACE, seed=0, step=trainer.position.step, block=b)):
                drawn |= {f"blocks.{b}.cells.{c}.layers.{depth}.{choice}." for depth, choice in enumerate(path)}
        trainer.step(images)
        after = _state(trainer)
        learnt = [name for name, _ in trainer.supernet.named_parameters()]
        for name in learnt:
            is_trained = ".layers." not in name or any(name.startswith(prefix) for prefix in drawn)
            assert (not torch.equal(before[name], after[name])) == is_trained, name
        for name in after.keys() - learnt:  # moments and step counters, to the last bit; a first step makes them
            if name.endswith((".step", ".exp_avg", ".exp_avg_sq")):
                is_trained = ".layers." not in name or any(name.startswith(prefix) for prefix in drawn)
                assert (name not in before or not torch.equal(before[name], after[name])) == is_trained, name
        trainer.position = type(trainer.position)(step=1)


def test_the_teacher_runs_once_a_step_and_never_trains() -> None:
    trainer = _trainer()
    calls: list[int] = []
    trainer.teacher.register_forward_hook(lambda *_: calls.append(1))
    before = {name: t.clone() for name, t in trainer.teacher.state_dict().items()}
    trainer.step(next(_loader().epoch(0)).images)
    assert len(calls) == 1
    assert all(torch.equal(t, before[name]) for name, t in trainer.teacher.state_dict().items())


@pytest.mark.parametrize("stop_at", [1, 11, 12, 17, 36], ids=lambda s: f"step{s}")
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    whole = _trainer()
    whole.run(_loader())
    first = _trainer(tmp_path)
    stop = _CtrlCAt(first, stop_at)
    handler = signal.getsignal(signal.SIGINT)  # not always Python's own: a background job of a shell ignores Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    assert signal.getsignal(signal.SIGINT) is handler
    second = _trainer(tmp_path)
    assert second.position.step == stop_at
    second.run(_loader())
    _assert_equal(whole, second)
    _assert_equal_history(whole.history, second.history)


def _assert_equal_history(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Everything but times."""
    for key in ("epoch", "losses", "steps"):
        assert [record[key] for record in ours] == [record[key] for record in theirs]


def test_an_interrupted_trainer_can_go_on_itself() -> None:
    whole, stopped = _trainer(), _trainer()
    whole.run(_loader())
    with pytest.raises(KeyboardInterrupt):
        stopped.run(_CtrlCAt(stopped, 17))
    stopped.run(_loader())
    _assert_equal(whole, stopped)
    _assert_equal_history(whole.history, stopped.history)


def test_an_epochs_time_spans_interruptions(tmp_path: Path) -> None:
    first = _trainer(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run(_CtrlCAt(first, 7))
    state = json.loads((tmp_path / "state.json").read_text())
    measured = state["kept"][0]["measured"]
    assert measured["images"] == 7 * 16
    assert 0 < measured["seconds"] < 60
    measured["seconds"] += 1000.0
    (tmp_path / "state.json").write_text(json.dumps(state))
    history = _trainer(tmp_path).run(_loader())
    assert 1000 < history[0]["seconds"] < 1100
    assert history[0]["images_per_s"] == 12 * 16 / history[0]["seconds"]
    assert history[1]["seconds"] < 60


@pytest.mark.parametrize("epoch", [1, 3])
def test_ctrl_c_while_an_epoch_is_saved_ends_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    def save(*args: Any) -> None:
        if args[3] == Position(epoch, 0, 12 * epoch):
            os.kill(os.getpid(), signal.SIGINT)
        save_checkpoint(*args)

    save_checkpoint = CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", save)
    with pytest.raises(KeyboardInterrupt):
        _trainer(tmp_path).run(_loader())
    assert _trainer(tmp_path).position == Position(epoch, 0, 12 * epoch)


@pytest.mark.parametrize("saved_by", ["ctrl_c", "timer"])
@pytest.mark.parametrize("bad", ["loss", "weight"])
def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path, saved_by: str, bad: str) -> None:
    first = _trainer(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run(_CtrlCAt(first, 3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # So short that every step is saved, or so long that none is but by Ctrl-C.
    second = _trainer(tmp_path, config=replace(CONFIG, checkpoint_minutes=1e-9 if saved_by == "timer" else 1e9))
    weight = second.supernet.block(1).cell(0).out_adapter.bias
    if bad == "loss":
        with torch.no_grad():
            weight.fill_(float("nan"))
    else:  # the loss is finite, the step that follows from it is not
        weight.register_hook(lambda gradient: gradient * float("inf"))
    message = (
        "the loss of block 1 became nan" if bad == "loss" else "weights of block 1 are no longer finite after step 4"
    )
    with pytest.raises(RuntimeError, match=message):
        second.run(_CtrlCAt(second, 4) if saved_by == "ctrl_c" else _loader())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


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


def _kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("step_*"))


@pytest.mark.parametrize(("keep", "steps"), [(1, [24]), (2, [24, 24]), (3, [12, 24, 24])], ids=lambda x: f"{x}")
def test_the_newest_checkpoints_and_the_best_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, steps: list[int]
) -> None:
    """Epochs end at steps 12, 24 and 36; the middle one is made the best."""
    config = replace(CONFIG, keep_checkpoints=keep)
    trainer = _trainer(tmp_path, config=config)
    monkeypatch.setattr(
        "dna_fast.checkpoint_state._losses", lambda record: [1.0, {0: 1.0, 1: 0.25, 2: 0.5}[record["epoch"]]]
    )
    trainer.run(_loader())
    assert _kept(tmp_path) == sorted({f"step_{step:08d}" for step in (*steps, 36)})
    assert json.loads((tmp_path / "state.json").read_text())["best"] == "step_00000024"
    best, last = (find_checkpoint(tmp_path, "a", which) for which in (Which.BEST, Which.LAST))
    assert best is not None
    assert last is not None
    assert (best.position, last.position) == (Position(2, 0, 24), Position(3, 0, 36))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", *_kept(tmp_path)]


def test_the_best_epoch_is_judged_by_every_block_alike(tmp_path: Path) -> None:
    """Relative to the first epoch: a block whose features are a hundred times as large does not decide alone."""
    _trainer(tmp_path, config=replace(CONFIG, keep_checkpoints=3)).run(_loader())
    state = json.loads((tmp_path / "state.json").read_text())
    losses = [[100.0, 1.0], [98.0, 0.5], [97.0, 0.9]]  # sums fall to the end; relative to the first 1, 0.74 and 0.935
    for entry in state["kept"]:
        for record, replaced in zip(entry["measured"]["history"], losses, strict=False):
            record["losses"] = replaced
    (tmp_path / "state.json").write_text(json.dumps(state))
    best = find_checkpoint(tmp_path, "a", Which.BEST)
    assert best is not None
    assert best.position.epoch == 2
    assert best.relative_loss == pytest.approx(0.74)


def test_no_epoch_is_the_best_before_one_is_finished(tmp_path: Path) -> None:
    first = _trainer(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run(_CtrlCAt(first, 3))
    with pytest.raises(ValueError, match="no epoch is finished yet, so none is the best"):
        find_checkpoint(tmp_path, "a", Which.BEST)


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


DAMAGE = {
    "truncated": r"block_1\.safetensors: cannot be read",
    "missing": r"block_1\.safetensors: cannot be read",
    "directory": "step_00000036: no such directory",
    "bit": r"block_1\.safetensors: damaged, its bytes are not those that were written",
    "pickle": r"block_1\.safetensors: cannot be read",
}


def _damage(root: Path, how: str) -> None:
    block = root / "step_00000036" / "block_1.safetensors"
    whole = bytearray(block.read_bytes())
    if how == "truncated":
        block.write_bytes(whole[:1000])
    elif how == "missing":
        block.unlink()
    elif how == "bit":  # of a weight: the file is as long, and as readable, as before
        whole[-3] ^= 1
        block.write_bytes(whole)
    elif how == "pickle":
        torch.save({"weight.x": torch.zeros(1)}, block)
    else:
        block.parent.rename(root / "elsewhere")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """Trained to the end, with checkpoints of steps 24 and 36; tests must not change either."""
    root = tmp_path_factory.mktemp("trained")
    trainer = _trainer(root)
    trainer.run(_loader())
    assert _kept(root) == ["step_00000024", "step_00000036"]
    return trainer, root


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named(trained: tuple[Trainer, Path], tmp_path: Path, how: str) -> None:
    root = Path(shutil.copytree(trained[1], tmp_path / "copy"))
    state = json.loads((root / "state.json").read_text())
    (root / "state.json").write_text(json.dumps({**state, "kept": state["kept"][:1]}))
    _damage(root, how)
    with pytest.raises(ValueError, match=f"{DAMAGE[how]}.*; restore it from a copy, or delete"):
        _trainer(root)


@pytest.mark.parametrize("how", DAMAGE)
def test_an_older_checkpoint_takes_the_place_of_a_damaged_one_to_the_same_end(
    trained: tuple[Trainer, Path], tmp_path: Path, how: str
) -> None:
    whole, root = trained[0], Path(shutil.copytree(trained[1], tmp_path / "copy"))
    _damage(root, how)
    with pytest.warns(DamagedWarning, match=f"{DAMAGE[how]}.*Taken instead: .*step_00000024, step 24"):
        again = _trainer(root)
    assert again.position == Position(2, 0, 24)
    assert [record["epoch"] for record in again.history] == [0, 1]
    again.run(_loader())
    _assert_equal(whole, again)
    _assert_equal_history(whole.history, again.history)
    assert find_checkpoint(root, "a") is not None  # and no warning: the damaged one was written anew


def test_a_checkpoint_of_version_1_is_continued_and_kept_in_version_2(tmp_path: Path) -> None:
    whole, first = _trainer(), _trainer(tmp_path)
    whole.run(_loader())
    with pytest.raises(KeyboardInterrupt):
        first.run(_CtrlCAt(first, 17))
    state = json.loads((tmp_path / "state.json").read_text())
    newest = {name: state["kept"][0][name] for name in ("directory", "position", "measured")}
    old = {"format": state["format"], "version": 1, "identity": state["identity"], **newest}
    (tmp_path / "state.json").write_text(json.dumps(old))
    second = _trainer(tmp_path)
    assert second.position.step == 17
    second.run(_loader())
    _assert_equal(whole, second)
    assert json.loads((tmp_path / "state.json").read_text())["version"] == 2


ENTRY_KEYS = {
    "": ("directory", "position", "measured"),
    "position.": ("epoch", "batch", "step"),
    "measured.": ("history", "losses", "images", "seconds"),
}
KEYS = ["version", "identity", "kept"]
KEYS += [f"kept[0].{prefix}{name}" for prefix, names in ENTRY_KEYS.items() for name in names]


def _write_state(root: Path, key: str, *value: Any) -> None:
    """A good state.json and its directory, but for one dotted key: another value, or none."""
    entry: dict[str, Any] = {
        "directory": "step_00000036",
        "position": {"epoch": 3, "batch": 0, "step": 36},
        "measured": {"history": [{}, {}, {}], "losses": [0.0, 0.0], "images": 0, "seconds": 0.0},
        "files": {},
    }
    state: dict[str, Any] = {"format": "dna_fast.supernet", "version": 2, "identity": "a", "kept": [entry]}
    (root / "step_00000036").mkdir()
    for b in range(2):
        save_file({}, root / "step_00000036" / f"block_{b}.safetensors")
    (root / "state.json").write_text(json.dumps(state))
    assert find_checkpoint(root, "a") is not None
    *outer, name = key.removeprefix("kept[0].").split(".")
    record = entry if key.startswith("kept[0].") else state
    record = record[outer[0]] if outer else record
    del record[name]
    if value:
        record[name] = value[0]
    (root / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("key", KEYS)
def test_a_state_without_a_key_is_named(tmp_path: Path, key: str) -> None:
    _write_state(tmp_path, key)
    with pytest.raises(
        ValueError, match=rf"state\.json: damaged, {re.escape(key)} must be of type \w+, got 'None'; restore it"
    ):
        _trainer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("version", "1", "version must be of type int"),
        ("identity", None, "identity must be of type str"),
        ("kept", [], "kept must be a list of checkpoints"),
        ("kept", [3], "kept must be a list of checkpoints"),
        ("kept[0].directory", "../step_1", "kept[0].directory must be step_<n>, got '../step_1'"),
        ("kept[0].files", {"block_0.safetensors": 1}, "kept[0].files must be names and their sha256"),
        ("kept[0].directory", 7, "kept[0].directory must be of type str"),
        ("kept[0].position", [1, 2, 3], "kept[0].position must be of type dict"),
        ("kept[0].position.epoch", True, "kept[0].position.epoch must be of type int"),
        ("kept[0].position.batch", 1.5, "kept[0].position.batch must be of type int"),
        ("kept[0].position.step", -1, "kept[0].position.step must not be negative, got '-1'"),
        ("kept[0].measured.history", [1, 2, 3], "kept[0].measured.history must be a list of records"),
        ("kept[0].measured.history", [], "kept[0].measured.history must hold 3 records"),
        ("kept[0].measured.losses", [0.0, "0"], "kept[0].measured.losses and seconds must be finite numbers"),
        ("kept[0].measured.losses", [0.0, float("nan")], "kept[0].measured.losses and seconds must be finite numbers"),
        ("kept[0].measured.losses", [0.0], "measured.losses must hold 2 sums, got 1"),
    ],
)
def test_a_state_with_a_wrong_value_is_named(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    _write_state(tmp_path, key, value)
    with pytest.raises(ValueError, match=rf"state\.json: damaged, {re.escape(expected)}"):
        _trainer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": "other"}'])
def test_a_file_that_is_no_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state\.json: (damaged|not a supernet checkpoint)"):
        _trainer(tmp_path)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": "dna_fast.supernet", "version": 3}')
    with pytest.raises(ValueError, match=r"written by a newer dna_fast \(version 3"):
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
