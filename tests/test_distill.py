"""Distillation of features: the loss is the formula's, projections train along, and an interrupted run goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_retrain import EVAL, RECIPE, TRAIN, same_weights, stopping_after, tiny_model
from torch import nn

from dna_fast.distill import FeatureDistiller
from dna_fast.retrain import fit
from dna_fast.teacher import Teacher

FEATURES = replace(RECIPE, feature_weight=2.0)


def teacher() -> Teacher:
    """One block of 5 channels, where the tiny network has 8, at its resolution of 4 pixels; logits for 4 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        model = nn.Sequential(
            nn.Conv2d(3, 5, 5, stride=4, padding=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
        )
    return Teacher(model, ("1",), input_size=(3, 16, 16))


def distiller() -> FeatureDistiller:
    return FeatureDistiller((8,), teacher(), seed=4)


def test_the_loss_is_mse_by_the_teachers_variance() -> None:
    model: Any = tiny_model().eval()
    found, images = distiller(), TRAIN.images[:6]
    found.attach(model)
    logits = found.look(images)
    model(images)
    stem = model.bn1(model.conv_stem(images))
    feature, target = model.blocks[1](model.blocks[0](stem)), teacher()(images)[0]
    weight, bias = found.projections[0].weight, found.projections[0].bias
    got = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], feature) + bias[:, None, None]  # type: ignore[index]
    expected = (got - target).square().mean() / target.flatten().var()
    torch.testing.assert_close(found.loss(), expected, rtol=1e-5, atol=0)  # sums of 480 elements in float32
    torch.testing.assert_close(logits, teacher().logits(images))


def test_features_come_nearer_and_nothing_stays_behind() -> None:
    model, found = tiny_model(), distiller()
    before = found.projections[0].weight.clone()  # type: ignore[operator]
    result = fit(model, TRAIN, EVAL, replace(FEATURES, epochs=12), seed=0, distiller=found)
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert not torch.equal(found.projections[0].weight, before)  # type: ignore[arg-type]
    assert not any(m._forward_hooks for m in model.modules())
    assert set(model.state_dict()) == set(tiny_model().state_dict())


def test_features_change_the_weights() -> None:
    models = [tiny_model() for _ in range(2)]
    fit(models[0], TRAIN, EVAL, FEATURES, seed=0, distiller=distiller())
    fit(models[1], TRAIN, EVAL, RECIPE, seed=0)
    assert not same_weights(*models)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dna_fast.retrain.LOG_STEPS", 1)
    whole, halves, resumed, ends = tiny_model(), tiny_model(), tiny_model(), [distiller() for _ in range(2)]
    recipe = replace(FEATURES, distill_weight=0.5)
    arguments: dict[str, Any] = {"seed": 3, "teacher_logits": teacher().logits}
    fit(whole, TRAIN, EVAL, recipe, **arguments, distiller=ends[0])
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(
            halves,
            TRAIN,
            EVAL,
            recipe,
            **arguments,
            distiller=distiller(),
            checkpoint=path,
            on_step=stopping_after(11),  # type: ignore[arg-type]
        )
    fit(resumed, TRAIN, EVAL, recipe, **arguments, distiller=ends[1], checkpoint=path)
    assert same_weights(whole, resumed)
    assert same_weights(*ends)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher is cut into 1 blocks, the network has 2"):
        FeatureDistiller((8, 8), teacher(), seed=0)
    with pytest.raises(ValueError, match=r"feature_weight is 2.0 but no distiller was given"):
        fit(tiny_model(), TRAIN, EVAL, FEATURES, seed=0)
    with pytest.raises(ValueError, match=r"feature_weight is 0.0 but a distiller was given"):
        fit(tiny_model(), TRAIN, EVAL, RECIPE, seed=0, distiller=distiller())
