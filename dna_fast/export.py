"""Architecture -> timm model, and model files that carry their architecture."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import create_conv2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, efficientnet_init_weights
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from dna_fast._files import written_aside
from dna_fast.architecture import Architecture
from dna_fast.space import Frame, MBConvSpec

MODEL_FILE, ARCHITECTURE_FILE = "model.safetensors", "architecture.json"


def build_model(
    arch: Architecture,
    *,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    num_classes: int | None = None,
) -> nn.Module:
    """Builds the architecture as timm's `EfficientNet`, every layer checked against the architecture.

    Args:
        arch: what to build.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; grows linearly from 0 in the first layer, as timm does.
        num_classes: size of the classifier; None takes the architecture's, 0 builds none.

    Returns:
        An `EfficientNet` in training mode, channels_last, float32, on the CPU, drawn from torch's global generator.
        Images [N, 3, H, W] -> logits [N, num_classes].

    Raises:
        ValueError: a block's stride that timm cannot express, a negative num_classes.
        RuntimeError: timm built a layer other than the architecture's; the message names it.
    """
    if num_classes is not None and num_classes < 0:
        raise ValueError(f"num_classes must be >= 0, got {num_classes}")
    if odd := sorted({spec.stride for _, _, spec in _specs(arch)} - {1, 2}):
        raise ValueError(f"{arch.name}: timm's EfficientNet takes strides of 1 and 2 inside the blocks, got {odd}")
    frame = arch.frame
    norm_layer = partial(nn.BatchNorm2d, eps=frame.bn_eps)
    model = EfficientNet(
        decode_arch_def(arch.to_timm()),
        num_classes=frame.num_classes if num_classes is None else num_classes,
        num_features=frame.head_channels,
        stem_size=frame.stem_channels,
        fix_stem=True,
        output_stride=_no_dilation(arch),
        pad_type=_pad_type(frame),
        act_layer=nn.SiLU,
        norm_layer=norm_layer,
        round_chs_fn=_unrounded,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    if frame.stem_stride != 2:  # the only one timm has
        model.conv_stem = _stem_conv(frame)
    for block, layer, spec in _specs(arch):
        built = model.blocks[block + 1][layer]  # type: ignore[index]
        if _widths(built) != (spec.mid_channels, spec.se_channels or None):
            _set_widths(built, spec, frame)
    _check(model, arch)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def save_model(model: nn.Module, arch: Architecture, directory: str | Path) -> None:
    """Writes `model.safetensors` and `architecture.json` into a directory, each atomically.

    Args:
        model: built by `build_model(arch)`, on any device; timm's names and layout, so timm loads the weights too.
        arch: its architecture.
        directory: created where it is missing.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    arch.save(directory / ARCHITECTURE_FILE)
    with written_aside(directory / MODEL_FILE) as aside:
        save_file(tensors, aside, metadata={"format": "pt", "architecture": arch.name})


def load_model(directory: str | Path) -> tuple[nn.Module, Architecture]:
    """Reads what `save_model` wrote.

    Returns:
        The model in evaluation mode on the CPU, channels_last, without dropout; and its architecture.

    Raises:
        ValueError: a file is missing or damaged, or the weights belong to another architecture.
    """
    path = Path(directory) / MODEL_FILE
    arch = Architecture.load(Path(directory) / ARCHITECTURE_FILE)
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); export or retrain the model again") from error
    classifier: Tensor | None = tensors.get("classifier.weight")
    with torch.random.fork_rng(devices=[]):  # its initial weights are drawn, and replaced
        model = build_model(arch, num_classes=0 if classifier is None else len(classifier))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: these weights do not belong to the {ARCHITECTURE_FILE} beside them: {error}"
        ) from error
    return model.eval(), arch


# ---- what timm cannot be told in an arch string ---------------------------------------------------------------------


def _specs(arch: Architecture) -> Iterator[tuple[int, int, MBConvSpec]]:
    """(block, layer, spec) of every layer, in order."""
    for block, specs in enumerate(arch.blocks):
        for layer, spec in enumerate(specs):
            yield block, layer, spec


def _unrounded(channels: int, *_: object, **__: object) -> int:
    """In place of timm's rounding to multiples of 8: 12 stays 12."""
    return channels


def _no_dilation(arch: Architecture) -> int:
    """The output stride, the stem counted as 2 as timm does: past a smaller limit timm turns strides into dilations."""
    stride = 2
    for _, _, spec in _specs(arch):
        stride *= spec.stride
    return stride


def _pad_type(frame: Frame) -> str:
    return "same" if frame.padding == "same" else ""


def _stem_conv(frame: Frame) -> nn.Module:
    # timm's '' pads (stride - 1 + kernel - 1) // 2, which is kernel // 2 up to stride 2 only
    padding = "same" if frame.padding == "same" else 1
    conv: nn.Module = create_conv2d(3, frame.stem_channels, 3, stride=frame.stem_stride, padding=padding)
    efficientnet_init_weights(conv)
    return conv


def _widths(layer: InvertedResidual) -> tuple[int, int | None]:
    """(mid_channels, se_channels) of a built layer; None without squeeze-excite: timm can build one of 0 channels."""
    se = None if isinstance(layer.se, nn.Identity) else layer.se.conv_reduce.out_channels
    return layer.conv_pw.out_channels, se


def _set_widths(layer: InvertedResidual, spec: MBConvSpec, frame: Frame) -> None:
    """Rebuilds a layer's inside: `InvertedResidual` rounds mid_channels to multiples of 8 and has no switch for it."""
    mid, pad_type, kind = spec.mid_channels, _pad_type(frame), type(layer.bn1)
    layer.conv_pw = create_conv2d(spec.in_channels, mid, 1, padding=pad_type)
    layer.bn1 = kind(mid, eps=frame.bn_eps, act_layer=nn.SiLU)
    layer.conv_dw = create_conv2d(mid, mid, spec.kernel, stride=spec.stride, groups=mid, padding=pad_type)
    layer.bn2 = kind(mid, eps=frame.bn_eps, act_layer=nn.SiLU)
    layer.se = (
        SqueezeExcite(mid, rd_channels=spec.se_channels, act_layer=nn.SiLU) if spec.se_channels else nn.Identity()
    )
    layer.conv_pwl = create_conv2d(mid, spec.out_channels, 1, padding=pad_type)
    efficientnet_init_weights(layer)


# ---- the check ------------------------------------------------------------------------------------------------------


_CULPRITS = "check Architecture.to_timm and the version of timm"


def _check(model: EfficientNet, arch: Architecture) -> None:
    """Compares every layer that was built with the architecture.

    Raises:
        RuntimeError: names the first layer that differs, what was expected and what was built.
    """
    frame = arch.frame
    built_depths, depths = [len(stage) for stage in model.blocks], [1, *(len(specs) for specs in arch.blocks)]  # type: ignore[arg-type]
    if built_depths != depths:
        raise RuntimeError(f"{arch.name}: timm built stages of {built_depths} layers, expected {depths}; {_CULPRITS}")
    _compare(model, "conv_stem", (frame.stem_channels, 3, 3, 3), frame.stem_stride)
    stem = model.blocks[0][0]  # type: ignore[index]
    _compare(stem, "conv_dw", (frame.stem_channels, 1, 3, 3), 1, where="blocks.0.0")
    _compare_se(stem, frame.stem_channels, frame.stem_se_channels, "blocks.0.0")
    _compare(stem, "conv_pw", (frame.stem_width, frame.stem_channels, 1, 1), 1, where="blocks.0.0")
    for block, layer, spec in _specs(arch):
        _check_layer(model.blocks[block + 1][layer], spec, f"blocks.{block + 1}.{layer}")  # type: ignore[index]
    _compare(model, "conv_head", (frame.head_channels, arch.blocks[-1][-1].out_channels, 1, 1), 1)


def _check_layer(built: Any, spec: MBConvSpec, where: str) -> None:
    mid = spec.mid_channels
    _compare(built, "conv_pw", (mid, spec.in_channels, 1, 1), 1, where=where)
    _compare(built, "conv_dw", (mid, 1, spec.kernel, spec.kernel), spec.stride, where=where)
    _compare_se(built, mid, spec.se_channels, where)
    _compare(built, "conv_pwl", (spec.out_channels, mid, 1, 1), 1, where=where)
    if built.has_skip != spec.has_residual:
        raise RuntimeError(
            f"{where}: expected has_skip = {spec.has_residual}, timm built {built.has_skip}; {_CULPRITS}"
        )


def _compare_se(built: Any, mid: int, reduced: int, where: str) -> None:
    if isinstance(built.se, nn.Identity):
        if reduced:
            raise RuntimeError(f"{where}.se: expected {reduced} channels, timm built none; {_CULPRITS}")
        return
    _compare(built.se, "conv_reduce", (reduced, mid, 1, 1), 1, where=f"{where}.se")
    _compare(built.se, "conv_expand", (mid, reduced, 1, 1), 1, where=f"{where}.se")


def _compare(parent: nn.Module, name: str, shape: tuple[int, ...], stride: int, *, where: str = "") -> None:
    conv: Any = getattr(parent, name)
    built = tuple(conv.weight.shape), conv.stride, conv.dilation
    expected = shape, (stride, stride), (1, 1)
    if built != expected:
        full_name = f"{where}.{name}" if where else name
        raise RuntimeError(
            f"{full_name}: expected (weight shape, stride, dilation) {expected}, timm built {built}; {_CULPRITS}"
        )
