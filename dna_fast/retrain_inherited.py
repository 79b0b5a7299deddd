"""Retraining in a run that starts from the supernet's weights: assemble, calibrate, fit the head, then train the whole network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast._files import write_json
from dna_fast.architecture import Architecture
from dna_fast.export import build_model, save_model
from dna_fast.head import fit_head, head_recipe
from dna_fast.inherit import Assembled, assemble, recalibrate
from dna_fast.pipeline import FITS, Run
from dna_fast.recipe import Recipe
from dna_fast.retrain_step import FitResult, StepRecord, TeacherLogits
from dna_fast.supernet import Supernet
from dna_fast.teacher import Teacher

OnStep = Callable[[StepRecord], None]


@dataclass(frozen=True)
class InheritedResult:
    """The two steps of such a training: the head on frozen features, then everything."""

    head: FitResult
    whole: FitResult

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON: the whole network's course, with the head's beside it."""
        return {**self.whole.to_dict(), "init": "inherited", "head": self.head.to_dict()}


class Inheritance:
    """What networks of one run inherit; supernet and calibration images are read once for all of them.

    Args:
        run: its supernet is trained; `run.checkpoint` says which of its checkpoints counts.
        teacher: of the run.

    Raises:
        ValueError: the supernet is not trained to the end.
    """

    def __init__(self, run: Run, teacher: Teacher) -> None:
        self.run, self.teacher = run, teacher
        supernet, found = run.trained_supernet(teacher)
        self.supernet: Supernet = supernet.eval()
        self.sha256 = hashlib.sha256(json.dumps(found.files, sort_keys=True).encode()).hexdigest()

    @cached_property
    def calibration(self) -> list[Tensor]:
        """The run's calibration images, per batch, on the run's device."""
        images, size = self.run.images, self.run.config.rate.batch_size
        loader = images.loader(images.split("calibration"), size, training=False)
        # A loader may write the next batch into the tensors of the last.
        return [batch.images.to(self.run.device, copy=True) for batch in loader.epoch(0)]

    @cached_property
    def logits(self) -> TeacherLogits | None:
        """The teacher's logits, or None where it has none for these classes, or random weights."""
        classes = len(self.run.images.train.classes)
        got = self.teacher.logits(torch.zeros(1, *self.teacher.input_size, device=self.run.device))
        knows = isinstance(got, Tensor) and got.shape == (1, classes)
        return self.teacher.logits if knows and self.run.teacher_source != "random weights" else None

    def assemble(self, arch: Architecture) -> Assembled:
        """An architecture with inherited weights, calibrated along the whole network; its head is drawn by the run's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.run.config.seed)
            found = assemble(self.supernet, arch, num_classes=len(self.run.images.train.classes))
        if self.run.is_leader:  # the others take its weights when training begins
            recalibrate(found.model, self.calibration)
        return found

    def recipes(self) -> tuple[Recipe, Recipe]:
        """How the head is fitted, and the whole network in the epochs that are left: as many in all as from scratch.

        Raises:
            ValueError: no epoch is left, or no more than the warm-up takes.
        """
        config, recipe = self.run.config.retrain, self.run.recipe()
        left = recipe.epochs - config.head_epochs
        if left <= recipe.warmup_epochs:
            raise ValueError(
                f"retrain.head_epochs: with inherited weights these are the first of retrain.epochs = {recipe.epochs}, and more than "
                f"retrain.warmup_epochs = {recipe.warmup_epochs} must be left, got {config.head_epochs}; lower it or train longer"
            )
        head = head_recipe(recipe, config.head_epochs, has_teacher=self.logits is not None)
        return head, replace(recipe, epochs=left, eval_epochs=left)

    def checkpoints(self, arch: Architecture, name: str) -> tuple[Path, Path]:
        """Where the training of the head, and of the whole network, is kept.

        Raises:
            ValueError: as `recipes`.
        """
        depends_on = (self.sha256, json.dumps(asdict(self.recipes()[0]), sort_keys=True))
        whole = self.run.fit_checkpoint(arch, self.teacher, name, *depends_on)
        return self.run.directory / FITS / f"{whole.stem}-head.safetensors", whole

    def fit_head(self, arch: Architecture, name: str, on_step: OnStep | None = None) -> tuple[nn.Module, FitResult]:
        """The assembled network with a fitted head; the same way for every network.

        Raises:
            ValueError: an architecture that cannot inherit; as `recipes`.
        """
        run, (recipe, _) = self.run, self.recipes()
        world = run.world
        with nullcontext() if world is None else world.leader_first(f"assembled {name}"):
            model = self.assemble(arch).model
        result = fit_head(
            model,
            *run.images.classifier_loaders(recipe, (0, 1) if world is None else (world.rank, world.size)),
            recipe,
            seed=run.config.seed,
            teacher_logits=self.logits,
            device=run.device,
            on_step=on_step,
            checkpoint=self.checkpoints(arch, name)[0],
            checkpoint_minutes=run.config.train.checkpoint_minutes,
            world=world,
        )
        return model, result

    def retrain(
        self, arch: Architecture, name: str, on_head_step: OnStep | None = None, on_step: OnStep | None = None
    ) -> InheritedResult:
        """Fits the head, then trains the whole network by the run's recipe; the result goes to `models/<name>`.

        Interrupted, it goes on where it stopped, in whichever of the two.

        Raises:
            ValueError: as `fit_head`.
        """
        run, (_, recipe) = self.run, self.recipes()
        headed, head = self.fit_head(arch, name, on_head_step)
        model = build_model(arch, num_classes=len(run.images.train.classes), **recipe.model_args())
        model.load_state_dict(headed.state_dict())
        whole = run.fit_classifier(
            model,
            recipe,
            on_step,
            checkpoint=self.checkpoints(arch, name)[1],
            logits=self.teacher.logits if recipe.distill_weight > 0 else None,
            distiller=run.distiller(arch, self.teacher),
            world=run.world,
        )
        result = InheritedResult(head, whole)
        if run.is_leader:
            save_model(model, arch, run.directory / "models" / name)
            write_json(
                run.directory / "models" / name / "training.json", {**result.to_dict(), "recipe": asdict(recipe)}
            )
        return result
