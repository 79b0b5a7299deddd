"""What a training run is and what it gives: the recipe, and an accuracy that knows its own uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from dna_fast._loop import Loader

# Of timm's optimizers those whose whole state is tensors per parameter, which is what a checkpoint holds.
OPTIMIZERS = ("adam", "adamw", "rmsproptf", "sgd")
SCHEDULES = ("cosine", "step")
AMP_DTYPES = (None, "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How to train; everything that changes the result except model, data and seed.

    Raises:
        ValueError: a field out of range; the message names it.
    """

    epochs: int
    batch_size: int  # images per update that `lr` is meant for; see `with_batch_size`
    lr: float
    optimizer: str = "adamw"
    weight_decay: float = 0.0  # none on biases and norms
    opt_eps: float | None = None  # None: the optimizer's own
    momentum: float = 0.9  # of optimizers that have one
    schedule: str = "cosine"  # per update: "cosine" to zero, or "step" by decay_rate every decay_epochs
    decay_epochs: float = 2.4
    decay_rate: float = 0.97
    warmup_epochs: float = 0.0  # linear, part of `epochs`
    ema_decay: float = 0.0  # 0: no average; ramps up to this, so that short runs do not average their first steps
    label_smoothing: float = 0.0
    drop_rate: float = 0.0  # these two are built into the model: build_model(arch, **recipe.model_args())
    drop_path_rate: float = 0.0
    distill_weight: float = 0.0  # share of the teacher in the loss
    distill_temperature: float = 1.0
    feature_weight: float = 0.0  # of the distance between features and the teacher's, added to the loss
    grad_clip: float = 0.0  # largest norm of the gradient; 0: unlimited
    color_jitter: float | None = None  # these four replace the images' own augmentation; None: that
    erase_prob: float | None = None
    rand_augment: int = 0  # operators per image, half of them applied
    rand_magnitude: float = 9.0  # in 0..10
    mixup: float = 0.0  # parameter of the Beta distribution of shares; 0: never
    cutmix: float = 0.0
    sync_bn: bool = False  # of many ranks: batch norms normalise the batch of all, not each rank's part of it
    amp_dtype: str | None = None  # of the forward pass; weights and losses stay float32
    eval_epochs: int = 1  # evaluate after every so many epochs, and after the last

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_epochs"):
            count = getattr(self, name)
            _require(name, count, isinstance(count, int) and count > 0, "a positive integer")
        for name in ("lr", "decay_epochs", "decay_rate", "distill_temperature"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "> 0")
        for name in (
            "weight_decay",
            "momentum",
            "warmup_epochs",
            "feature_weight",
            "grad_clip",
            "rand_augment",
            "mixup",
            "cutmix",
        ):
            _require(name, getattr(self, name), getattr(self, name) >= 0, ">= 0")
        _require("rand_magnitude", self.rand_magnitude, 0 <= self.rand_magnitude <= 10, "in [0, 10]")
        jitter, erased = self.color_jitter, self.erase_prob
        _require("color_jitter", jitter, jitter is None or jitter >= 0, ">= 0 or None")
        _require("erase_prob", erased, erased is None or 0 <= erased <= 1, "in [0, 1] or None")
        for name in ("ema_decay", "label_smoothing", "drop_rate", "drop_path_rate"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        _require("distill_weight", self.distill_weight, 0 <= self.distill_weight <= 1, "in [0, 1]")
        _require("opt_eps", self.opt_eps, self.opt_eps is None or self.opt_eps > 0, "> 0 or None")
        _require("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        _require("schedule", self.schedule, self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        _require("amp_dtype", self.amp_dtype, self.amp_dtype in AMP_DTYPES, "None or 'bfloat16'")
        _require(
            "warmup_epochs", self.warmup_epochs, self.warmup_epochs < self.epochs, f"less than epochs ({self.epochs})"
        )

    def with_batch_size(self, batch_size: int) -> Recipe:
        """The recipe for another batch size, the learning rate scaled linearly with it."""
        return replace(self, batch_size=batch_size, lr=self.lr * batch_size / self.batch_size)

    def model_args(self) -> dict[str, float]:
        """The part of the recipe that is built into the model, for `build_model` or `timm.create_model`."""
        return {"drop_rate": self.drop_rate, "drop_path_rate": self.drop_path_rate}

    def augmentation(self) -> dict[str, float]:
        """The part of the recipe that the images' training transform takes, by its names there."""
        names = ("color_jitter", "erase_prob", "rand_augment", "rand_magnitude")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def mixes(self) -> bool:
        """Whether images are mixed within their batch."""
        return self.mixup > 0 or self.cutmix > 0


def _require(name: str, value: object, ok: bool, expected: str) -> None:
    if not ok:
        raise ValueError(f"recipe: {name} must be {expected}, got {value!r}")


@dataclass(frozen=True)
class Accuracy:
    """Correct answers out of total."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total == 0:
            raise ValueError(
                f"accuracy: expected 0 <= correct <= total and total > 0, got {self.correct} of {self.total}"
            )

    @property
    def top1(self) -> float:
        """Fraction correct."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `top1`: the sampling error of the images, not the spread between training runs."""
        from scipy.stats import binomtest  # half a second to import, and most runs need it once, at their end

        low, high = binomtest(self.correct, self.total).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.top1:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def evaluate(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> Accuracy:
    """Counts the images whose largest logit is their label's; evaluation mode, float32; the model's mode is restored.

    Args:
        model: images [N, 3, H, W] -> logits [N, classes], on `device`.
        loader: of images not trained on; its epoch 0 is read.
        device: where the batches go.

    Raises:
        ValueError: the loader is empty.
    """
    correct, total = count_correct(model, loader, device)
    if total == 0:
        raise ValueError("evaluate: the loader gave no images; expected at least one batch")
    return Accuracy(correct, total)


@torch.no_grad()  # not inference mode: a loader that works while it iterates may write to tensors made outside
def count_correct(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> tuple[int, int]:
    """(correct, total) as `evaluate` counts them; of no images, as a rank may have, (0, 0)."""
    was_training = model.training
    model.eval()
    try:
        correct, total = torch.zeros((), dtype=torch.int64, device=device), 0
        for batch in loader.epoch(0):
            labels = batch.labels.to(device)
            correct += (model(batch.images.to(device)).argmax(1) == labels).sum()
            total += len(labels)
    finally:
        model.train(was_training)
    return int(correct), total
