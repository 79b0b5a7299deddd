"""An architecture assembled from its trained blocks: a plain network with the blocks' weights, the adapters folded away.

Between two blocks stand an output adapter and the next block's input adapter, both linear, and behind them a 1x1 convolution without
padding, without a residual and with a batch norm after it. So the three are one matrix, and what the biases add is the same at every
pixel: it goes into that batch norm's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dna_fast.architecture import Architecture
from dna_fast.calibration import calibrate
from dna_fast.export import build_model
from dna_fast.supernet import MBConv, Stem, Step, StudentCell, Supernet


@dataclass(frozen=True)
class Assembled:
    """A network with inherited weights.

    Args:
        model: timm's `EfficientNet` as `export.build_model` builds it; its head is untrained.
        out_adapter: the last cell's, from the network's last feature to the teacher's width. No part of the network.
    """

    model: nn.Module
    out_adapter: nn.Module


def assemble(
    supernet: Supernet,
    arch: Architecture,
    *,
    num_classes: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Assembled:
    """Builds a network of the supernet's trained weights.

    Folding is computed in float64 and rounded once. With batch norms that hold statistics the network computes what the chain of
    blocks computes; the supernet's hold none until something calibrates them, so `recalibrate` the result.

    Args:
        supernet: trained, boundary: adapter. Not changed.
        arch: of its space.
        num_classes, drop_rate, drop_path_rate: as `build_model` takes them; its head is drawn from torch's global generator.

    Returns:
        The network in evaluation mode, with the supernet's dtype and device.

    Raises:
        ValueError: a supernet whose boundaries cannot be folded, an architecture of another space.
    """
    cells = inherited_cells(supernet, arch)
    model: Any = build_model(arch, num_classes=num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
    stem = supernet.block(0).stem
    assert isinstance(stem, Stem), "block 0 has one"
    # Only these tensors' dtype and device: the builder's channels_last layout stays.
    model = model.to(device=stem.conv.conv_stem.weight.device, dtype=stem.conv.conv_stem.weight.dtype)
    model.conv_stem.load_state_dict(stem.conv.conv_stem.state_dict())
    model.bn1.load_state_dict(stem.conv.bn1.state_dict())
    model.blocks[0][0].load_state_dict(stem.ds.state_dict())
    before: StudentCell | None = None
    for stage, (cell, path) in zip(model.blocks[1:], cells, strict=True):
        for layer, choice in enumerate(path):
            stage[layer].load_state_dict(_weights(cell, layer, choice, before))
        before = cell
    assert before is not None, "an architecture has a block"
    return Assembled(model.eval(), before.out_adapter)


def inherited_cells(supernet: Supernet, arch: Architecture) -> list[tuple[StudentCell, tuple[int, ...]]]:
    """The cell and the path in it that every block of an architecture takes its weights from.

    Raises:
        ValueError: as `assemble`.
    """
    if supernet.boundary != "adapter":
        raise ValueError(
            f"inherit: needs a supernet trained with boundary: adapter, got {supernet.boundary}, whose blocks have the teacher's widths "
            "and cannot stand behind each other; train one with supernet.boundary=adapter, or retrain with --init scratch"
        )
    if arch.candidates is None or Architecture.from_space(supernet.space, arch.candidates).blocks != arch.blocks:
        raise ValueError(
            f"inherit: {arch.name} must be an architecture of the supernet's space {supernet.space.name}, chosen by candidate numbers; "
            "others have no weights to inherit: retrain them with --init scratch"
        )
    found = []
    for block, candidate in enumerate(arch.candidates):
        cell, path = supernet.space.candidate(block, candidate)
        found.append((supernet.block(block).cell(cell), path))
    return found


def _weights(cell: StudentCell, layer: int, choice: int, before: StudentCell | None) -> dict[str, Tensor]:
    """State of one layer, in a first layer with the adapters before it folded in."""
    operator = cell.operator(layer, choice)
    state: dict[str, Tensor] = operator.state_dict()
    return state if layer or before is None else {**state, **_folded(operator, cell.in_adapter, before.out_adapter)}


def _folded(operator: MBConv, in_adapter: nn.Module, out_adapter: nn.Module) -> dict[str, Tensor]:
    """conv_pw and the mean behind it with both adapters inside: W (A (B x + b) + a) = (W A B) x + W (A b + a)."""
    assert isinstance(in_adapter, nn.Conv2d)
    assert isinstance(out_adapter, nn.Conv2d)
    weight, (a, a_bias), (b, b_bias) = _matrix(operator.conv_pw), _affine(in_adapter), _affine(out_adapter)
    mean = operator.bn1.running_mean
    assert mean is not None
    folded = {"conv_pw.weight": (weight @ a @ b)[:, :, None, None], "bn1.running_mean": mean.double()}
    folded["bn1.running_mean"] = folded["bn1.running_mean"] - weight @ (a @ b_bias + a_bias)
    return {name: tensor.to(operator.conv_pw.weight.dtype) for name, tensor in folded.items()}


def _matrix(conv: nn.Conv2d) -> Tensor:
    return conv.weight.detach().double().flatten(1)


def _affine(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None, "adapters have one"
    return _matrix(conv), conv.bias.detach().double()


@torch.no_grad()
def recalibrate(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Gives every batch norm of an assembled network the statistics of its input over a whole set of images, first to last.

    As rating calibrates a path, but along the whole network: each batch norm sees what the calibrated layers before it, not the
    teacher, leave. The head's is among them.

    Args:
        model: as `build_model` builds it; left in evaluation mode.
        images: the calibration set, per batch [N, 3, H, W], on the model's device. One layer's features of all of them are held.

    Raises:
        ValueError: a single value per channel.
    """
    network: Any = model.eval()
    batches = list(images)
    calibrate(((network.conv_stem, network.bn1),), batches)
    batches = [network.bn1(network.conv_stem(x)) for x in batches]
    for layer in (layer for stage in network.blocks for layer in stage):
        calibrate(_steps(layer), batches)
        batches = [layer(x) for x in batches]
    calibrate(((network.conv_head, network.bn2),), batches)


def _steps(layer: Any) -> tuple[Step, ...]:
    """A timm layer as (what computes a batch norm's input, batch norm) pairs; timm's batch norms activate."""
    if hasattr(layer, "conv_pwl"):
        return (
            (layer.conv_pw, layer.bn1),
            (layer.conv_dw, layer.bn2),
            (lambda h: layer.conv_pwl(layer.se(h)), layer.bn3),
        )
    return (layer.conv_dw, layer.bn1), (lambda h: layer.conv_pw(layer.se(h)), layer.bn2)


def last_feature(model: nn.Module, images: Tensor) -> Tensor:
    """Images [N, 3, H, W] -> what the last block leaves, [N, width, H', W']: the input of the head."""
    network: Any = model
    feature: Tensor = network.blocks(network.bn1(network.conv_stem(images)))
    return feature
