"""Exported models: built as the architecture says, computing what MBConv means, and coming back from their files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.export import build_model, load_model, save_model
from dna_fast.space import PADDINGS, Block, Cell, Choice, Frame, MBConvSpec, SearchSpace, preset

# Widths that timm would round: 12 x 3 = 36, 20 x 3 = 60; and every neighbour's width gives a fractional expansion.
ODD_FRAME = Frame(stem_channels=10, stem_width=6, head_channels=28, num_classes=7, resolution=40)
ODD = SearchSpace(
    "odd",
    (Choice(3, 3), Choice(5, 2), Choice(7, 6), Choice(3, 1)),
    (Block(2, (Cell(1, 12), Cell(2, 14))), Block(2, (Cell(2, 20), Cell(1, 26))), Block(1, (Cell(2, 18),))),
    ODD_FRAME,
)


def random_architecture(space: SearchSpace, seed: int, **frame_changes: object) -> Architecture:
    rng = np.random.default_rng(seed)
    space = replace(space, frame=replace(space.frame, **frame_changes))
    return Architecture.from_space(
        space, [int(rng.integers(space.num_candidates(b))) for b in range(len(space.blocks))]
    )


def one_layer(spec: MBConvSpec, **frame_changes: object) -> Architecture:
    return Architecture("one", replace(ODD_FRAME, stem_width=spec.in_channels, **frame_changes), ((spec,),))


def randomise(model: nn.Module, seed: int) -> None:
    """Weights and statistics under which no part of a layer can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if "running_var" in name else (-0.5, 0.5)
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("space", [preset("digits"), ODD], ids=lambda space: space.name)
def test_random_architectures_have_the_parameters_that_costs_count(space: SearchSpace, seed: int, padding: str) -> None:
    arch = random_architecture(space, seed, padding=padding)
    model = build_model(arch).eval()
    assert sum(p.numel() for p in model.parameters()) == architecture_cost(arch)["params"]
    images = torch.randn(2, 3, arch.frame.resolution, arch.frame.resolution)
    assert model(images).shape == (2, arch.frame.num_classes)
    pixels = math.ceil(arch.frame.stem_size / math.prod(block.stride for block in space.blocks))
    assert model.forward_features(images).shape == (2, arch.frame.head_channels, pixels, pixels)


@pytest.mark.parametrize("seed", range(2))
def test_paper_space_architectures_have_the_parameters_that_costs_count(seed: int) -> None:
    arch = random_architecture(preset("dna"), seed)
    assert sum(p.numel() for p in build_model(arch).parameters()) == architecture_cost(arch)["params"]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("dna_a", 4_243_318),
        ("dna_b", 4_918_180),
        ("dna_c", 5_273_896),
        ("dna_d", 6_409_486),
        ("efficientnet_b0", 5_288_548),
    ],
)
def test_zoo_models_have_their_published_parameters(name: str, params: int) -> None:
    from dna_fast.architecture import from_zoo

    assert sum(p.numel() for p in build_model(from_zoo(name)).parameters()) == params


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stem_stride", [1, 2, 3, 4])
def test_stem_stride_divides_the_resolution(stem_stride: int, padding: str) -> None:
    arch = random_architecture(ODD, 0, padding=padding, stem_stride=stem_stride, resolution=41)
    model = build_model(arch).eval()
    assert model.bn1(model.conv_stem(torch.randn(1, 3, 41, 41))).shape[-1] == arch.frame.stem_size


def test_a_total_stride_above_32_is_not_turned_into_dilation() -> None:
    specs = tuple((MBConvSpec(6, 12, 6, 3, 2, 2),) for _ in range(6))
    model = build_model(Architecture("deep", replace(ODD_FRAME, resolution=128), specs)).eval()
    assert model.forward_features(torch.randn(1, 3, 128, 128)).shape[-1] == 1


@pytest.mark.parametrize("se_channels", [0, 1, 5])
def test_squeeze_excite_has_the_width_of_the_spec(se_channels: int) -> None:
    built = build_model(one_layer(MBConvSpec(6, 16, 9, 3, 1, se_channels))).blocks[1][0].se
    assert isinstance(built, nn.Identity) if se_channels == 0 else built.conv_reduce.out_channels == se_channels


def test_arguments_reach_the_model() -> None:
    arch = random_architecture(ODD, 1, bn_eps=2e-3)
    model = build_model(arch, drop_rate=0.3, drop_path_rate=0.2, num_classes=3)
    assert model.drop_rate == 0.3
    assert model.classifier.out_features == 3
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {2e-3}
    assert model.blocks[-1][-1].drop_path.drop_prob > 0
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.dim() == 4)
    assert build_model(arch, num_classes=0)(torch.randn(2, 3, 40, 40)).shape == (2, arch.frame.head_channels)


def test_every_layer_is_initialised_alike_whether_timm_or_we_built_it() -> None:
    torch.manual_seed(0)
    for mid in (96, 100):  # timm's own width, and one it would round
        layer = build_model(one_layer(MBConvSpec(48, mid, 64, 5, 1, 12))).blocks[1][0]
        assert layer.conv_dw.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.1)
        assert layer.conv_pw.weight.std().item() == pytest.approx((2 / mid) ** 0.5, rel=0.1)
        assert not layer.se.conv_reduce.bias.any()


# ---- numbers --------------------------------------------------------------------------------------------------------


def reference_pad(x: Tensor, kernel: int, stride: int, padding: str) -> Tensor:
    before = after = kernel // 2
    if padding == "same":
        size = x.shape[-1]
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
    return F.pad(x, (before, after, before, after))


def reference_mbconv(x: Tensor, weights: dict[str, Tensor], spec: MBConvSpec, padding: str, eps: float) -> Tensor:
    """docs/semantics.md, line by line."""

    def norm(h: Tensor, bn: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{bn}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (h - mean) / (var + eps).sqrt() * scale + shift

    h = F.silu(norm(F.conv2d(x, weights["conv_pw.weight"]), "bn1"))
    h = reference_pad(h, spec.kernel, spec.stride, padding)
    h = F.silu(norm(F.conv2d(h, weights["conv_dw.weight"], stride=spec.stride, groups=spec.mid_channels), "bn2"))
    if spec.se_channels:
        gate = F.silu(
            F.conv2d(h.mean((2, 3), keepdim=True), weights["se.conv_reduce.weight"], weights["se.conv_reduce.bias"])
        )
        h = h * torch.sigmoid(F.conv2d(gate, weights["se.conv_expand.weight"], weights["se.conv_expand.bias"]))
    h = norm(F.conv2d(h, weights["conv_pwl.weight"]), "bn3")
    return h + x if spec.has_residual else h


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "spec",
    [
        MBConvSpec(6, 18, 6, 3, 1, 2),
        MBConvSpec(6, 27, 10, 5, 2, 2),
        MBConvSpec(8, 24, 8, 7, 1, 2),
        MBConvSpec(8, 32, 12, 7, 2, 0),
        MBConvSpec(12, 12, 12, 5, 2, 3),
    ],
    ids=lambda s: f"{s.in_channels}-{s.mid_channels}-{s.out_channels}-k{s.kernel}-s{s.stride}-se{s.se_channels}",
)
def test_a_layer_computes_mbconv(spec: MBConvSpec, padding: str) -> None:
    arch = one_layer(spec, padding=padding)
    layer = build_model(arch).blocks[1][0].double().eval()
    randomise(layer, seed=3)
    for size in (8, 9):
        x = torch.randn(2, spec.in_channels, size, size, dtype=torch.float64)
        expected = reference_mbconv(x, layer.state_dict(), spec, padding, arch.frame.bn_eps)
        # float64 sums of fewer than 1e3 terms of size one
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [None, 3, 0])
def test_a_saved_model_comes_back_with_its_architecture(tmp_path: Path, num_classes: int | None) -> None:
    arch = random_architecture(ODD, 2)
    model = build_model(arch, num_classes=num_classes).eval()
    randomise(model, seed=4)
    save_model(model, arch, tmp_path / "new" / "run")
    loaded, loaded_arch = load_model(tmp_path / "new" / "run")
    images = torch.randn(2, 3, 40, 40)
    assert loaded_arch == arch
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert sorted(p.name for p in (tmp_path / "new" / "run").iterdir()) == ["architecture.json", "model.safetensors"]


def test_loading_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    arch = random_architecture(ODD, 2)
    save_model(build_model(arch), arch, tmp_path)
    before = torch.random.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_files_that_do_not_fit_are_refused_in_words(tmp_path: Path) -> None:
    arch, other = random_architecture(ODD, 2), one_layer(MBConvSpec(6, 18, 6, 3, 1, 2))
    with pytest.raises(ValueError, match=r"architecture\.json"):
        load_model(tmp_path)
    arch.save(tmp_path / "architecture.json")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read"):
        load_model(tmp_path)
    save_model(build_model(other), other, tmp_path)
    arch.save(tmp_path / "architecture.json")
    with pytest.raises(ValueError, match=r"do not belong to the architecture\.json"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_strides_and_classes_that_timm_cannot_build_are_refused() -> None:
    with pytest.raises(ValueError, match=r"strides of 1 and 2 inside the blocks, got \[3\]"):
        build_model(one_layer(MBConvSpec(6, 18, 6, 3, 3, 2)))
    with pytest.raises(ValueError, match="num_classes must be >= 0, got -1"):
        build_model(random_architecture(ODD, 0), num_classes=-1)


@pytest.mark.parametrize(
    ("stride", "stem", "layers", "message"),
    [
        (1, "k3_s1_c6_se0.25", "r1_k5_s1_e4_c6_se0.25", r"blocks\.1\.0\.conv_dw: expected .*3, 3.*timm built .*5, 5"),
        (2, "k3_s1_c6_se0.25", "r1_k3_s1_e4_c6_se0.25", r"blocks\.1\.0\.conv_dw: expected .*2, 2.*timm built .*1, 1"),
        (1, "k3_s1_c6", "r1_k3_s1_e4_c6_se0.25", r"blocks\.0\.0\.se: expected 2 channels, timm built none"),
        (1, "k3_s1_c6_se0.25", "r1_k3_s1_e4_c6_se0.25_noskip", r"blocks\.1\.0: expected has_skip = True"),
        (1, "k3_s1_c6_se0.25", "r2_k3_s1_e4_c6_se0.25", r"stages of \[1, 2\] layers, expected \[1, 1\]"),
    ],
    ids=["kernel", "stride", "no-se", "no-skip", "depth"],
)
def test_a_layer_that_timm_built_otherwise_is_named(stride: int, stem: str, layers: str, message: str) -> None:
    class Misread(Architecture):
        def to_timm(self) -> list[list[str]]:
            return [[f"ds_r1_{stem}"], [f"ir_{layers}"]]

    good = one_layer(MBConvSpec(6, 24, 6, 3, stride, 2))
    with pytest.raises(RuntimeError, match=message):
        build_model(Misread(good.name, good.frame, good.blocks))
