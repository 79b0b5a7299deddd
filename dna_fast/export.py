"""Architecture -> timm model, and model files that carry their architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from dna_fast._files import written_aside
from dna_fast.architecture import Architecture
from dna_fast.space import MBConvSpec
from dna_fast.timm_builder import build

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
    options = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    model = build(timm_design(arch), **options, **({} if num_classes is None else {"num_classes": num_classes}))
    _check(model, arch)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def save_model(
    model: nn.Module, arch: Architecture, directory: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `model.safetensors` and `architecture.json` into a directory, each atomically.

    Args:
        model: built by `build_model(arch)`, on any device; timm's names and layout, so timm loads the weights too.
        arch: its architecture.
        directory: created where it is missing.
        metadata: more for the header of the weights' file.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    arch.save(directory / ARCHITECTURE_FILE)
    with written_aside(directory / MODEL_FILE) as aside:
        save_file(tensors, aside, metadata={**(metadata or {}), "format": "pt", "architecture": arch.name})


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


# ---- what timm is told ----------------------------------------------------------------------------------------------


def timm_design(arch: Architecture) -> dict[str, Any]:
    """The architecture as `timm_builder.build` wants it: plain numbers and strings, for JSON and generated code."""
    frame = arch.frame
    return {
        "arch_def": arch.to_timm(),
        "layers": [[[spec.mid_channels, spec.se_channels] for spec in layers] for layers in arch.blocks],
        "stem_size": frame.stem_channels,
        "stem_stride": frame.stem_stride,
        "num_features": frame.head_channels,
        "num_classes": frame.num_classes,
        "output_stride": _no_dilation(arch),
        "pad_type": "same" if frame.padding == "same" else "",
        "bn_eps": frame.bn_eps,
    }


def _specs(arch: Architecture) -> Iterator[tuple[int, int, MBConvSpec]]:
    """(block, layer, spec) of every layer, in order."""
    for block, specs in enumerate(arch.blocks):
        for layer, spec in enumerate(specs):
            yield block, layer, spec


def _no_dilation(arch: Architecture) -> int:
    """The output stride, the stem counted as 2 as timm does: past a smaller limit timm turns strides into dilations."""
    stride = 2
    for _, _, spec in _specs(arch):
        stride *= spec.stride
    return stride


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
