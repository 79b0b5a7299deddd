"""Fitting heads on frozen features: the body stays to the last bit, and the fit is reproducible and resumable."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_retrain import EVAL, LEARNING, SPACE, TRAIN, same_weights, stopping_after, true_logits
from torch import nn

from dna_fast.architecture import Architecture
from dna_fast.export import build_model
from dna_fast.head import HEAD_LR, HeadTraining, fit_head, head_recipe
from dna_fast.recipe import evaluate

HEAD = ("conv_head.", "bn2.", "classifier.")
RECIPE = head_recipe(replace(LEARNING, label_smoothing=0.1), 12, has_teacher=False)
DISTILLED = head_recipe(replace(LEARNING, distill_weight=0.5, distill_temperature=2.0), 12, has_teacher=True)


def model_of(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(Architecture.from_space(SPACE, [0]))


def test_the_recipe_learns_from_logits_alone_or_from_labels() -> None:
    assert (DISTILLED.distill_weight, DISTILLED.distill_temperature) == (1.0, 2.0)
    assert (RECIPE.distill_weight, RECIPE.label_smoothing) == (0.0, 0.1)
    assert (RECIPE.optimizer, RECIPE.schedule, RECIPE.lr, RECIPE.ema_decay) == ("adamw", "cosine", HEAD_LR, 0.0)
    assert RECIPE.model_args() == {"drop_rate": 0.0, "drop_path_rate": 0.0}


@pytest.mark.parametrize("recipe", [RECIPE, DISTILLED], ids=["labels", "logits"])
def test_the_head_learns_and_nothing_else_moves(recipe: Any) -> None:
    model, before = model_of(), model_of().state_dict()
    teacher = true_logits if recipe.distill_weight else None
    result = fit_head(model, TRAIN, EVAL, recipe, seed=0, teacher_logits=teacher)
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert moved
    assert all(name.startswith(HEAD) for name in moved)
    assert {name.split(".")[0] + "." for name in moved} == set(HEAD)
    assert "bn2.running_mean" in moved
    assert result.history[-1].loss < result.history[0].loss
    assert result.accuracy == evaluate(model, EVAL)
    assert not model.training


def test_a_training_mode_reaches_the_head_alone() -> None:
    model: Any = model_of()
    training = HeadTraining(model).train()
    assert training.training
    assert {name for name, m in model.named_modules() if m.training and not list(m.children())} >= {
        "conv_head",
        "classifier",
    }
    assert not any(m.training for m in model.blocks.modules())
    assert not any(m.training for m in training.eval().modules())


def test_an_interrupted_fit_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dna_fast.retrain.LOG_STEPS", 1)
    handler = signal.getsignal(signal.SIGINT)  # in the background of a shell not Python's own
    whole, again, halves, resumed = (model_of() for _ in range(4))
    for model in (whole, again):
        fit_head(model, TRAIN, EVAL, DISTILLED, seed=3, teacher_logits=true_logits)
    assert same_weights(whole, again)
    path = tmp_path / "head.safetensors"
    arguments: dict[str, Any] = {"seed": 3, "teacher_logits": true_logits, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        fit_head(halves, TRAIN, EVAL, DISTILLED, **arguments, on_step=stopping_after(13))  # type: ignore[arg-type]
    fit_head(resumed, TRAIN, EVAL, DISTILLED, **arguments)
    assert same_weights(whole, resumed)
    assert signal.getsignal(signal.SIGINT) is handler
