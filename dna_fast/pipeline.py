"""A run: one configuration, one directory, and the stages that fill it. Every stage starts from files that earlier ones left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dna_fast._files import read_json, write_json, written_aside
from dna_fast.config import RunConfig, load_config
from dna_fast.space import SearchSpace

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dna_fast.architecture import Architecture
    from dna_fast.data import DaliLoader, ImageIndex
    from dna_fast.rate import OnProgress as OnRateProgress
    from dna_fast.recipe import Recipe
    from dna_fast.retrain import FitResult, StepRecord
    from dna_fast.supernet import Supernet
    from dna_fast.tables import CostTable, RatingTable
    from dna_fast.teacher import Teacher
    from dna_fast.train import OnProgress as OnTrainProgress

    OnStep = Callable[[StepRecord], None]


@dataclass(frozen=True)
class DataSet:
    """The images of a run."""

    train: ImageIndex
    evaluation: ImageIndex
    splits: Mapping[str, np.ndarray[Any, Any]]  # rating, calibration, rest: indices into `train`


class Run:
    """One run directory.

    Args:
        directory: where everything is kept.
        config: what to do; its resolved form is `config.yaml` in the directory.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory, self.config = directory, config

    @classmethod
    def start(cls, config_path: str | Path, directory: str | Path, overrides: Sequence[str] = ()) -> Run:
        """Begins a run, or goes on with the one in `directory` if its configuration is the same.

        Raises:
            ValueError: an invalid configuration, or a directory that belongs to another one.
        """
        directory = Path(directory)
        config = load_config(config_path, overrides)
        stored = directory / "config.yaml"
        if stored.exists() and (other := load_config(stored)).identity() != config.identity():
            raise ValueError(
                f"{directory}: holds a run of another configuration (identity {other.identity()[:12]}, "
                f"this one is {config.identity()[:12]}); choose another --out, or use its own configuration {stored}"
            )
        directory.mkdir(parents=True, exist_ok=True)
        config.dump(stored)
        return cls(directory, config)

    @classmethod
    def open(cls, directory: str | Path) -> Run:
        """Opens a run that was started before.

        Raises:
            ValueError: the directory holds no run.
        """
        directory = Path(directory)
        if not (directory / "config.yaml").exists():
            raise ValueError(
                f"{directory}: not a run directory (no config.yaml); start one with: dna-fast train CONFIG --out {directory}"
            )
        return cls(directory, load_config(directory / "config.yaml"))

    # ---- what stages share ------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> SearchSpace:
        return self.config.search_space()

    @cached_property
    def device(self) -> torch.device:
        """The GPU if there is one, else the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def data(self) -> DataSet:
        """Scans (and for the embedded data set writes) the images and splits them; the split is stored with the run."""
        from dna_fast.data import ImageIndex, class_balanced_split, write_digits

        config = self.config.data
        if config.kind == "digits":
            root = write_digits(config.root or self.directory / "digits", size=self.space.frame.resolution)
            train, evaluation = ImageIndex.scan(root / "train"), ImageIndex.scan(root / "test")
        else:
            assert config.root is not None  # the configuration was validated
            train, evaluation = (ImageIndex.scan(Path(config.root) / part) for part in ("train", config.eval_dir))
        if train.classes != evaluation.classes:
            odd = sorted(set(train.classes) ^ set(evaluation.classes))
            raise ValueError(
                f"data: training and evaluation images must have the same classes; only in one of them: {', '.join(odd[:10])}"
            )
        counts = {"rating": self.config.rate.images, "calibration": self.config.rate.calibration_images}
        splits = class_balanced_split(train.labels, counts, self.config.seed)
        self._store_splits(splits, train.fingerprint())
        return DataSet(train, evaluation, splits)

    def _store_splits(self, splits: Mapping[str, np.ndarray[Any, Any]], fingerprint: str) -> None:
        """Keeps the split; refuses images that differ from those the run began with."""
        path = self.directory / "splits.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                if str(stored["fingerprint"]) != fingerprint:
                    raise ValueError(
                        f"data: the training images are not those this run began with ({path}); restore them, or start anew"
                    )
            return
        with written_aside(path) as aside, open(aside, "wb") as file:
            np.savez(
                file, fingerprint=np.array(fingerprint), rating=splits["rating"], calibration=splits["calibration"]
            )

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        from dna_fast.data import EvalTransform, TrainTransform, digits_transforms

        size = self.space.frame.resolution
        if self.config.data.kind == "digits":
            return digits_transforms(size)
        found = self.teacher_model_config
        shared = {"mean": found["mean"], "std": found["std"], "interpolation": found["interpolation"]}
        return TrainTransform(size, **shared), EvalTransform(size, crop_pct=found["crop_pct"], **shared)

    @cached_property
    def teacher_model_config(self) -> Mapping[str, Any]:
        """mean, std, crop_pct and interpolation that the teacher was trained with."""
        import timm.data

        return timm.data.resolve_model_data_config(self.config.teacher.model)  # type: ignore[no-any-return]

    def loader(self, index: ImageIndex, batch_size: int, *, training: bool) -> DaliLoader:
        """A DALI loader over an index with this run's transforms."""
        from dna_fast.data import DaliLoader

        transform = self._transforms[0 if training else 1]
        config = self.config.data
        return DaliLoader(
            index,
            transform,
            batch_size=batch_size,
            seed=self.config.seed,
            training=training,
            device=config.device,
            threads=config.threads,
        )

    # ---- teacher ----------------------------------------------------------------------------------------------------

    def teacher(self, on_step: OnStep | None = None) -> Teacher:
        """The teacher, cut and checked against the space: loaded, or trained there and then if the configuration says so.

        Its cuts, macs, and the sha256 of its weights go to `teacher.json`.

        Raises:
            ValueError: unknown model or cuts, features that do not match the space, other weights than the run began with.
            RuntimeError: a teacher trained here that stays below teacher.fit.min_accuracy.
        """
        from dna_fast.teacher import Teacher, propose_cuts

        model = self._teacher_model(on_step).to(self.device)
        size = self.space.frame.resolution
        sizes = tuple(self.space.out_size(b) for b in range(len(self.space.blocks)))
        cuts = self.config.teacher.cuts or propose_cuts(model, len(sizes), (3, size, size), sizes)
        teacher = Teacher(model, cuts, input_size=(3, size, size), bn=self.config.teacher.bn)
        teacher.check_shapes(sizes)
        record = {
            "weights_sha256": teacher.weights_sha256(),
            "macs": teacher.macs,
            "bn": teacher.bn,
            **teacher.plan.to_dict(),
        }
        path = self.directory / "teacher.json"
        if path.exists() and (known := read_json(path))["weights_sha256"] != record["weights_sha256"]:
            raise ValueError(
                f"teacher: its weights (sha256 {record['weights_sha256'][:12]}) are not those this run began with "
                f"({known['weights_sha256'][:12]}, {path}); restore them or start a new run"
            )
        write_json(path, record)
        return teacher

    def _teacher_model(self, on_step: OnStep | None) -> nn.Module:
        from dna_fast.teacher import build_efficientnet, load_teacher

        config = self.config.teacher
        if config.arch is None:
            return load_teacher(config.model, pretrained=config.pretrained, checkpoint=config.checkpoint)
        model = build_efficientnet(**config.arch, num_classes=len(self.data.train.classes), seed=self.config.seed)
        return model if config.fit is None else self._fitted(model, on_step)

    def _fitted(self, model: nn.Module, on_step: OnStep | None) -> nn.Module:
        """Trains the teacher once; afterwards its weights are read from the run."""
        from safetensors.torch import load_file, save_file

        from dna_fast.recipe import Recipe

        path, config = self.directory / "teacher.safetensors", self.config.teacher.fit
        assert config is not None
        if path.exists():
            model.load_state_dict(load_file(path))
            return model
        recipe = Recipe(
            epochs=config.epochs,
            batch_size=config.batch_size,
            lr=config.lr,
            weight_decay=config.weight_decay,
            warmup_epochs=config.warmup_epochs,
            ema_decay=config.ema_decay,
            eval_epochs=config.epochs,
        )
        result = self._fit(model, recipe, on_step, "teacher")
        write_json(self.directory / "teacher_accuracy.json", accuracy_record(result))
        if result.accuracy.top1 < config.min_accuracy:
            raise RuntimeError(
                f"teacher: reached {result.accuracy} top-1 on the evaluation images, teacher.fit.min_accuracy asks for "
                f"{100 * config.min_accuracy:.1f} %; train longer (teacher.fit.epochs) or lower the bar"
            )
        with written_aside(path) as aside:
            save_file({name: t.contiguous() for name, t in model.state_dict().items()}, aside)
        return model

    def _fit(
        self, model: nn.Module, recipe: Recipe, on_step: OnStep | None, name: str, logits: Any = None
    ) -> FitResult:
        from dna_fast.retrain import fit

        return fit(
            model,
            self.loader(self.data.train, recipe.batch_size, training=True),
            self.loader(self.data.evaluation, recipe.batch_size, training=False),
            recipe,
            seed=self.config.seed,
            teacher_logits=logits,
            device=self.device,
            on_step=on_step,
            checkpoint=self.directory / "fit" / f"{name}.safetensors",
        )

    # ---- supernet and tables ----------------------------------------------------------------------------------------

    def supernet(self, teacher: Teacher) -> Supernet:
        """The student with its initial weights."""
        from dna_fast.supernet import Supernet

        return Supernet(
            self.space,
            teacher.plan.channels,
            boundary=self.config.supernet.boundary,
            bn_group=self.config.train.bn_group,
            seed=self.config.seed,
        ).to(self.device)

    def train(self, teacher: Teacher, on_progress: OnTrainProgress | None = None) -> Supernet:
        """Trains the supernet, or what is left of that, on all training images but the rated ones."""
        from dna_fast.train import Trainer

        supernet = self.supernet(teacher)
        identity = f"{self.config.identity()} {teacher.weights_sha256()}"
        checkpoints = self.directory / "supernet"
        trainer = Trainer(
            supernet, teacher, self.config.train, seed=self.config.seed, checkpoints=checkpoints, identity=identity
        )
        held_out = self.data.splits["rating"]
        images = self.data.train.subset(np.setdiff1d(np.arange(len(self.data.train)), held_out))
        trainer.run(self.loader(images, self.config.train.batch_size, training=True), on_progress)
        return supernet

    def rate(self, teacher: Teacher, on_progress: OnRateProgress | None = None) -> RatingTable:
        """Rates every candidate of the trained supernet; the table goes to `ratings.npz`.

        Raises:
            ValueError: the supernet is not trained to the end.
        """
        from dna_fast.checkpoint import find_checkpoint, load_block
        from dna_fast.rate import RatingStore, rate

        config, supernet = self.config.rate, self.supernet(teacher)
        identity = f"{self.config.identity()} {teacher.weights_sha256()}"
        found = find_checkpoint(self.directory / "supernet", identity)
        if found is None or found.position.epoch < self.config.train.epochs:
            raise ValueError(f"{self.directory}: the supernet is not trained yet; run: dna-fast train {self.directory}")
        for b in range(len(supernet.blocks)):
            load_block(found, b, supernet.block(b))
        calibration, rated = (self.data.train.subset(self.data.splits[name]) for name in ("calibration", "rating"))
        provenance = {
            "teacher_sha256": teacher.weights_sha256(),
            "teacher_cuts": list(teacher.plan.names),
            "data_fingerprint": self.data.train.fingerprint(),
            "configuration": self.config.identity(),
            "seed": self.config.seed,
            "epochs": self.config.train.epochs,
        }
        store_identity = json.dumps([provenance, config.mode, config.batch_size, config.calibration_images])
        table = rate(
            supernet,
            teacher,
            self.loader(calibration, config.batch_size, training=False),
            self.loader(rated, config.batch_size, training=False),
            mode=config.mode,
            metric=config.metric,
            provenance=provenance,
            store=RatingStore(self.directory / "rating", hashlib.sha256(store_identity.encode()).hexdigest()),
            on_progress=on_progress,
        )
        table.save(self.directory / "ratings.npz")
        return table

    def costs(self) -> CostTable:
        """The exact costs of every candidate; also written to `costs.npz`."""
        from dna_fast.cost import cost_table

        table = cost_table(self.space)
        table.save(self.directory / "costs.npz")
        return table

    # ---- search and retraining --------------------------------------------------------------------------------------

    @property
    def teacher_macs(self) -> int | None:
        """Multiply-accumulates of the whole teacher for one image, once it is known."""
        path = self.directory / "teacher.json"
        return int(read_json(path)["macs"]) if path.exists() else None

    def retrain(self, arch: Architecture, teacher: Teacher, name: str, on_step: OnStep | None = None) -> FitResult:
        """Trains an architecture from scratch by the run's recipe; weights, architecture and accuracy go to `models/<name>`."""
        import torch

        from dna_fast.export import build_model, save_model

        recipe = self._recipe()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = build_model(arch, num_classes=len(self.data.train.classes), **recipe.model_args())
        logits = teacher.logits if recipe.distill_weight > 0 else None
        result = self._fit(model, recipe, on_step, name, logits)
        save_model(model, arch, self.directory / "models" / name)
        write_json(self.directory / "models" / name / "accuracy.json", accuracy_record(result))
        return result

    def _recipe(self) -> Recipe:
        from dna_fast.recipe import Recipe

        config = self.config.retrain
        own = {f.name for f in fields(Recipe)}
        values = {name: value for name, value in config.to_dict().items() if name in own}
        return Recipe(**values, eval_epochs=config.epochs)


def accuracy_record(result: FitResult) -> dict[str, Any]:
    """An accuracy with its interval, for JSON."""
    low, high = result.accuracy.interval
    return {
        "correct": result.accuracy.correct,
        "total": result.accuracy.total,
        "top1": result.accuracy.top1,
        "interval_95": [low, high],
        "seconds": result.seconds,
    }
