"""Fitting a network's head on frozen features: how networks of inherited blocks are compared before anything else is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dna_fast._loop import Loader
from dna_fast.inherit import last_feature
from dna_fast.recipe import Recipe
from dna_fast.retrain import fit
from dna_fast.retrain_step import FitResult, StepRecord, TeacherLogits

if TYPE_CHECKING:
    from dna_fast.parallel import World

# AdamW on a convolution, a batch norm and a linear layer behind features that stand still: the usual step of AdamW, the same at any
# batch size, for every network that is compared.
HEAD_LR = 2e-3


def head_recipe(recipe: Recipe, epochs: int, *, has_teacher: bool) -> Recipe:
    """How a head is fitted: AdamW, cosine to zero, against the teacher's logits alone, or the labels without them.

    Args:
        recipe: of the network's own training, whose images (batch size, augmentation, mixing), label smoothing, temperature and
            arithmetic are taken; nothing is dropped.
        epochs: passes over the training images.
        has_teacher: whether there are logits to learn from.
    """
    shared = (
        "batch_size",
        "label_smoothing",
        "distill_temperature",
        "color_jitter",
        "erase_prob",
        "rand_augment",
        "rand_magnitude",
        "mixup",
        "cutmix",
        "sync_bn",
        "amp_dtype",
    )
    return Recipe(
        epochs=epochs,
        lr=HEAD_LR,
        distill_weight=1.0 if has_teacher else 0.0,
        eval_epochs=epochs,
        **{name: getattr(recipe, name) for name in shared},
    )


class HeadTraining(nn.Module):
    """A network of which only the head (conv_head, bn2, classifier) trains; the rest stays in evaluation mode, to the last bit.

    Args:
        model: as `export.build_model` builds it, without dropout.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def head(self) -> tuple[nn.Module, ...]:
        """The modules that train."""
        model: Any = self.model
        return model.conv_head, model.bn2, model.classifier

    def train(self, mode: bool = True) -> HeadTraining:
        """Sets the head's mode; the body's is always evaluation."""
        super().train(False)
        self.training = mode
        for module in self.head():
            module.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> logits [N, classes]."""
        with torch.no_grad():
            feature = last_feature(self.model, images)
        model: Any = self.model
        logits: Tensor = model.forward_head(model.bn2(model.conv_head(feature)))
        return logits


def fit_head(
    model: nn.Module,
    train_loader: Loader,
    eval_loader: Loader,
    recipe: Recipe,
    *,
    seed: int,
    teacher_logits: TeacherLogits | None = None,
    device: str | torch.device = "cpu",
    on_step: Callable[[StepRecord], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
    world: World | None = None,
) -> FitResult:
    """Trains a network's head in place, everything before it frozen; leaves evaluation mode.

    Args:
        model: as `export.build_model` builds it, without dropout and drop path.
        recipe: `head_recipe` gives one.
        train_loader, eval_loader, seed, teacher_logits, device, on_step, checkpoint, checkpoint_minutes, world: as `retrain.fit` takes
            them.

    Raises:
        as `retrain.fit`.
    """
    return fit(
        HeadTraining(model),
        train_loader,
        eval_loader,
        recipe,
        seed=seed,
        teacher_logits=teacher_logits,
        device=device,
        on_step=on_step,
        checkpoint=checkpoint,
        checkpoint_minutes=checkpoint_minutes,
        world=world,
    )
