"""Optimizer state as named tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PREFIX = "optimizer."


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``optimizer.<key>.<parameter name>`` -> state, of the parameters that have been updated; on the CPU."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    return {
        f"{PREFIX}{key}.{names[p]}": value.detach().cpu().contiguous()
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `optimizer_tensors` gave; other names in `tensors` are passed over.

    Moments go back to their parameter's device and memory layout. A step counter lives on the CPU, unless the optimizer is fused:
    then it lives with the parameter.
    """
    parameters = dict(module.named_parameters())
    is_fused = bool(optimizer.defaults.get("fused"))
    optimizer.state.clear()
    for name, value in tensors.items():
        if name.startswith(PREFIX):
            key, parameter_name = name[len(PREFIX) :].split(".", 1)
            p = parameters[parameter_name]
            if value.shape == p.shape:
                value = torch.empty_like(p).copy_(value)
            optimizer.state[p][key] = value.to(p.device) if is_fused else value
