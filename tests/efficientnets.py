"""Small timm EfficientNets whose batch norms are not trivial, for tests of fused teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dna_fast.teacher import build_efficientnet

ARCH = [
    ["ds_r1_k3_s1_e1_c8_se0.25"],
    ["ir_r2_k3_s2_e4_c12_se0.25"],
    ["ir_r2_k5_s2_e4_c20_se0.25"],
    ["ir_r1_k7_s1_e4_c28"],
]
LAYERS = ("blocks.0.0", "blocks.1.0", "blocks.1.1", "blocks.2.0", "blocks.2.1", "blocks.3.0")
SIZE = (3, 32, 32)


def with_statistics(model: nn.Module) -> Any:
    """Running statistics, weights and biases of batch norms as after training, so that folding them matters."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator)
    return model.eval()


def small_net(pad_type: str = "", **kwargs: Any) -> Any:
    return with_statistics(
        build_efficientnet(ARCH, stem_size=8, num_features=32, num_classes=5, pad_type=pad_type, **kwargs)
    )
