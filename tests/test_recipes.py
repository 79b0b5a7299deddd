"""Named recipes against figures worked out by hand, and published networks under a run's images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from small_run import CONFIG
from timm.optim import RMSpropTF
from torch import nn

from dna_fast.config import RetrainConfig, load_config
from dna_fast.cost import architecture_cost
from dna_fast.pipeline import Run
from dna_fast.recipe import Recipe
from dna_fast.recipes import named_baselines, parse_baselines, recipe_overrides
from dna_fast.retrain_step import Training
from dna_fast.space import Frame

UPDATES = 10  # per epoch: 2.4 epochs are a whole number of them


def recipe_of(name: str, batch_size: int, tmp_path: Path) -> Recipe:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return Run(tmp_path, load_config(tmp_path / "config.yaml", recipe_overrides(name, batch_size))).recipe()


def test_the_released_recipe_is_the_papers(tmp_path: Path) -> None:
    recipe = recipe_of("released", 4096, tmp_path)
    assert (recipe.epochs, recipe.lr, recipe.optimizer, recipe.opt_eps) == (500, 0.256, "rmsproptf", 1e-3)
    assert (recipe.decay_rate, recipe.decay_epochs, recipe.warmup_epochs) == (0.97, 2.4, 5)
    assert (recipe.ema_decay, recipe.label_smoothing, recipe.drop_rate, recipe.drop_path_rate) == (
        0.9998,
        0.1,
        0.2,
        0.2,
    )
    assert (recipe.rand_augment, recipe.erase_prob) == (0, 0.0)


def test_the_defaults_of_the_configuration_are_the_papers_too(tmp_path: Path) -> None:
    recipe, defaults = recipe_of("released", 4096, tmp_path), RetrainConfig()
    for name in ("epochs", "lr", "optimizer", "opt_eps", "decay_rate", "decay_epochs", "warmup_epochs", "ema_decay"):
        assert getattr(recipe, name) == getattr(defaults, name), name


def test_the_stronger_recipe_adds_augmentation_and_nothing_else(tmp_path: Path) -> None:
    released, stronger = (recipe_of(name, 1024, tmp_path) for name in ("released", "stronger"))
    changed = {name for name in vars(released) if getattr(released, name) != getattr(stronger, name)}
    assert changed == {"color_jitter", "erase_prob", "rand_augment"}
    assert stronger.color_jitter > released.color_jitter  # type: ignore[operator]
    assert stronger.drop_path_rate == 0.2


# Worked out by hand: warm-up from 1e-6 to 0.256 in a straight line over 5 epochs; then 0.256 x 0.97^floor(epoch / 2.4).
BY_HAND = {
    0: 1e-6,
    2.5: 0.1280005,
    5: 0.256 * 0.9409,
    7: 0.2408704,
    7.2: 0.256 * 0.912673,
    12: 0.21983591057,
    24: 0.256 * 0.73742412689,
}


@pytest.mark.parametrize("epoch", BY_HAND)
def test_learning_rates_are_those_worked_out_by_hand(epoch: float, tmp_path: Path) -> None:
    training = Training(nn.Conv2d(3, 2, 1), recipe_of("released", 4096, tmp_path), 0, UPDATES, torch.device("cpu"))
    training.scheduler.step_update(round(epoch * UPDATES))
    rates = [group["lr"] for group in training.optimizer.param_groups]
    assert rates == pytest.approx([BY_HAND[epoch]] * 2, rel=1e-9)


def test_the_optimizer_is_tensorflows_rmsprop(tmp_path: Path) -> None:
    training = Training(nn.Conv2d(3, 2, 1), recipe_of("released", 4096, tmp_path), 0, UPDATES, torch.device("cpu"))
    assert isinstance(training.optimizer, RMSpropTF)
    decayed = {
        tuple(p.shape): group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]
    }
    assert decayed == {(2, 3, 1, 1): 1e-5, (2,): 0.0}
    group = training.optimizer.param_groups[0]
    assert (group["momentum"], group["eps"]) == (0.9, 1e-3)
    assert training.ema is not None
    assert training.ema.decay == 0.9998


def test_the_learning_rate_follows_the_batch_size(tmp_path: Path) -> None:
    assert recipe_of("released", 256, tmp_path).lr == pytest.approx(0.016, rel=1e-12)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown recipe 'strong'; did you mean 'stronger'\? Known: released, stronger"
    ):
        recipe_overrides("strong", 64)


# ---- baselines ------------------------------------------------------------------------------------------------------


def test_published_networks_take_the_runs_images() -> None:
    found = named_baselines(("dna_a", "efficientnet_b0"), Frame(num_classes=10, resolution=64))
    assert list(found) == ["dna_a", "efficientnet_b0"]
    for arch in found.values():
        assert (arch.frame.num_classes, arch.frame.resolution, arch.frame.head_channels) == (10, 64, 1280)
    # params: 1000 classes' weights and biases of the published figure less, 10 classes' more
    assert architecture_cost(found["dna_a"])["params"] == 4_243_318 - 1281 * 990


def test_an_unknown_network_names_the_known_ones() -> None:
    assert parse_baselines("dna_a, efficientnet_b0") == ("dna_a", "efficientnet_b0")
    with pytest.raises(ValueError, match="unknown network 'dna_e'; known: dna_a, dna_b"):
        parse_baselines("dna_e")
