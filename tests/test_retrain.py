"""Training of classifiers: it learns, goes on bit for bit, distils what the formula says, and complains in words."""

from __future__ import annotations

import errno
import json
import math
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from dna_fast.architecture import Architecture
from dna_fast.export import build_model
from dna_fast.recipe import Accuracy, Recipe, evaluate
from dna_fast.resume import DamagedWarning
from dna_fast.retrain import fit
from dna_fast.retrain_step import EpochRecord, StepRecord, distillation_loss, older
from dna_fast.space import Block, Cell, Choice, Frame, SearchSpace

SPACE = SearchSpace(
    "tiny",
    (Choice(3, 2),),
    (Block(2, (Cell(2, 8),)),),
    Frame(stem_channels=8, stem_width=4, head_channels=16, num_classes=4, resolution=16),
)
RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, drop_rate=0.2, drop_path_rate=0.2, ema_decay=0.9, warmup_epochs=1)
LEARNING = replace(RECIPE, epochs=24, drop_rate=0.0, drop_path_rate=0.0, eval_epochs=10)


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor
    indices: Tensor


def true_logits(images: Tensor) -> Tensor:
    """The right answer for an image of TensorLoader."""
    red, green = images.mean((2, 3))[:, :2].unbind(1)
    return 5 * torch.stack((-red - green, red - green, green - red, red + green), 1)


class TensorLoader:
    """Noisy images; the class says whether their red, and whether their green, is bright or dark."""

    def __init__(self, num_images: int, batch_size: int, *, training: bool, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(num_images) % 4
        images = torch.randn(num_images, 3, 16, 16, generator=generator)
        for bit in (0, 1):
            images[:, bit] += (2 * (self.labels >> bit & 1) - 1)[:, None, None]
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.num_images, self.batch_size, self.training, self.seed = num_images, batch_size, training, seed

    def __len__(self) -> int:
        return self.num_images // self.batch_size if self.training else -(-self.num_images // self.batch_size)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        order = torch.arange(self.num_images)
        if self.training:
            order = torch.randperm(self.num_images, generator=torch.Generator().manual_seed(self.seed * 1000 + epoch))
        for indices in order.split(self.batch_size)[start_batch : len(self)]:
            yield Batch(self.images[indices], self.labels[indices], indices)


TRAIN, EVAL = TensorLoader(44, 8, training=True), TensorLoader(21, 8, training=False, seed=5)


def tiny_model(recipe: Recipe = RECIPE) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_model(Architecture.from_space(SPACE, [0]), **recipe.model_args())


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def stopping_after(step: int) -> object:
    """A progress callback during which somebody presses Ctrl-C."""

    def on_step(record: StepRecord) -> None:
        if record.step >= step:
            signal.raise_signal(signal.SIGINT)

    return on_step


# ---- learning -------------------------------------------------------------------------------------------------------


def test_it_learns_and_reports() -> None:
    model, steps, epochs = tiny_model(LEARNING), list[StepRecord](), list[EpochRecord]()
    result = fit(model, TRAIN, EVAL, LEARNING, seed=0, on_step=steps.append, on_epoch=epochs.append)
    assert result.accuracy.top1 > 0.9
    assert result.accuracy == evaluate(model, EVAL)
    assert not model.training
    assert result.history == tuple(epochs)
    assert result.history[-1].loss < 0.2 < result.history[0].loss
    assert [record.epoch for record in epochs if record.accuracy is not None] == [9, 19, 23]
    assert [(record.step, record.total_steps) for record in steps] == [(10 * i, 120) for i in range(1, 13)]
    assert result.seconds > 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsproptf", "sgd"])
@pytest.mark.parametrize("stop_after", [10, 11], ids=["at-an-epoch-border", "inside-an-epoch"])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, optimizer: str, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_fast.retrain.LOG_STEPS", 1)
    recipe = replace(RECIPE, optimizer=optimizer)
    whole, halves = tiny_model(), tiny_model()
    expected = fit(whole, TRAIN, EVAL, recipe, seed=3)
    path = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(halves, TRAIN, EVAL, recipe, seed=3, checkpoint=path, on_step=stopping_after(stop_after))  # type: ignore[arg-type]
    steps = list[StepRecord]()
    resumed = tiny_model()
    result = fit(resumed, TRAIN, EVAL, recipe, seed=3, checkpoint=path, on_step=steps.append)
    assert steps[0].step == stop_after + 1
    assert same_weights(whole, resumed)
    assert [(r.loss, r.lr, r.accuracy) for r in result.history] == [
        (r.loss, r.lr, r.accuracy) for r in expected.history
    ]
    assert {*path.parent.iterdir()} == {path, older(path)}


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = tiny_model(), tiny_model()
    result = fit(first, TRAIN, EVAL, RECIPE, seed=3, checkpoint=tmp_path / "c")
    again = fit(second, TRAIN, EVAL, RECIPE, seed=3, checkpoint=tmp_path / "c")
    assert again == result
    assert same_weights(first, second)


def test_ctrl_c_without_a_checkpoint_finishes_the_update_and_restores_the_handler() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=3, on_step=stopping_after(10))  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_seed_decides_and_the_callers_random_state_stays() -> None:
    models = [tiny_model() for _ in range(3)]
    before = torch.random.get_rng_state()
    for model, seed in zip(models, (3, 3, 4), strict=True):
        fit(model, TRAIN, EVAL, replace(RECIPE, epochs=2), seed=seed)
        torch.rand(1)
    torch.random.set_rng_state(before)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])
    fit(models[0], TRAIN, EVAL, replace(RECIPE, epochs=2), seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_average_follows_its_formula() -> None:
    recipe = replace(RECIPE, drop_rate=0.0, drop_path_rate=0.0, epochs=2, ema_decay=0.6)
    plain, averaged = tiny_model(recipe), tiny_model(recipe)
    snapshots = list[Tensor]()

    class Watching(TensorLoader):
        def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(epoch, start_batch):
                yield batch
                snapshots.append(plain.conv_head.weight.detach().clone())  # after the update on this batch

    fit(plain, Watching(44, 8, training=True), EVAL, replace(recipe, ema_decay=0.0), seed=0)
    fit(averaged, TRAIN, EVAL, recipe, seed=0)
    expected = snapshots[0]
    for step, weight in enumerate(snapshots[1:], start=2):
        decay = min(1 - step ** (-2 / 3), 0.6)  # the ramp: after n updates about n^(2/3) of them count
        expected = decay * expected + (1 - decay) * weight
    assert len(snapshots) == 10
    torch.testing.assert_close(averaged.conv_head.weight.detach(), expected)


def test_learning_rate_warms_up_and_steps_down() -> None:
    recipe = replace(
        RECIPE, epochs=6, schedule="step", decay_epochs=2.0, decay_rate=0.5, warmup_epochs=2, lr=0.008, optimizer="sgd"
    )
    history = fit(tiny_model(), TRAIN, EVAL, recipe, seed=0).history
    # 5 updates an epoch: the last of epoch e is update 5 e + 4, of 10 that warm up
    expected = [0.008 * 0.4, 0.008 * 0.9, 0.004, 0.004, 0.002, 0.002]
    assert [record.lr for record in history] == pytest.approx(expected, rel=1e-3)


# ---- loss -----------------------------------------------------------------------------------------------------------


def test_distillation_gradient_follows_the_hand_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(5, 7, generator=generator) for _ in range(2))
    labels = torch.randint(7, (5,), generator=generator)
    recipe = replace(RECIPE, distill_weight=0.3, distill_temperature=4.0, label_smoothing=0.1)
    logits.requires_grad_()
    distillation_loss(logits, labels, teacher, recipe).backward()
    with torch.no_grad():
        smoothed = 0.9 * F.one_hot(labels, 7) + 0.1 / 7
        hard = logits.softmax(1) - smoothed
        soft = (logits / 4).softmax(1) - (teacher / 4).softmax(1)  # x T^2 x 1/T
        expected = (0.7 * hard + 0.3 * 4.0 * soft) / 5
    torch.testing.assert_close(logits.grad, expected)


def test_a_student_distils_from_a_teacher_that_knows_more() -> None:
    recipe = replace(LEARNING, distill_weight=1.0)

    wrong = TensorLoader(44, 8, training=True)
    wrong.labels = (wrong.labels + 1) % 4
    assert fit(tiny_model(recipe), wrong, EVAL, recipe, seed=0, teacher_logits=true_logits).accuracy.top1 > 0.9


def test_mixed_images_teach_as_well() -> None:
    recipe = replace(LEARNING, mixup=0.2, cutmix=1.0)
    assert fit(tiny_model(recipe), TRAIN, EVAL, recipe, seed=0).accuracy.top1 > 0.9


def test_mixing_survives_an_interruption(tmp_path: Path) -> None:
    recipe = replace(RECIPE, mixup=0.2, cutmix=1.0)
    whole, resumed, plain = (tiny_model() for _ in range(3))
    fit(whole, TRAIN, EVAL, recipe, seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, TRAIN, EVAL, recipe, seed=0, checkpoint=tmp_path / "c", on_step=stopping_after(10))  # type: ignore[arg-type]
    fit(resumed, TRAIN, EVAL, recipe, seed=0, checkpoint=tmp_path / "c")
    assert same_weights(whole, resumed)
    fit(plain, TRAIN, EVAL, RECIPE, seed=0)
    assert not same_weights(whole, plain)


def test_bfloat16_forward_learns_and_keeps_float32_weights() -> None:
    recipe = replace(LEARNING, amp_dtype="bfloat16", grad_clip=1.0)
    model = tiny_model(recipe)
    assert fit(model, TRAIN, EVAL, recipe, seed=0).accuracy.top1 > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# ---- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_wilsons(correct: int, total: int, low: float, high: float) -> None:
    assert Accuracy(correct, total).interval == pytest.approx((low, high), abs=5e-5)


def test_accuracy_reads_well() -> None:
    assert str(Accuracy(355, 360)) == "98.6 % [96.8, 99.4]"
    assert Accuracy(1, 4).top1 == 0.25
    for correct, total in ((0, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="expected 0 <= correct <= total"):
            Accuracy(correct, total)


def test_evaluate_counts_the_last_partial_batch_and_restores_the_mode() -> None:
    class Oracle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return true_logits(images)

    model = Oracle().train()
    assert evaluate(model, EVAL) == Accuracy(21, 21)
    assert model.training
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, TensorLoader(0, 8, training=False))


def test_results_are_plain_json() -> None:
    result = fit(tiny_model(), TRAIN, EVAL, replace(RECIPE, epochs=2, eval_epochs=2), seed=0)
    data = result.to_dict()
    assert data["accuracy"]["total"] == 21
    assert data["accuracy"]["interval_95"] == list(result.accuracy.interval)
    assert [record["accuracy"] is None for record in data["history"]] == [True, False]


# ---- recipes and refusals -------------------------------------------------------------------------------------------


def test_learning_rate_scales_with_the_batch() -> None:
    published = Recipe(epochs=500, batch_size=4096, lr=0.256)
    assert published.with_batch_size(512) == replace(published, batch_size=512, lr=0.032)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"lr": math.nan}, "lr must be > 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"opt_eps": 0.0}, "opt_eps must be > 0 or None, got 0.0"),
        ({"optimizer": "adamm"}, "optimizer must be one of adam, adamw, rmsproptf, sgd, got 'adamm'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, step, got 'linear'"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"distill_weight": 1.1}, r"distill_weight must be in \[0, 1\], got 1.1"),
        ({"warmup_epochs": 4}, r"warmup_epochs must be less than epochs \(4\), got 4"),
        ({"amp_dtype": "float16"}, "amp_dtype must be None or 'bfloat16', got 'float16'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_recipes_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


def test_what_does_not_fit_the_recipe_is_refused() -> None:
    def refused(message: str, *, recipe: Recipe = RECIPE, loader: TensorLoader = TRAIN, **arguments: object) -> None:
        with pytest.raises(ValueError, match=message):
            fit(tiny_model(), loader, EVAL, recipe, seed=0, **arguments)  # type: ignore[arg-type]

    refused(r"use recipe\.with_batch_size\(11\)", loader=TensorLoader(44, 11, training=True))
    refused("fewer images than one batch of 8", loader=TensorLoader(7, 8, training=True))
    refused("no teacher_logits were given", recipe=replace(RECIPE, distill_weight=0.5))
    refused("distill_weight is 0.0 but teacher_logits were given", teacher_logits=lambda images: images)
    refused("model drop_rate 0.2 and a drop path", recipe=replace(RECIPE, drop_path_rate=0.0))
    refused(
        r"must give \(8, 4\) like the model, got \(8, 3\)",
        recipe=replace(RECIPE, distill_weight=0.5),
        teacher_logits=lambda images: images.new_zeros(len(images), 3),
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Turning(TensorLoader):
        def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(epoch, start_batch):
                yield batch if epoch < 1 else replace(batch, images=batch.images * math.nan)

    path = tmp_path / "checkpoint"
    with pytest.raises(RuntimeError, match=r"loss became nan in epoch 1, step 10 .*lr 0\.0\d+; try a lower lr"):
        fit(tiny_model(), Turning(44, 8, training=True), EVAL, RECIPE, seed=0, checkpoint=path)
    with safe_open(path, "pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118 (not a dict)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=path)

    def refused(message: str, recipe: Recipe = RECIPE, seed: int = 0, model: nn.Module | None = None) -> None:
        with pytest.raises(ValueError, match=message):
            fit(model or tiny_model(), TRAIN, EVAL, recipe, seed=seed, checkpoint=path)

    refused(r"another run \(lr is 0\.01, here 0\.02; seed is 0, here 7\)", replace(RECIPE, lr=0.02), seed=7)
    other = build_model(Architecture.from_space(SPACE, [0]), num_classes=5, **RECIPE.model_args())
    refused("checkpoint of another model", model=other)
    older(path).unlink()
    path.write_bytes(b"\x00" * 5)
    refused("damaged checkpoint .* delete it to train from the start")


def _flip_a_bit_of_a_weight(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.unlink()  # its bytes may have an older name as well
    path.write_bytes(whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    path, model, again = tmp_path / "checkpoint.safetensors", tiny_model(), tiny_model()
    expected = fit(model, TRAIN, EVAL, RECIPE, seed=0, checkpoint=path)
    _flip_a_bit_of_a_weight(path)
    seen: list[int] = []
    step = (RECIPE.epochs - 1) * len(TRAIN)
    with pytest.warns(DamagedWarning, match=rf"its tensors are not those.*\. Taken instead: .*older.*, step {step}$"):
        result = fit(
            again, TRAIN, EVAL, RECIPE, seed=0, checkpoint=path, on_epoch=lambda record: seen.append(record.epoch)
        )
    assert seen == [RECIPE.epochs - 1], "only what came behind the older checkpoint is trained again"
    assert [r.loss for r in result.history] == [r.loss for r in expected.history]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamagedWarning)
        fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=path)


def test_checkpoints_that_are_all_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=path)
    _flip_a_bit_of_a_weight(path)
    older(path).write_bytes(b"short")
    words = (
        r"checkpoint: a damaged checkpoint \(its tensors are not those .*; .*older: a damaged checkpoint .* delete it"
    )
    with pytest.raises(ValueError, match=words):
        fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=path)


def test_a_file_system_without_hard_links_keeps_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, checkpoint=tmp_path / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_weight_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The loss of the update that made it was finite."""
    model, path = tiny_model(), tmp_path / "checkpoint"

    def spoil(record: EpochRecord) -> None:
        before.append(path.read_bytes())
        model.conv_head.weight.register_hook(lambda gradient: gradient * math.inf)

    before = list[bytes]()
    with pytest.raises(RuntimeError, match=r"weights are no longer finite after step 6 .*no checkpoint was written"):
        fit(model, TRAIN, EVAL, RECIPE, seed=0, checkpoint=path, checkpoint_minutes=1e-9, on_epoch=spoil)
    assert [path.read_bytes()] == before


def test_a_long_epoch_is_saved_now_and_then(tmp_path: Path) -> None:
    """Killed within its first epoch, without a chance to save, a run goes on from there."""

    class Killed(TensorLoader):
        def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            yield from list(super().epoch(epoch, start_batch))[:3]
            raise ZeroDivisionError

    whole, resumed, path = tiny_model(), tiny_model(), tmp_path / "checkpoint"
    fit(whole, TRAIN, EVAL, RECIPE, seed=3)
    with pytest.raises(ZeroDivisionError):
        fit(tiny_model(), Killed(44, 8, training=True), EVAL, RECIPE, seed=3, checkpoint=path, checkpoint_minutes=1e-9)
    state = json.loads(safe_open(path, "pt").metadata()["state"])
    assert state["position"]["batch"] == 3
    fit(resumed, TRAIN, EVAL, RECIPE, seed=3, checkpoint=path)
    assert same_weights(whole, resumed)
