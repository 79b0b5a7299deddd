"""Networks to export: random ones of the digits' space, odd ones that no space has, and faulty ones."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dna_fast.architecture import Architecture, random_choice
from dna_fast.export import build_model, save_model
from dna_fast.export_source import digit_images
from dna_fast.space import Frame, MBConvSpec, preset


def digits_architecture(seed: int, **frame: Any) -> Architecture:
    space = preset("digits")
    space = replace(space, frame=replace(space.frame, **{"resolution": 32, **frame}))
    return Architecture.from_space(space, random_choice(space, np.random.default_rng(seed)))


def fractional(padding: str, seed: int = 0, **frame: Any) -> Architecture:
    """Random odd widths, mid_channels that are no multiple of anything, squeeze-excite here and there."""
    rng, width, blocks = np.random.default_rng(seed), 7, []
    for stride in (2, 1, 2):
        layers = []
        for i in range(int(rng.integers(1, 3))):
            out, mid = int(rng.integers(5, 23)), int(rng.integers(width + 1, 4 * width))
            kernel, se = int(rng.choice([3, 5, 7])), int(rng.choice([0, 1, 3]))
            layers.append(MBConvSpec(width, mid, out, kernel, stride if i == 0 else 1, se))
            width = out
        blocks.append(tuple(layers))
    known: dict[str, Any] = {
        "stem_channels": 9,
        "stem_width": 7,
        "head_channels": 31,
        "num_classes": 5,
        "resolution": 33,
    }
    return Architecture(f"odd.{padding}-{seed}", Frame(padding=padding, **{**known, **frame}), tuple(blocks))


# At 18 pixels, as at any even number, a stride of 2 tells the two paddings apart; at odd ones they are the same.
ARCHITECTURES = {
    "digits-symmetric": digits_architecture(11),
    "fractional-same-stem1": fractional("same", 2, stem_stride=1, resolution=18),
    "fractional-symmetric-no-stem-se": fractional("symmetric", 1, se_ratio=0.0),
}


def trained(arch: Architecture, num_classes: int | None = None) -> nn.Module:
    """A model whose statistics are those of images, so that its logits tell images apart."""
    torch.manual_seed(3)
    model = build_model(arch, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    size = arch.frame.resolution
    with torch.no_grad():
        model(torch.cat([torch.randn(13, 3, size, size), digit_images(size)]))
    return model.eval()


def saved(arch: Architecture, directory: Path, num_classes: int | None = None) -> Path:
    save_model(trained(arch, num_classes), arch, directory)
    return directory


def wrongly(model: nn.Module, fault: str) -> nn.Module:
    wrong = copy.deepcopy(model)
    for name, module in wrong.named_modules():
        if fault == "eps" and isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # as in TensorFlow
        elif fault == "padding" and name == "blocks.3.0.conv_dw":
            module.padding = (0, 0)
        elif fault == "weight" and name == "blocks.1.0.conv_pwl":
            module.weight.data[0, 0] *= 1.01
        elif fault == "nan" and name == "classifier":
            module.bias.data[0] = torch.nan
    return wrong.bfloat16().float() if fault == "bfloat16" else wrong
