"""The teacher of a run: made, loaded or trained as its configuration says, cut, checked, and the same for as long as the run lasts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import nn

from dna_fast._files import read_json, write_json
from dna_fast.pipeline import FITS
from dna_fast.recipe import Recipe
from dna_fast.teacher import Teacher, build_efficientnet, load_teacher, propose_cuts
from dna_fast.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from dna_fast.pipeline import OnStep, Run


def teacher(run: Run, on_step: OnStep | None = None) -> Teacher:
    """As `Run.teacher`."""
    # What can be wrong is looked at before anything is downloaded or trained: the images, then the cuts.
    _ = run.images
    size = run.space.frame.resolution
    sizes = tuple(run.space.out_size(b) for b in range(len(run.space.blocks)))
    cuts = _checked_cuts(run, _untrained_teacher(run), sizes)
    # The layout is part of the result to the last bit: a teacher read from a file must compute as the one just trained.
    model = _teacher_model(run, on_step).to(run.device).to(memory_format=torch.channels_last)
    made = Teacher(model, cuts, input_size=(3, size, size), bn=run.config.teacher.bn)
    _store_teacher(run, made)
    return made


def _checked_cuts(run: Run, model: nn.Module, sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The configured or proposed cuts; ValueError with the shapes where they do not match the space."""
    size = run.space.frame.resolution
    cuts = run.config.teacher.cuts or propose_cuts(model, len(sizes), (3, size, size), sizes)
    trial = Teacher(model, cuts, input_size=(3, size, size), fused=False)
    trial.check_shapes(sizes)
    return trial.plan.names


def _store_teacher(run: Run, teacher: Teacher) -> None:
    """Writes `teacher.json`, or refuses a teacher that is not the one the run began with."""
    config, path = run.config.teacher, run.directory / "teacher.json"
    source = (
        ("trained here" if config.fit else "random weights")
        if config.arch is not None
        else (config.checkpoint or (f"timm {config.model}" if config.pretrained else "random weights"))
    )
    record = {
        "source": source,
        "weights_sha256": teacher.weights_sha256(),
        "macs": teacher.macs,
        "bn": teacher.bn,
        **teacher.plan.to_dict(),
    }
    if path.exists():
        known = read_json(path)
        changed = [name for name in record if name != "source" and known.get(name) != record[name]]
        if changed:
            raise ValueError(
                f"teacher: it is not the one this run began with ({path}; different: {', '.join(changed)}); "
                "restore it or start a new run"
            )
        if known == json.loads(json.dumps(record)):  # of many ranks the first writes
            return
    write_json(path, record)


def _untrained_teacher(run: Run) -> nn.Module:
    """The teacher's network with random weights that depend on the seed only."""
    config = run.config.teacher
    if config.arch is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(run.config.seed)
            return load_teacher(config.model, pretrained=False)
    return build_efficientnet(**config.arch, num_classes=len(run.images.train.classes), seed=run.config.seed)


def _teacher_model(run: Run, on_step: OnStep | None) -> nn.Module:
    config = run.config.teacher
    if config.arch is None and (config.pretrained or config.checkpoint is not None):
        return load_teacher(config.model, pretrained=config.pretrained, checkpoint=config.checkpoint)
    model = _untrained_teacher(run)
    return model if config.fit is None else _fitted(run, model, on_step)


def _fitted(run: Run, model: nn.Module, on_step: OnStep | None) -> nn.Module:
    """Trains the teacher once; afterwards its weights are read from the run."""
    path, config = run.directory / "teacher.safetensors", run.config.teacher.fit
    assert config is not None
    if path.exists():
        try:
            weights, _ = read_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}; restore it from a copy, or delete it: its training is then taken up") from error
        model.load_state_dict(weights)
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
    result = run.fit_classifier(model, recipe, on_step, checkpoint=run.directory / FITS / "teacher.safetensors")
    write_json(run.directory / "teacher_training.json", result.to_dict())
    if result.accuracy.top1 < config.min_accuracy:
        raise RuntimeError(
            f"teacher: reached {result.accuracy} top-1 on the evaluation images, teacher.fit.min_accuracy asks for "
            f"{100 * config.min_accuracy:.1f} %; train longer (teacher.fit.epochs) or lower the bar"
        )
    write_tensors(path, model.state_dict())
    return model
