"""The sections of a configuration: every key with its type, default, unit and meaning, and what keys of a section ask of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dna_fast.config_schema import (
    BELOW_ONE,
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    TENTHS,
    ConfigError,
    Section,
    check_bounds,
    key,
    parse_quantity,
    unknown_key,
)

ARCH_KEYS = ("arch_def", "stem_size", "num_features")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where images come from."""

    section: ClassVar[str] = "data"
    kind: Literal["digits", "folder", "list"] = key(
        "digits: the embedded data set; folder: a directory of images per class; list: text files that name images."
    )
    root: str | None = key(
        "folder: the directory that holds train/ and eval_dir; digits: where images are written, null: below the run; "
        "list: what paths in the lists are relative to, null: each list's directory.",
        None,
        in_identity=False,
        is_path=True,
    )
    eval_dir: str = key("folder: the directory in root that holds the evaluation images.", "val", in_identity=False)
    train_list: str | None = key(
        "list: a text file with a path and a label per line.", None, in_identity=False, is_path=True
    )
    eval_list: str | None = key("list: the same of the evaluation images.", None, in_identity=False, is_path=True)
    on_bad: Literal["error", "skip"] = key(
        "An image that cannot be read: stop and name it, or go on without it, counted and logged.",
        "error",
        in_identity=False,
    )
    index_dir: str | None = key(
        "Where is kept what image files were seen to be (dna-fast data check writes it, too); null: below the run.",
        None,
        in_identity=False,
        is_path=True,
    )
    threads: int | None = key(
        "Threads that decode images; null: as many as a short measurement finds best.",
        None,
        unit="threads",
        rule=POSITIVE,
        in_identity=False,
    )
    prefetch: int | None = key(
        "Batches that are decoded ahead; null: measured, too.", None, unit="batches", rule=POSITIVE, in_identity=False
    )
    device: Literal["cpu", "cuda"] = key("Where images are decoded; the decoders differ in the last bit.", "cpu")

    def check(self) -> None:
        if self.kind == "folder" and self.root is None:
            raise ConfigError("data.root", f"kind: folder needs a directory with train/ and {self.eval_dir}/, got null")
        for name in ("train_list", "eval_list"):
            if self.kind == "list" and getattr(self, name) is None:
                raise ConfigError(
                    f"data.{name}", "kind: list needs a text file with a path and a label per line, got null"
                )


@dataclass(frozen=True, kw_only=True)
class FitConfig(Section):
    """Training the teacher before the supernet, where none is to be had."""

    section: ClassVar[str] = "teacher.fit"
    epochs: int = key("Passes over the training images.", 30, unit="epochs", rule=POSITIVE)
    lr: float = key("Peak learning rate (AdamW, cosine to zero).", 3e-3, unit="per step", rule=POSITIVE)
    weight_decay: float = key("Decoupled weight decay.", 1e-2, unit="per step and lr", rule=NOT_NEGATIVE)
    batch_size: int = key("Images per step.", 64, unit="images", rule=POSITIVE)
    warmup_epochs: float = key("Linear rise of the learning rate.", 2.0, unit="epochs", rule=NOT_NEGATIVE)
    ema_decay: float = key(
        "Moving average of the weights that is kept; 0: none.", 0.99, unit="per step", rule=BELOW_ONE
    )
    min_accuracy: float = key(
        "Top-1 accuracy on the evaluation images below which the run stops.",
        0.0,
        unit="fraction",
        rule=FRACTION,
        in_identity=False,
    )

    def check(self) -> None:
        _check_warmup(self)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Section):
    """The network whose features the student blocks reproduce."""

    section: ClassVar[str] = "teacher"
    model: str = key("A timm model; ignored where arch is given.", "tf_efficientnet_b7.aa_in1k")
    pretrained: bool = key("Start from timm's weights (downloaded once).", True)
    checkpoint: str | None = key(
        "A file of weights for model instead (.safetensors).", None, in_identity=False, is_path=True
    )
    cuts: tuple[str, ...] | None = key("Names of the modules behind which to cut, one per block; null: proposed.", None)
    bn: Literal["eval", "batch"] = key("Batch norm: running statistics, or those of each batch as released.", "eval")
    compile: bool = key(
        "Training runs the teacher through torch.compile; blocks placed on different ranks cannot.",
        False,
        in_identity=False,
    )
    arch: Mapping[str, Any] | None = key(
        "A timm EfficientNet of one's own instead of model: arch_def (a list per stage of timm's layer strings), "
        "stem_size and num_features (channels).",
        None,
    )
    fit: FitConfig | None = key("Train the arch first; null: do not, an arch keeps its random weights.", None)

    def check(self) -> None:
        if self.cuts is not None and not self.cuts:
            raise ConfigError("teacher.cuts", "expected null or one module name per block, got an empty list")
        if self.compile and self.bn == "batch":
            raise ConfigError("teacher.compile", "needs teacher.bn: eval, got batch; set one of them to its default")
        if self.arch is not None:
            _check_arch(self.arch)
            if self.pretrained:
                raise ConfigError("teacher.pretrained", "a custom arch has no pretrained weights; set it to false")
            if self.checkpoint is not None:
                problem = "is read for a timm model only; set it to null, or name a teacher.model instead of an arch"
                raise ConfigError("teacher.checkpoint", problem)
        elif self.fit is not None:
            problem = (
                f"trains a custom arch, and none is given; set it to null to use {self.model}, or give teacher.arch"
            )
            raise ConfigError("teacher.fit", problem)


@dataclass(frozen=True, kw_only=True)
class SupernetConfig(Section):
    """The student with all its candidates."""

    section: ClassVar[str] = "supernet"
    boundary: Literal["adapter", "wide"] = key(
        "How blocks meet the teacher's widths: adapters that fold away, or widened layers as released.", "adapter"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Training all student blocks; the defaults are the paper's."""

    section: ClassVar[str] = "train"
    epochs: int = key("Passes over the training images.", 20, unit="epochs", rule=POSITIVE)
    batch_size: int = key("Images per step.", 512, unit="images", rule=POSITIVE)
    bn_group: int = key("Images whose statistics a batch norm shares.", 64, unit="images", rule=POSITIVE)
    learning_rates: tuple[float, ...] = key(
        "Adam's, one per block or one for all, at reference_batch.",
        (0.002, 0.005, 0.005, 0.005, 0.005, 0.002),
        unit="per step",
        rule=POSITIVE,
    )
    reference_batch: int = key(
        "Learning rates are multiplied by batch_size / reference_batch.", 512, unit="images", rule=POSITIVE
    )
    lr_decay: float = key("Factor on the learning rates.", 0.9, unit="per epoch", rule=DECAY)
    weight_decay: float = key("Adam's coupled L2, not on biases and norms.", 1e-4, unit="per step", rule=NOT_NEGATIVE)
    amp_dtype: Literal["bfloat16"] | None = key("Type of mixed-precision arithmetic; null: float32.", None)
    placement: str = key(
        "Which of several ranks (torchrun) trains what: auto, the fastest by measured costs; data, each all blocks on a part of every "
        "batch; block, each some blocks; a grid such as 2x4, stages of blocks x data; or the blocks of each stage, 3+2+1 or 3+2+1x2.",
        "auto",
        in_identity=False,
    )
    checkpoint_minutes: float = key("Time between checkpoints.", 10.0, unit="minutes", rule=POSITIVE, in_identity=False)
    keep_checkpoints: int = key(
        "How many of the supernet's newest checkpoints are kept; the best finished epoch's is kept besides.",
        2,
        unit="checkpoints",
        rule=POSITIVE,
        in_identity=False,
    )

    def check(self) -> None:
        if self.batch_size > self.bn_group and self.batch_size % self.bn_group:
            expected = f"a multiple of train.bn_group = {self.bn_group}, or less"
            raise ConfigError("train.batch_size", f"expected {expected}, got {self.batch_size}")
        if not self.learning_rates:
            raise ConfigError("train.learning_rates", "expected one number per block or one for all, got none")


@dataclass(frozen=True, kw_only=True)
class RateConfig(Section):
    """Rating every candidate. Rated images are held out from training, so their number belongs to the identity."""

    section: ClassVar[str] = "rate"
    metric: Literal["relative_l1", "mse", "relative_mse", "mean_relative_l1"] = key(
        "Distance between student and teacher.", "relative_l1", in_identity=False
    )
    mode: Literal["trie", "per_path", "official"] = key(
        "trie: each operator prefix once; per_path: every path on its own, slow, the check of trie; official: as released, "
        "calibrated again for every path and rated batch, slower still, to compare with.",
        "trie",
        in_identity=False,
    )
    max_memory: int | str | None = key(
        "What features of operator prefixes may take at once in mode trie, such as 4G; weights and scratch, some 70 MiB, come on top. "
        "null: half of what is free. Ratings on the CPU do not depend on it.",
        None,
        unit="bytes",
        in_identity=False,
    )
    batch_size: int = key("Images per rated batch.", 64, unit="images", rule=POSITIVE, in_identity=False)
    images: int = key("Rated images.", 1216, unit="images", rule=POSITIVE)
    calibration_images: int = key(
        "Images that batch-norm statistics are computed from.", 512, unit="images", rule=POSITIVE, in_identity=False
    )

    def check(self) -> None:
        if self.images % self.batch_size:
            expected = f"a multiple of rate.batch_size = {self.batch_size}"
            raise ConfigError("rate.images", f"expected {expected}, got {self.images}")
        if self.max_memory is not None:
            try:
                size = parse_quantity(self.max_memory)
            except ValueError as error:
                raise ConfigError("rate.max_memory", str(error)) from error
            if size == 0:
                raise ConfigError("rate.max_memory", f"expected > 0 bytes, got {self.max_memory!r}")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Section):
    """Choosing the architecture. Bounds are whole numbers, text such as 460M, or for macs a share such as teacher/3."""

    section: ClassVar[str] = "search"
    max: Mapping[str, int | str] = key("Upper bound (inclusive) per cost.", dict, unit="the cost's", in_identity=False)
    min: Mapping[str, int | str] = key("Lower bound (inclusive) per cost.", dict, unit="the cost's", in_identity=False)
    top: int = key("How many of the best to report.", 5, unit="architectures", rule=POSITIVE, in_identity=False)

    def check(self) -> None:
        check_bounds("search.max", self.max)
        check_bounds("search.min", self.min)


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(Section):
    """Training the networks that are compared, all alike; the defaults are the paper's."""

    section: ClassVar[str] = "retrain"
    epochs: int = key("Passes over the training images.", 500, unit="epochs", rule=POSITIVE)
    optimizer: Literal["rmsproptf", "adamw", "sgd"] = key("timm's name of the optimizer.", "rmsproptf")
    opt_eps: float | None = key("Epsilon of the optimizer; null: its own.", 1e-3, unit="gradient", rule=POSITIVE)
    lr: float = key("Peak learning rate at batch_size.", 0.256, unit="per step", rule=POSITIVE)
    schedule: Literal["cosine", "step"] = key(
        "Learning rate per step: cosine to zero, or decay_rate every decay_epochs.", "step"
    )
    decay_epochs: float = key("Of schedule: step.", 2.4, unit="epochs", rule=POSITIVE)
    decay_rate: float = key("Of schedule: step.", 0.97, unit="per decay_epochs", rule=DECAY)
    weight_decay: float = key("Weight decay, not on biases and norms.", 1e-5, unit="per step", rule=NOT_NEGATIVE)
    batch_size: int = key("Images per step, of all ranks together.", 4096, unit="images", rule=POSITIVE)
    warmup_epochs: float = key("Linear rise of the learning rate.", 5.0, unit="epochs", rule=NOT_NEGATIVE)
    ema_decay: float = key("Moving average of the weights; 0: none.", 0.9998, unit="per step", rule=BELOW_ONE)
    label_smoothing: float = key("Share of the target spread over all classes.", 0.1, unit="fraction", rule=BELOW_ONE)
    drop_rate: float = key("Dropout before the classifier.", 0.2, unit="probability", rule=BELOW_ONE)
    drop_path_rate: float = key("Stochastic depth of the last layer.", 0.2, unit="probability", rule=BELOW_ONE)
    distill_weight: float = key("Share of the loss against the teacher's logits.", 0.0, unit="fraction", rule=FRACTION)
    distill_temperature: float = key("Softens both logits.", 1.0, unit="logits", rule=POSITIVE)
    feature_weight: float = key(
        "Weight of the distance to the teacher's features, mse / var, mean over blocks, through 1x1 projections; 0: none.",
        0.0,
        unit="loss",
        rule=NOT_NEGATIVE,
    )
    color_jitter: float | None = key(
        "Brightness, contrast and saturation change by up to this share; null: 0.4, of digits 0.2.",
        None,
        unit="fraction",
        rule=NOT_NEGATIVE,
    )
    erase_prob: float | None = key(
        "Images of which a rectangle becomes noise; null: 0.5, of digits 0.", None, unit="probability", rule=FRACTION
    )
    rand_augment: int = key(
        "RandAugment's operators per image, of which half are applied; 0: none.",
        0,
        unit="operators",
        rule=NOT_NEGATIVE,
    )
    rand_magnitude: float = key("Their mean strength.", 9.0, unit="tenths", rule=TENTHS)
    mixup: float = key("Parameter of mixup's Beta distribution; 0: none.", 0.0, unit="shape", rule=NOT_NEGATIVE)
    cutmix: float = key(
        "The same of CutMix; with both, each batch takes one of them.", 0.0, unit="shape", rule=NOT_NEGATIVE
    )
    sync_bn: bool = key("Of several ranks: batch norms normalise the batch of all, not each rank's part.", False)
    amp_dtype: Literal["bfloat16"] | None = key("Type of mixed-precision arithmetic; null: float32.", None)
    head_epochs: int = key(
        "With inherited weights: how many of the epochs come first and train the head alone.",
        5,
        unit="epochs",
        rule=POSITIVE,
    )
    random_baselines: int = key(
        "Random architectures of the winner's macs (within 1 %), retrained alike.",
        1,
        unit="architectures",
        rule=NOT_NEGATIVE,
    )
    largest: bool = key("Retrain the architecture of most macs in the space, too.", True)

    def check(self) -> None:
        _check_warmup(self)


def _check_warmup(recipe: FitConfig | RetrainConfig) -> None:
    if recipe.warmup_epochs >= recipe.epochs:
        expected = f"less than {recipe.dotted('epochs')} = {recipe.epochs}"
        raise ConfigError(recipe.dotted("warmup_epochs"), f"expected {expected}, got {recipe.warmup_epochs}")


def _check_arch(arch: Mapping[str, Any]) -> None:
    for name in arch:
        if name not in ARCH_KEYS:
            raise ConfigError(f"teacher.arch.{name}", unknown_key(name, ARCH_KEYS))
    for name in ARCH_KEYS:
        if name not in arch:
            raise ConfigError(f"teacher.arch.{name}", "missing, and has no default")
    for name in ("stem_size", "num_features"):
        if type(arch[name]) is not int or arch[name] <= 0:
            raise ConfigError(f"teacher.arch.{name}", f"expected a whole number > 0 of channels, got {arch[name]!r}")
    stages = arch["arch_def"]
    lists = isinstance(stages, list | tuple) and stages and all(isinstance(s, list | tuple) and s for s in stages)
    if not lists or not all(isinstance(layers, str) for stage in stages for layers in stage):
        raise ConfigError("teacher.arch.arch_def", f"expected a list per stage of timm's layer strings, got {stages!r}")
