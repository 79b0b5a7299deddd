"""Which layers of a teacher are fused: whatever the op does not compute stays, and the report says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from efficientnets import LAYERS, SIZE, small_net, with_statistics
from timm.layers import BatchNormAct2d, DropPath
from timm.layers.squeeze_excite import SEModule
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import Tensor, nn

from dna_fast import ops, teacher_fused
from dna_fast.teacher import build_efficientnet
from dna_fast.teacher_fused import FusedForward, fuse


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


class Derived(InvertedResidual):
    """Whatever it does, it is not known to be the same."""


def set_hook(b: Any) -> None:
    b.bn1.act.register_forward_pre_hook(lambda *_: None)


MISFITS: dict[str, tuple[Callable[[Any], object], str]] = {
    "class": (lambda b: setattr(b, "__class__", Derived), "Derived is another layer"),
    "s2d": (lambda b: setattr(b, "conv_s2d", nn.Identity()), "it begins with space to depth"),
    "aa": (lambda b: setattr(b, "aa", nn.AvgPool2d(2)), "aa is AvgPool2d"),
    "drop path": (lambda b: setattr(b, "drop_path", nn.Dropout()), "drop_path is Dropout"),
    "activation": (lambda b: setattr(b.bn2, "act", nn.ReLU()), "bn2 is followed by ReLU, not SiLU"),
    "last activation": (lambda b: setattr(b.bn3, "act", nn.SiLU()), "bn3 is followed by SiLU, not Identity"),
    "norm": (lambda b: setattr(b, "bn1", nn.GroupNorm(2, 32)), "bn1 is GroupNorm"),
    "statistics": (
        lambda b: setattr(b, "bn1", BatchNormAct2d(32, act_layer=nn.SiLU, track_running_stats=False)),
        "bn1 has no running statistics to use",
    ),
    "drop": (lambda b: setattr(b.bn1, "drop", nn.Dropout()), "bn1 is followed by Dropout"),
    "se": (lambda b: setattr(b, "se", SEModule(32)), "se is SEModule of another kind"),
    "se act": (lambda b: setattr(b, "se", SqueezeExcite(32, act_layer=nn.ReLU)), "se uses ReLU, not SiLU"),
    "se gate": (
        lambda b: setattr(b, "se", SqueezeExcite(32, act_layer=nn.SiLU, gate_layer=nn.Hardsigmoid)),
        "se gates with Hardsigmoid, not Sigmoid",
    ),
    "conv": (lambda b: setattr(b, "conv_dw", nn.ConvTranspose2d(32, 32, 3, groups=32)), "conv_dw is ConvTranspose2d"),
    "bias": (lambda b: setattr(b, "conv_pw", nn.Conv2d(8, 32, 1)), "conv_pw has a bias"),
    "padding mode": (lambda b: setattr(b.conv_dw, "padding_mode", "reflect"), "conv_dw pads with reflect"),
    "padding": (lambda b: setattr(b.conv_dw, "padding", (0, 0)), "conv_dw is padded by (0, 0)"),
    "square": (lambda b: setattr(b.conv_dw, "stride", (1, 2)), "conv_dw differs between rows and columns"),
    "dilation": (lambda b: setattr(b.conv_dw, "dilation", (2, 2)), "conv_dw has dilation 2"),
    "stride": (lambda b: setattr(b.conv_dw, "stride", (3, 3)), "stride must be one of 1, 2, got 3"),
    "kernel": (
        lambda b: setattr(b, "conv_dw", nn.Conv2d(32, 32, 9, padding=4, groups=32, bias=False)),
        "kernel must be one of 3, 5, 7, got 9",
    ),
    "groups": (
        lambda b: setattr(b, "conv_dw", nn.Conv2d(32, 32, 3, padding=1, groups=16, bias=False)),
        "conv_dw has 16 groups for 32 channels",
    ),
    "pointwise": (
        lambda b: setattr(b, "conv_pwl", nn.Conv2d(32, 12, 3, padding=1, bias=False)),
        "conv_pwl is not 1x1 with stride 1",
    ),
    "pointwise groups": (
        lambda b: setattr(b, "conv_pwl", nn.Conv2d(32, 12, 1, groups=4, bias=False)),
        "conv_pwl has 4 groups",
    ),
    "pointwise padding": (lambda b: setattr(b.conv_pw, "padding", (1, 1)), "conv_pw is padded by (1, 1)"),
    "training": (lambda b: b.bn1.train(), "something inside is in training mode"),
    "hook": (set_hook, "bn1.act inside has a hook or is a cut"),
    "forward": (lambda b: setattr(b, "forward", lambda x: x), "its forward was replaced"),
    "dtype": (lambda b: b.double(), "its dtype is torch.float64"),
    "device": (lambda b: b.to("meta"), "there is no kernel for meta yet"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_stays_and_says_why(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, reason = MISFITS[case]
    model = small_net()
    change(model.blocks[1][0])
    monkeypatch.setattr(teacher_fused, "_watched_pass", lambda *_: None)  # not every changed network has a pass
    report = fuse(model, SIZE)
    assert report.kept["blocks.1.0"] == reason
    assert not isinstance(model.blocks[1][0].__dict__.get("forward"), FusedForward)


def test_timms_stochastic_depth_fits(images: Tensor) -> None:
    model = small_net(drop_path_rate=0.2)
    assert type(model.blocks[1][1].drop_path) is DropPath
    plain = copy.deepcopy(model)
    assert fuse(model, SIZE).fused == LAYERS
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)


def test_a_layer_without_skip_connection_where_there_could_be_one(images: Tensor) -> None:
    model = with_statistics(
        build_efficientnet([["ir_r2_k3_s1_e4_c8_noskip"]], stem_size=8, num_features=16, num_classes=5)
    )
    plain = copy.deepcopy(model)
    report = fuse(model, SIZE)
    assert [layer.shape is not None and layer.shape.has_residual for layer in report.layers] == [False, False]
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)


def test_a_wrong_result_is_found_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_fused, "mbconv", lambda *args: ops.mbconv(*args) * 1.0001)
    model = small_net()
    report = fuse(model, SIZE)
    assert not report.fused
    assert all(reason.startswith("its error would be 1.0e-04 where it was") for reason in report.kept.values())
    assert "forward" not in model.blocks[0][0].__dict__


def test_what_no_pass_reaches_stays() -> None:
    model = small_net()
    model.blocks.append(nn.Identity())
    model.spare = InvertedResidual(8, 8, act_layer=nn.SiLU).eval()
    assert fuse(model, SIZE).kept == {"spare": "a pass does not reach it"}


def test_networks_without_such_layers() -> None:
    assert fuse(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), SIZE).layers == ()
    mobile = timm.create_model("mobilenetv2_100").eval()
    report = fuse(mobile, SIZE)
    assert not report.fused
    assert set(report.kept.values()) == {"bn1 is followed by ReLU6, not SiLU"}


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a model in evaluation mode, got training mode; call model\.eval"):
        fuse(small_net().train(), SIZE)


def test_report_reads_well() -> None:
    model = small_net()
    model.blocks[1][1].bn2.act = nn.ReLU()
    lines = fuse(model, SIZE).table().splitlines()
    assert lines[0].split() == ["layer", "kernel", "channels", "error", "before"]
    assert lines[1].split()[:3] == ["blocks.0.0", "3x3/1", "8-8-8"]
    assert lines[1].endswith("fused")
    assert lines[3].split(maxsplit=1) == ["blocks.1.1", "kept: bn2 is followed by ReLU, not SiLU"]
    assert len(lines) == 1 + len(LAYERS)


def test_summary_counts_and_names_what_stays() -> None:
    model = with_statistics(small_net())
    layer = model.get_submodule(LAYERS[1])
    layer.drop_path = nn.Dropout()
    lines = fuse(model, SIZE).summary().splitlines()
    assert lines[0] == f"{len(LAYERS) - 1} of {len(LAYERS)} MBConv layers run fused on the CPU"
    assert lines[1:] == [f"  {LAYERS[1]} stays: drop_path is Dropout"]
