"""One declarative YAML file says everything about a run; this module reads, checks, resolves and identifies it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from dna_fast._files import written_aside
from dna_fast._names import ALIKE, nearest
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
    resolve_quantity,
    unknown_key,
)
from dna_fast.config_yaml import parse_yaml, to_yaml
from dna_fast.placement import check_words
from dna_fast.space import PRESETS, SearchSpace, preset

__all__ = [
    "ConfigError",
    "DataConfig",
    "FitConfig",
    "RateConfig",
    "RetrainConfig",
    "RunConfig",
    "SearchConfig",
    "SupernetConfig",
    "TeacherConfig",
    "TrainConfig",
    "load_config",
    "parse_quantity",
    "resolve_quantity",
    "shipped_config",
]

ARCH_KEYS = ("arch_def", "stem_size", "num_features")
SPACE_SUFFIXES = (".json", ".yaml", ".yml")
# setup.py copies the checkout's configs/ into the package when it builds a wheel; an editable install has only the former.
SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


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
    arch: Mapping[str, Any] | None = key(
        "A timm EfficientNet of one's own instead of model: arch_def (a list per stage of timm's layer strings), "
        "stem_size and num_features (channels).",
        None,
    )
    fit: FitConfig | None = key("Train the arch first; null: do not, an arch keeps its random weights.", None)

    def check(self) -> None:
        if self.cuts is not None and not self.cuts:
            raise ConfigError("teacher.cuts", "expected null or one module name per block, got an empty list")
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


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Everything about a run. However it is made, it is checked, and its learning rates are one per block."""

    name: str = key("Name of the run in reports.", in_identity=False)
    seed: int = key("Seed of everything random.", 0, unit="seed", rule=NOT_NEGATIVE)
    device: Literal["auto", "cpu", "cuda"] = key(
        "Where to compute; auto: the GPU if torch can use one.", "auto", in_identity=False
    )
    space: str | Mapping[str, Any] = key("A preset, a .json or .yaml file, or the space itself.")
    data: DataConfig = key("Images.")
    teacher: TeacherConfig = key("Teacher.", TeacherConfig)
    supernet: SupernetConfig = key("Student.", SupernetConfig)
    train: TrainConfig = key("Training of the student blocks.", TrainConfig)
    rate: RateConfig = key("Rating.", RateConfig)
    search: SearchConfig = key("Search.", SearchConfig, in_identity=False)
    retrain: RetrainConfig = key("Retraining.", RetrainConfig, in_identity=False)

    def check(self) -> None:
        space = _checked_space(self.space)
        blocks, rates = len(space.blocks), self.train.learning_rates
        if len(rates) not in (1, blocks):
            expected = f"1 or {blocks} numbers (one per block of the space)"
            raise ConfigError("train.learning_rates", f"expected {expected}, got {len(rates)}")
        if len(rates) != blocks:
            object.__setattr__(self, "train", replace(self.train, learning_rates=rates * blocks))
        try:
            check_words(self.train.placement, blocks)
        except ValueError as error:
            raise ConfigError("train.placement", str(error)) from error
        if self.teacher.cuts is not None and len(self.teacher.cuts) != blocks:
            raise ConfigError("teacher.cuts", f"expected {blocks} names (one per block), got {len(self.teacher.cuts)}")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> RunConfig:
        for error in _misplaced(cls, data, [dotted for dotted, _ in cls.declared_keys()]):
            raise error  # only from here all sections can be seen
        return super().from_mapping(data)

    @classmethod
    def problems(cls, data: Mapping[str, Any], elsewhere: Iterable[str] = ()) -> list[ConfigError]:
        found = super().problems(data, [*elsewhere, *(dotted for dotted, _ in cls.declared_keys())])
        if any(error.key.startswith("space") for error in found):
            return found
        try:  # where another key is wrong, `check` has not come to the space
            _checked_space(data["space"])
        except ConfigError as error:
            found.append(error)
        return found

    def search_space(self) -> SearchSpace:
        """The space that `space` names or spells out."""
        return preset(self.space) if isinstance(self.space, str) else SearchSpace.from_dict(self.space)

    def dump(self, path: str | Path) -> None:
        """Writes the resolved configuration, every key, as YAML that `load_config` reads back as the same."""
        with written_aside(path) as aside:
            aside.write_text(to_yaml(self.to_dict()), encoding="utf-8")

    def identity(self) -> str:
        """sha256 of all that determines the trained supernet weights, but for the content of images and teacher.

        Where files lie is left out, for they may move: their content has identities of its own, the data set's
        fingerprint in `splits.npz` and the teacher weights' sha256 in `teacher.json`.
        """
        identifying = self.identifying() | {"space": self.search_space().sha256}
        return hashlib.sha256(json.dumps(identifying, sort_keys=True).encode()).hexdigest()


def _checked_space(given: str | Mapping[str, Any]) -> SearchSpace:
    if isinstance(given, str) and given not in PRESETS:
        known = f"a preset ({', '.join(PRESETS)}), a {', '.join(SPACE_SUFFIXES)} file, or a mapping"
        near = nearest(given, PRESETS, least=ALIKE)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError("space", f"expected {known}, got {given!r}{hint}")
    try:
        return preset(given) if isinstance(given, str) else SearchSpace.from_dict(given)
    except ValueError as error:
        raise ConfigError("space", str(error).removeprefix("space: ")) from error


def _misplaced(section: type[Section], data: Mapping[str, Any], keys: Sequence[str]) -> Iterator[ConfigError]:
    """Unknown and missing keys of a section and those inside it; `keys` are all that there are, dotted."""
    yield from section.own_problems(data, keys)
    for f in fields(section):
        inner, value = section.inner(f.name), data.get(f.name)
        if inner is not None and isinstance(value, Mapping):
            yield from _misplaced(inner, value, keys)


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


# ---- files -----------------------------------------------------------------------------------------------------------


def shipped_config(name: str) -> Path:
    """Finds a configuration that comes with the package, in a wheel's package or in the checkout.

    Args:
        name: without suffix, such as ``digits``.

    Raises:
        ValueError: not one of them; the message lists them.
    """
    shipped = shipped_configs()
    if name not in shipped:
        raise ValueError(f"expected the name of a shipped configuration ({', '.join(shipped)}), got {name!r}")
    return shipped[name]


def shipped_configs() -> dict[str, Path]:
    """Name -> file of every configuration that comes with the package."""
    directory = next((d for d in SHIPPED if d.is_dir()), SHIPPED[0])
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads, overrides, resolves and checks a configuration.

    Args:
        path: a YAML file; paths in it are relative to its directory.
        overrides: each 'dotted.key=value' with a YAML value; paths in them are relative to the working directory.

    Returns:
        The configuration with absolute paths and, where the space came from a file, the space itself.

    Raises:
        ValueError: the file or an override is not valid; the message names file or override, dotted key and what to do.
    """
    path = Path(path)
    data, given = read_given(path, overrides)
    try:
        return RunConfig.from_mapping(data)
    except ConfigError as error:
        raise ValueError(f"{blamed(error, path, given)}: {error}") from error


@dataclass(frozen=True)
class Override:
    """One --set: what it says, and what was said before it."""

    text: str
    key: str
    value: Any
    replaced: Any = MISSING  # MISSING: nobody had said anything
    by_override: bool = False  # whether the replaced value came from an earlier one


def read_given(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[Override, ...]]:
    """What file and overrides say together, unchecked but with absolute paths, and what each override did.

    Raises:
        ValueError: not a mapping, or not an override; the message names which.
    """
    source = f"{path}"
    given: list[Override] = []
    try:
        data = _read_mapping(path)
        _anchor_paths(data, path.parent)
        for text in overrides:
            source = f"override {text!r}"
            given.append(_override(data, text, given))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return data, tuple(given)


def blamed(error: ConfigError, path: Path, given: Sequence[Override]) -> str:
    """Who said what is wrong: the last override of a key below or above it, else the file."""
    at = f"{error.key.partition('[')[0]}."
    guilty = [o.text for o in given if at.startswith(f"{o.key}.") or o.key.startswith(at)]
    return f"override {guilty[-1]!r}" if guilty else f"{path}"


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"no such file; examples: {', '.join(map(str, shipped_configs().values()))}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not text in UTF-8 ({error.reason} at byte {error.start}); is it a configuration?") from error
    if data is None:
        raise ValueError(
            f"expected a mapping with {', '.join(f.name for f in fields(RunConfig))}, got an empty file (None)"
        )
    if not isinstance(data, dict):
        raise ValueError(f"expected a mapping with {', '.join(f.name for f in fields(RunConfig))}, got {data!r}")
    return data


def _override(data: dict[str, Any], text: str, earlier: Sequence[Override]) -> Override:
    """Puts one override into `data`."""
    dotted, equals, value = text.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or "" in names:
        raise ValueError("expected 'dotted.key=value', such as train.epochs=3")
    key = ".".join(names)
    # Alone first: its paths are relative to the working directory, those in the file are not.
    alone: dict[str, Any] = {}
    _section_of(alone, names)[names[-1]] = parse_yaml(value)
    _anchor_paths(alone, Path.cwd())
    new, section = _section_of(alone, names)[names[-1]], _section_of(data, names)
    before = section.get(names[-1], MISSING)
    section[names[-1]] = new
    return Override(text, key, new, before, any(key == o.key for o in earlier))


def _section_of(data: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The mapping that holds the last of `names`; missing ones on the way are made."""
    at = data
    for depth, name in enumerate(names[:-1], start=1):
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
        if not isinstance(at, dict):
            raise ValueError(
                f"{'.'.join(names[:depth])} is {at!r}, so it has no key {names[depth]!r}; give it as a whole"
            )
    return at


def _anchor_paths(data: dict[str, Any], base: Path) -> None:
    """Makes relative paths absolute, and a space file the space itself: the result means the same everywhere."""
    for dotted, declared in RunConfig.declared_keys():
        section: Any = data
        *names, last = dotted.split(".")
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        if declared.metadata["is_path"] and isinstance(section, dict) and isinstance(section.get(last), str):
            section[last] = os.path.abspath(base / Path(section[last]).expanduser())
    space = data.get("space")
    if isinstance(space, str) and space not in PRESETS and space.endswith(SPACE_SUFFIXES):
        data["space"] = _read_space(base / Path(space).expanduser()).to_dict()


def _read_space(path: Path) -> SearchSpace:
    try:
        if path.suffix == ".json":
            return SearchSpace.from_file(path)
        return SearchSpace.from_dict(parse_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError("space", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError("space", f"in {path}: {error}") from error
