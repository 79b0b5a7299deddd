"""Named recipes of retraining, as keys of the configuration, and the networks that are trained beside by the same recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dna_fast._names import nearest
from dna_fast.architecture import Architecture, from_zoo, zoo
from dna_fast.space import Frame

REFERENCE_BATCH = 4096  # images per step that the learning rates below are meant for; they scale linearly with it

_RELEASED: Mapping[str, Any] = {
    "epochs": 500,
    "optimizer": "rmsproptf",
    "opt_eps": 1e-3,
    "lr": 0.256,
    "schedule": "step",
    "decay_epochs": 2.4,
    "decay_rate": 0.97,
    "weight_decay": 1e-5,
    "warmup_epochs": 5.0,
    "ema_decay": 0.9998,
    "label_smoothing": 0.1,
    "drop_rate": 0.2,
    "drop_path_rate": 0.2,
    "color_jitter": 0.4,
    "erase_prob": 0.0,
    "rand_augment": 0,
    "mixup": 0.0,
    "cutmix": 0.0,
}

# released: the paper's (arXiv 1911.13053, section 4). stronger: what its authors retrained DNA-c and DNA-d by later: RandAugment, random
# erasing and stronger jitter on top. They published which, not how much: magnitude, share and jitter are timm's for EfficientNet-B0
# (rand-m9-mstd0.5, reprob 0.2) and, of the jitter, one half more than before.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "released": _RELEASED,
    "stronger": {**_RELEASED, "color_jitter": 0.6, "erase_prob": 0.2, "rand_augment": 2, "rand_magnitude": 9.0},
}


def recipe_overrides(name: str, batch_size: int) -> list[str]:
    """A named recipe as overrides of a configuration's section `retrain`, as `load_config` takes them.

    Args:
        name: one of RECIPES.
        batch_size: images per step; the learning rate is scaled to it.

    Raises:
        ValueError: unknown name; the nearest known one is named.
    """
    if name not in RECIPES:
        raise ValueError(
            f"--recipe: unknown recipe {name!r}; did you mean {nearest(name, RECIPES)[0]!r}? Known: {', '.join(RECIPES)}"
        )
    values = {**RECIPES[name], "batch_size": batch_size}
    values["lr"] = values["lr"] * batch_size / REFERENCE_BATCH
    return [f"retrain.{key}={value}" for key, value in values.items()]


def named_baselines(names: Sequence[str], frame: Frame) -> dict[str, Architecture]:
    """Published networks for a run's images: its resolution and classes, the networks' own widths and conventions.

    Args:
        names: of the zoo.
        frame: of the run's space.

    Raises:
        ValueError: an unknown name.
    """
    found = {}
    for name in names:
        arch = from_zoo(name)
        own = replace(arch.frame, resolution=frame.resolution, num_classes=frame.num_classes)
        found[name] = replace(arch, frame=own)
    return found


def parse_baselines(text: str) -> tuple[str, ...]:
    """Names with commas between them.

    Raises:
        ValueError: an unknown one; the known ones are named.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in zoo()]:
        raise ValueError(f"--also: unknown network {unknown[0]!r}; known: {', '.join(zoo())}")
    return names
