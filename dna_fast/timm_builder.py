"""timm's EfficientNet from a plain description, with what no arch string can say: any mid width, any stem stride.

It knows torch and timm only, for its text is also the body of the `model.py` that `dna-fast export --to timm` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.layers import create_conv2d
from timm.models._builder import build_model_with_cfg
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, efficientnet_init_weights
from timm.models.efficientnet import EfficientNet
from torch import nn


def build(design: Mapping[str, Any], **options: Any) -> EfficientNet:
    """Builds a network.

    Args:
        design: arch_def (timm's strings); layers, (mid_channels, se_channels) of every layer behind the stem's stage, by
            stage; stem_size, stem_stride, num_features, num_classes, output_stride, pad_type, bn_eps.
        options: of timm's EfficientNet: num_classes, in_chans, drop_rate, drop_path_rate, global_pool, ...

    Returns:
        An `EfficientNet` in training mode, drawn from torch's global generator.
    """
    model = EfficientNet(
        decode_arch_def(design["arch_def"]),
        **{"num_classes": design["num_classes"], **options},
        num_features=design["num_features"],
        stem_size=design["stem_size"],
        fix_stem=True,
        output_stride=design["output_stride"],
        pad_type=design["pad_type"],
        act_layer=nn.SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=design["bn_eps"]),
        round_chs_fn=_unrounded,
    )
    if design["stem_stride"] != 2:  # the only one timm has
        _set_stem(model, design)
    # Not strict: a version of timm that reads a depth otherwise is found by who compares the layers, or loads weights.
    for stage, widths in zip(model.blocks[1:], design["layers"], strict=False):
        for layer, (mid, se) in zip(stage, widths, strict=False):
            if _widths(layer) != (mid, se or None):
                _set_widths(layer, mid, se, design)
    return model


def create(variant: str, design: Mapping[str, Any], *, pretrained: bool = False, **options: Any) -> nn.Module:
    """What `timm.create_model` calls: `build` with timm's treatment of weights, features_only, in_chans and the rest.

    Args:
        variant: the name it is registered under; timm finds its pretrained_cfg by it.
        options: what `timm.create_model` was given.
    """
    strides = [int("_s2_" in stage[0]) for stage in design["arch_def"][1:]]
    # timm keeps the last features of every size; the stem's own count where the first block has a stride
    features = {"feature_cls": "getter", "out_indices": tuple(range(1 + sum(strides)))}
    model: nn.Module = build_model_with_cfg(
        partial(build, design), variant, pretrained, feature_cfg=features, **options
    )
    return model


def _unrounded(channels: int, *_: object, **__: object) -> int:
    """In place of timm's rounding to multiples of 8: 12 stays 12."""
    return channels


def _set_stem(model: EfficientNet, design: Mapping[str, Any]) -> None:
    old, stride = model.conv_stem, design["stem_stride"]
    # timm's '' pads (stride - 1 + kernel - 1) // 2, which is kernel // 2 up to stride 2 only
    padding = design["pad_type"] or 1
    conv: Any = create_conv2d(old.in_channels, design["stem_size"], 3, stride=stride, padding=padding)
    efficientnet_init_weights(conv)
    model.conv_stem = conv.to(old.weight)
    for feature in model.feature_info:  # counted with a stem stride of 2
        feature["reduction"] = feature["reduction"] * stride // 2


def _widths(layer: InvertedResidual) -> tuple[int, int | None]:
    """(mid_channels, se_channels) of a built layer; None without squeeze-excite: timm can build one of 0 channels."""
    se = None if isinstance(layer.se, nn.Identity) else layer.se.conv_reduce.out_channels
    return layer.conv_pw.out_channels, se


def _set_widths(layer: InvertedResidual, mid: int, se: int, design: Mapping[str, Any]) -> None:
    """Rebuilds a layer's inside: `InvertedResidual` rounds mid_channels to multiples of 8 and has no switch for it."""
    pw, dw, pwl, kind = layer.conv_pw, layer.conv_dw, layer.conv_pwl, type(layer.bn1)
    pad_type, eps = design["pad_type"], design["bn_eps"]
    layer.conv_pw = create_conv2d(pw.in_channels, mid, 1, padding=pad_type)
    layer.bn1 = kind(mid, eps=eps, act_layer=nn.SiLU)
    layer.conv_dw = create_conv2d(mid, mid, dw.kernel_size[0], stride=dw.stride[0], groups=mid, padding=pad_type)
    layer.bn2 = kind(mid, eps=eps, act_layer=nn.SiLU)
    layer.se = SqueezeExcite(mid, rd_channels=se, act_layer=nn.SiLU) if se else nn.Identity()
    layer.conv_pwl = create_conv2d(mid, pwl.out_channels, 1, padding=pad_type)
    efficientnet_init_weights(layer)
    layer.to(pw.weight)
