"""Student modules against timm's, boundaries, group batch norm, path sampling."""

import warnings
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import nn
from torch.nn import functional as F

from dna_fast.space import Block, Cell, Choice, Frame, MBConvSpec, SearchSpace, preset
from dna_fast.supernet import DepthwiseSeparable, GroupBatchNorm2d, MBConv, PaddedConv2d, Supernet, sample_paths

FRAMES = {padding: Frame(padding=padding) for padding in ("symmetric", "same")}


def _randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values + 0.5 if "running_var" in name else (values - 0.5))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_mbconv_equals_timm(padding: str, kernel: int, stride: int, size: int) -> None:
    ours = MBConv(MBConvSpec(16, 96, 16, kernel, stride, 4), FRAMES[padding], bn_group=8).eval()
    se = partial(SqueezeExcite, rd_channels=4)
    pad = "same" if padding == "same" else ""
    theirs = InvertedResidual(
        16, 16, kernel, stride, pad_type=pad, exp_ratio=6.0, act_layer=nn.SiLU, se_layer=se
    ).eval()
    _randomise(ours, 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 16, size, size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_depthwise_separable_equals_timm() -> None:
    ours = DepthwiseSeparable(Frame(), bn_group=8).eval()
    se = partial(SqueezeExcite, rd_channels=8)
    theirs = DepthwiseSeparableConv(32, 16, 3, act_layer=nn.SiLU, se_layer=se).eval()
    _randomise(ours, 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 32, 9, 9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("boundary", ["adapter", "wide"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_every_cell_of_the_dna_space_reaches_the_teachers_shape(boundary: str, padding: str) -> None:
    space = preset("dna")
    space = SearchSpace(space.name, space.choices, space.blocks, Frame(padding=padding))
    teacher = (48, 80, 160, 224, 384, 640)
    with torch.device("meta"):
        supernet = Supernet(space, teacher, boundary=boundary)
    for b in range(len(space.blocks)):
        size = 224 if b == 0 else space.in_size(b)
        x = torch.empty(2, 3 if b == 0 else teacher[b - 1], size, size, device="meta")
        outputs = supernet.block(b)(x, sample_paths(space, seed=0, step=0, block=b))
        assert [tuple(o.shape) for o in outputs] == [(2, teacher[b], space.out_size(b), space.out_size(b))] * len(
            space.blocks[b].cells
        )


def test_adapter_boundary_builds_the_deployed_layers_and_wide_the_released_ones() -> None:
    space = preset("dna")
    with torch.device("meta"):
        adapter, wide = (Supernet(space, (48, 80, 160, 224, 384, 640), boundary=b) for b in ("adapter", "wide"))
    first, last = adapter.block(4).cell(0).operator(0, 0), adapter.block(4).cell(0).operator(3, 0)
    assert (first.conv_pw.in_channels, first.conv_pw.out_channels, last.conv_pwl.out_channels) == (112, 672, 192)
    first, last = wide.block(4).cell(0).operator(0, 0), wide.block(4).cell(0).operator(3, 0)
    assert (first.conv_pw.in_channels, first.conv_pw.out_channels, last.conv_pwl.out_channels) == (224, 1344, 384)
    assert not last.has_residual
    assert isinstance(wide.block(4).cell(0).in_adapter, nn.Identity)


@pytest.mark.parametrize("batch", [4, 8, 24])
def test_group_batch_norm_is_batch_norm_of_every_group(batch: int) -> None:
    norm = GroupBatchNorm2d(5, 1e-5, group=8).double()
    x = torch.randn(batch, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [nn.BatchNorm2d(5).double()(g) for g in x.split(8)]
    torch.testing.assert_close(norm(x), torch.cat(expected))


def test_group_batch_norm_ignores_how_groups_are_spread_over_processes() -> None:
    norm = GroupBatchNorm2d(4, 1e-5, group=4)
    x = torch.randn(16, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm(x), torch.cat([norm(x[:8]), norm(x[8:])]))


def test_a_batch_of_one_group_is_not_copied() -> None:
    """Splitting it would change no bit, but its backward pass writes every gradient once more."""
    norm = GroupBatchNorm2d(4, 1e-5, group=8)
    x = torch.randn(8, 4, 3, 3, requires_grad=True)
    y = norm(x)
    assert y.grad_fn.name() == "NativeBatchNormBackward0"
    assert y.grad_fn.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    split = F.batch_norm(*torch.split(x, 8), None, None, norm.weight, norm.bias, True, 0.0, 1e-5)
    assert torch.equal(y, split)
    (given,), (expected,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, split))
    assert torch.equal(given, expected)


def test_depthwise_convolutions_are_float32_inside_under_autocast_on_the_cpu() -> None:
    """Only their result is rounded."""
    conv = PaddedConv2d(8, 8, 5, 2, groups=8, padding="same")
    x = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    exact = conv(x.detach().float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16())
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_are_ours_where_gradients_are_recorded_only(stride: int, padding: str) -> None:
    conv = PaddedConv2d(8, 8, 5, stride, groups=8, padding=padding)
    x = torch.randn(2, 8, 9, 10, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    sides = (1, 2, 2, 2) if conv.same else (2, 2, 2, 2)  # columns left and right, rows above and below
    y = conv(x)
    assert "depthwise_conv2d" in y.grad_fn.name()
    with torch.no_grad():
        evaluated = conv(x)
    assert torch.equal(evaluated, F.conv2d(F.pad(x, sides), conv.weight, stride=stride, groups=8))
    exact = F.conv2d(F.pad(x, sides).double(), conv.weight.double(), stride=stride, groups=8)
    # 25 products and a bit: sums of at most 26 roundings.
    bound = 26 * 2.0**-24 * F.conv2d(F.pad(x, sides).abs(), conv.weight.abs(), stride=stride, groups=8)
    assert ((y - exact).abs() <= bound).all()
    conv.weight.requires_grad_(False)
    assert conv(x).grad_fn is None
    assert "depthwise_conv2d" in conv(x.requires_grad_()).grad_fn.name()


def test_group_batch_norm_refuses_a_broken_group() -> None:
    with pytest.raises(ValueError, match=r"multiple of bn_group = 4 images, got 6"):
        GroupBatchNorm2d(2, 1e-5, group=4)(torch.zeros(6, 2, 1, 1))


def test_blocks_are_seeded_one_by_one() -> None:
    space = preset("digits")
    a, b, other = (Supernet(space, (24, 40, 64), seed=s) for s in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(
        a.block(1).cell(0).operator(0, 0).conv_pw.weight, other.block(1).cell(0).operator(0, 0).conv_pw.weight
    )
    assert not _equal(a.block(0).cell(0).operator(1, 0), a.block(0).cell(1).operator(1, 0))
    fewer = replace(space, blocks=(replace(space.blocks[0], cells=space.blocks[0].cells[:1]), *space.blocks[1:]))
    c = Supernet(fewer, (24, 40, 64), seed=1)
    assert len(c.block(0).cells) < len(a.block(0).cells)
    assert _equal(a.block(1), c.block(1))


def _equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules of the same shapes have the same weights."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    return all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_building_a_supernet_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed seeds every device's generator, and none of the GPUs' would be restored."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Supernet(preset("digits"), (24, 40, 64))
    assert seeded == []


def test_our_own_deprecations_are_errors() -> None:
    """Which modules are ours is written in pyproject.toml; that list must have the names that pytest gives them."""
    with pytest.raises(DeprecationWarning):
        warnings.warn("ours", DeprecationWarning, stacklevel=1)


def test_building_a_supernet_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Supernet(preset("digits"), (24, 40, 64))
    assert torch.equal(torch.rand(1), expected)


def test_paths_are_uniform_independent_and_reproducible() -> None:
    space = preset("digits")
    drawn = [sample_paths(space, seed=5, step=s, block=0) for s in range(3000)]
    assert drawn == [sample_paths(space, seed=5, step=s, block=0) for s in range(3000)]
    for layer in range(2):
        counts = Counter(paths[0][layer] for paths in drawn)
        assert all(abs(counts[c] - 500) < 100 for c in range(6))  # five standard deviations of a binomial
    pairs = Counter((paths[0][0], paths[1][0]) for paths in drawn)
    assert len(pairs) == 36
    assert max(pairs.values()) < 140  # 83 expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"boundary": "narrow"}, "adapter, wide"),
        ({"teacher_channels": (1, 2)}, r"3 blocks need as many teacher widths, got \(1, 2\)"),
    ],
    ids=["boundary", "widths"],
)
def test_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Supernet(preset("digits"), **{"teacher_channels": (24, 40, 64), **kwargs})


def test_a_space_with_a_residual_at_a_border_is_refused_for_adapters() -> None:
    space = SearchSpace("x", (Choice(3, 2),), (Block(1, (Cell(1, 8),)), Block(1, (Cell(1, 8),))), Frame(resolution=16))
    with pytest.raises(ValueError, match="block 1 cell 0: its first layer has a residual"):
        Supernet(space, (8, 8))
    Supernet(space, (8, 8), boundary="wide")
