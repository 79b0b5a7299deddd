"""Training of a classifier: found architectures, their baselines and teachers, all by the same code and recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.layers import DropPath
from torch import nn

from dna_fast._files import make_directory
from dna_fast._loop import Loader, deferred_interrupt
from dna_fast.distill import FeatureDistiller
from dna_fast.recipe import Recipe
from dna_fast.retrain_ranks import RankTraining, check_share
from dna_fast.retrain_step import LOG_STEPS, STOP, EpochRecord, FitResult, StepRecord, TeacherLogits, Training

if TYPE_CHECKING:
    from dna_fast.parallel import World


def fit(
    model: nn.Module,
    train_loader: Loader,
    eval_loader: Loader,
    recipe: Recipe,
    *,
    seed: int,
    teacher_logits: TeacherLogits | None = None,
    distiller: FeatureDistiller | None = None,
    device: str | torch.device = "cpu",
    on_step: Callable[[StepRecord], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
    world: World | None = None,
) -> FitResult:
    """Trains the model in place, to the final weights (averaged, if the recipe averages) and evaluation mode.

    Args:
        model: images [N, 3, H, W] -> logits [N, classes]; moved to `device`, channels_last.
        train_loader: of `recipe.batch_size` images per batch, on a rank its part of them.
        eval_loader: of images not trained on, on a rank its part. Nothing is selected by it: no early stop, no best epoch.
        recipe: how to train.
        seed: of dropout and drop path; the initial weights come with the model, the order of images with the loader.
        teacher_logits: needed where `recipe.distill_weight` > 0; called without gradients, on `device`.
        distiller: needed where `recipe.feature_weight` > 0; its projections train along.
        device: where to train.
        on_step, on_epoch: called between updates, every LOG_STEPS of them, and after every epoch.
        checkpoint: file that is written after every epoch, every `checkpoint_minutes` within one, and on Ctrl-C, and from which a
            run goes on where it stopped, on any number of ranks. The one before stays beside it (`retrain_step.older`), and takes
            its place where it is damaged, with a DamagedWarning.
        world: the ranks that train together, all of which call this with the same model and recipe; None: this process alone.

    Deterministic on the CPU: the same arguments give the same weights, interrupted or not. The caller's random
    state is left as it was.

    Raises:
        ValueError: loader, model or teacher do not fit the recipe; a checkpoint of another run, or damaged with no good one
            before it.
        RuntimeError: a loss or a weight that is not finite.
        OSError: the checkpoint cannot be written; the message says why and what to do. The one before stays.
        PeerFailed: another rank failed; that one raises what is to be told.
        KeyboardInterrupt: Ctrl-C, once the update is finished and the checkpoint written; a second one strikes at once.

    Source: distillation is Hinton et al., arXiv 1503.02531.
    """
    device = torch.device(device)
    _check_arguments(model, recipe, teacher_logits, distiller)
    _check_loader(train_loader, recipe, 1 if world is None else world.size)
    arguments = (model, recipe, seed, len(train_loader), device, distiller)
    training = Training(*arguments) if world is None else RankTraining(*arguments, world=world)
    if checkpoint is not None:
        make_directory(Path(checkpoint).parent)
        training.go_on(Path(checkpoint))
    rng_devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(rng_devices), deferred_interrupt() as interrupted:
        training.model.train()
        while training.epoch < recipe.epochs:
            for batch in train_loader.epoch(training.epoch, training.batch):
                training.update(batch, teacher_logits)
                if on_step is not None and training.step % LOG_STEPS == 0:
                    on_step(training.step_record())
                wish = training.wish(interrupted.is_set(), checkpoint_minutes)
                if wish:
                    training.save(checkpoint)
                if wish & STOP:
                    training.stop()
            record = training.finish_epoch(eval_loader)
            training.save(checkpoint)
            if on_epoch is not None:
                on_epoch(record)
            if training.wish(interrupted.is_set(), checkpoint_minutes) & STOP:
                training.stop()
    return training.result()


def _check_loader(loader: Loader, recipe: Recipe, ranks: int) -> None:
    check_share(recipe, ranks)
    batch_size = loader.batch_size * ranks
    if len(loader) == 0:
        raise ValueError(f"fit: fewer images than one batch of {batch_size}; lower the batch size or add images")
    if batch_size != recipe.batch_size:
        raise ValueError(
            f"fit: the recipe's learning rate is meant for batches of {recipe.batch_size}, the loader gives "
            f"{batch_size}; use recipe.with_batch_size({batch_size})"
        )


def _check_arguments(
    model: nn.Module, recipe: Recipe, teacher_logits: TeacherLogits | None, distiller: FeatureDistiller | None
) -> None:
    if (teacher_logits is not None) != (recipe.distill_weight > 0):
        given = "no teacher_logits were" if teacher_logits is None else "teacher_logits were"
        raise ValueError(f"fit: distill_weight is {recipe.distill_weight} but {given} given; they go together")
    if (distiller is not None) != (recipe.feature_weight > 0):
        given = "no distiller was" if distiller is None else "a distiller was"
        raise ValueError(f"fit: feature_weight is {recipe.feature_weight} but {given} given; they go together")
    drop_rate, drop_path = getattr(model, "drop_rate", 0.0), any(isinstance(m, DropPath) for m in model.modules())
    if (drop_rate, drop_path) != (recipe.drop_rate, recipe.drop_path_rate > 0):
        raise ValueError(
            f"fit: the recipe has {recipe.model_args()}, the model drop_rate {drop_rate} and "
            f"{'a' if drop_path else 'no'} drop path; build it with build_model(arch, **recipe.model_args())"
        )
