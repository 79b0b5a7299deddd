"""Where training's time goes: shares that add up, no waiting for the device in the loop, losses of cells, profiles."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import SPACE, ToyBatch, ToyLoader, toy_supernet, toy_teacher

from dna_fast import train_log
from dna_fast.config import TrainConfig
from dna_fast.ops import feature_mse
from dna_fast.step_clock import PARTS, StepClock
from dna_fast.supernet import sample_paths
from dna_fast.train import LOG_STEPS, Problem, Progress, Trainer
from dna_fast.train_profile import SKIPPED, STEPS, WARM_UP, profiled

CONFIG = TrainConfig(epochs=1, batch_size=16, bn_group=8, learning_rates=(0.01,), reference_batch=16)


def _trainer(config: TrainConfig = CONFIG) -> Trainer:
    return Trainer(Problem(toy_supernet(), toy_teacher(), config, seed=0))


# ---- the clock -------------------------------------------------------------------------------------------------------


def test_all_time_between_readings_is_somebodys() -> None:
    clock = StepClock(torch.device("cpu"))
    start = time.perf_counter()
    clock.restart()
    time.sleep(0.03)
    clock.mark("loader")
    time.sleep(0.01)
    with clock.part("teacher"):
        time.sleep(0.02)  # the 10 ms before count as well: nothing else was marked
    times = clock.read()
    elapsed = time.perf_counter() - start
    assert set(times.seconds) == set(PARTS)
    assert sum(times.shares.values()) == pytest.approx(1.0)
    assert 0.06 <= times.total_s <= elapsed
    assert times.seconds["loader"] >= 0.03
    assert times.seconds["teacher"] >= 0.03
    assert times.seconds["students"] == 0.0
    assert times.summary().startswith("loader ")
    assert "students" not in times.summary()


def test_a_reading_begins_the_next_stretch() -> None:
    clock = StepClock(torch.device("cpu"))
    clock.mark("teacher")
    clock.read()
    assert clock.read().total_s == 0.0
    assert set(clock.read().shares.values()) == {0.0}
    clock.mark("students")
    times = clock.read()
    assert times.seconds["students"] == times.total_s > 0


class _Event:
    """A CUDA event's stand-in: a device whose clock moves 1 ms with every event, and that counts who waits."""

    now_ms, waits = 0.0, 0

    def record(self) -> None:
        _Event.now_ms += 1.0
        self.at_ms = _Event.now_ms

    def synchronize(self) -> None:
        _Event.waits += 1

    def elapsed_time(self, later: _Event) -> float:
        return later.at_ms - self.at_ms


def test_on_a_gpu_marks_are_events_and_only_readings_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def event(enable_timing: bool) -> _Event:
        assert enable_timing
        made.append(_Event())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(_Event, "waits", 0)
    clock = StepClock(torch.device("cuda"))
    for stretch in range(3):
        for _ in range(10):
            clock.mark("loader")
            clock.mark("teacher")
            clock.mark("students")
        assert _Event.waits == stretch
        times = clock.read()
        assert _Event.waits == stretch + 1
        # Each mark is a millisecond after the one before, those behind a reading included.
        assert times.seconds == pytest.approx(dict.fromkeys(PARTS, 0.0) | dict.fromkeys(PARTS[:3], 0.010))
    assert len(made) == 31  # used again


# ---- in training -----------------------------------------------------------------------------------------------------


class _SlowLoader(ToyLoader):
    """Takes its time over every batch."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
        for batch in super().epoch(epoch, start_batch):
            time.sleep(0.05)
            yield batch


def test_training_tells_where_its_time_goes() -> None:
    reports: list[Progress] = []
    trainer = _trainer()
    start = time.perf_counter()
    trainer.run(_SlowLoader([16] * (2 * LOG_STEPS + 3)), reports.append)
    elapsed = time.perf_counter() - start
    totals = [p.times.total_s for p in reports]
    assert [p.position.step for p in reports] == [LOG_STEPS, 2 * LOG_STEPS, 2 * LOG_STEPS + 3]
    for p in reports:
        assert sum(p.times.shares.values()) == pytest.approx(1.0)
        assert p.times.seconds["teacher"] > 0
        assert p.times.seconds["students"] > 0
    assert [p.times.seconds["loader"] >= 0.05 * n for p, n in zip(reports, (10, 10, 3), strict=True)] == [True] * 3
    assert sum(totals) <= elapsed
    # What is not told is what lies before the first batch is asked for and behind the last report.
    assert sum(totals) >= 0.8 * elapsed


class _Reads(TorchDispatchMode):
    """Counts what would make a host wait for its device: values that become Python numbers, and lists of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def _forbid_reads(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> None:
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        real = getattr(torch.Tensor, name)

        def spy(self: Any, *args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            found.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)


@pytest.mark.parametrize("amp_dtype", [None, "bfloat16"], ids=["float32", "bfloat16"])
def test_nothing_waits_for_the_device_between_readings(monkeypatch: pytest.MonkeyPatch, amp_dtype: Any) -> None:
    """A GPU's way through the loop, walked on the CPU: feature_mse asks for a value there only, so it is told not to."""
    module = sys.modules[feature_mse.__module__]
    monkeypatch.setattr(module, "_may_hand_over", lambda grad_loss: False)
    config = TrainConfig(
        epochs=1, batch_size=16, bn_group=8, learning_rates=(0.01,), reference_batch=16, amp_dtype=amp_dtype
    )
    steps, found, counts = 2 * LOG_STEPS + 3, [], []
    trainer = _trainer(config)

    class Loader(ToyLoader):
        def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ToyBatch]:
            for batch in super().epoch(epoch, start_batch):
                counts.append(reads.count + len(found))
                yield batch

    loader = Loader([16] * steps)
    _forbid_reads(monkeypatch, found)
    with _Reads() as reads:
        trainer.run(loader, lambda _: None)
    # Before the batches 0 to 9 nothing was read; once after each LOG_STEPS steps, by two lists: of blocks and of cells.
    per_reading = counts[LOG_STEPS] - counts[LOG_STEPS - 1]
    assert per_reading > 0  # so the spies see
    expected = [number // LOG_STEPS * per_reading for number in range(steps)]
    assert counts == expected


def test_losses_of_cells_are_means_whose_mean_is_the_blocks() -> None:
    reports: list[Progress] = []
    trainer = _trainer()
    trainer.run(ToyLoader([16] * 2 * LOG_STEPS), reports.append)
    for p in reports[:2]:
        assert [len(cells) for cells in p.cell_losses] == [len(block.cells) for block in SPACE.blocks]
        for loss, cells in zip(p.losses, p.cell_losses, strict=True):
            assert len(set(cells)) == len(cells)
            # Means over steps and over cells in either order: float32 sums of 10 and of 2 terms.
            assert loss == pytest.approx(sum(cells) / len(cells), rel=20 * 2**-24)


def test_a_loss_of_a_cell_is_that_of_its_path() -> None:
    trainer = _trainer()
    images = next(ToyLoader([16]).epoch(0)).images
    features = trainer.teacher(images)
    trainer.supernet.train()
    with torch.no_grad():
        block = trainer.supernet.block(1)
        outputs = block(features[0], sample_paths(SPACE, seed=0, step=0, block=1))
        expected = [(out.double() - features[1].double()).square().mean().item() for out in outputs]
    trainer.step(images)
    assert trainer.learners[1].take_cell_losses().tolist() == pytest.approx(expected, rel=1e-5)
    assert trainer.learners[1].take_cell_losses().isnan().all()


def test_features_reach_every_block_without_a_copy() -> None:
    trainer = _trainer()
    made: list[int] = []
    got: list[tuple[int, int]] = []
    for name in trainer.teacher.plan.names:
        trainer.teacher.model.get_submodule(name).register_forward_hook(
            lambda _, args, out: made.append(out.data_ptr()), prepend=True
        )
    for learner in trainer.learners:
        step = learner.step

        def watched(x: Any, target: Any, number: int, step: Any = step) -> Any:
            got.append((x.data_ptr(), target.data_ptr()))
            return step(x, target, number)

        learner.step = watched  # type: ignore[method-assign]
    images = next(ToyLoader([16]).epoch(0)).images
    trainer.step(images)
    assert got == [(images.data_ptr(), made[0]), (made[0], made[1])]


def test_the_log_has_a_value_for_every_column() -> None:
    reports: list[Progress] = []
    _trainer().run(ToyLoader([16] * LOG_STEPS), reports.append)
    row = train_log.row(reports[0], SPACE)
    assert tuple(row) == train_log.columns(SPACE)
    assert sum(value for name, value in row.items() if name.startswith("share_")) == pytest.approx(1.0, abs=5e-4)
    assert row["gpu_bytes"] == 0
    remarks = train_log.remarks(reports[0])
    assert " images/s (" in remarks
    assert "students " in remarks
    assert "GiB" not in remarks


# ---- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_is_a_readable_trace_of_a_few_steps(tmp_path: Path) -> None:
    loader, plain, watched = ToyLoader([16] * 7), _trainer(), _trainer()
    plain.run(loader)
    with profiled(loader, tmp_path / "profile") as profiled_loader:
        assert len(profiled_loader) == 7
        watched.run(profiled_loader)
    for name, weight in plain.supernet.state_dict().items():
        assert torch.equal(weight, watched.supernet.state_dict()[name]), name
    events = json.loads((tmp_path / "profile" / "train.pt.trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert names.count("dna_fast: teacher") == names.count("dna_fast: students") == STEPS
    assert "dna_fast::feature_mse" in names
    assert "aten::convolution_backward" in (tmp_path / "profile" / "operators.txt").read_text()


def test_a_loop_too_short_to_be_profiled_says_so(tmp_path: Path) -> None:
    loader = ToyLoader([16] * (SKIPPED + WARM_UP))
    expected = pytest.raises(RuntimeError, match="--profile: expected more than 3 steps")
    with expected, profiled(loader, tmp_path) as watched:
        _trainer().run(watched)
