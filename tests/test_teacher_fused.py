"""Fused teachers: the same network to everyone who looks at it, the same features up to rounding, and why a layer stays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
from efficientnets import LAYERS, SIZE, small_net, with_statistics
from torch import Tensor, nn

from dna_fast import ops, teacher_fused
from dna_fast.teacher import Teacher
from dna_fast.teacher_fused import ERROR_RATIO, fuse

CUTS = ("blocks.1", "blocks.2.0", "blocks.3")  # a container, a layer, a container


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """One entry for every layer that ran fused: the dtype that it ran in."""
    calls: list[torch.dtype] = []

    def counted(x: Tensor, *args: Any) -> Tensor:
        calls.append(x.dtype)
        return ops.mbconv(x, *args)

    monkeypatch.setattr(teacher_fused, "mbconv", counted)
    return calls


def distance(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact.double()).norm())


def fused_and_not(pad_type: str = "") -> tuple[Any, Any]:
    model = small_net(pad_type).requires_grad_(False)
    plain = copy.deepcopy(model)
    fuse(model, SIZE)
    return model, plain


# ---- features -------------------------------------------------------------------------------------------------------


def efficientnet_b0() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return with_statistics(timm.create_model("tf_efficientnet_b0"))


@pytest.mark.parametrize(
    ("build", "cuts", "size"),
    [
        (small_net, CUTS, 32),
        (lambda: small_net("same"), CUTS, 31),
        (efficientnet_b0, ("blocks.2", "blocks.4", "blocks.6"), 64),
        (efficientnet_b0, ("blocks.2", "blocks.4", "blocks.6"), 224),
    ],
    ids=["built", "built-same-odd", "b0-64", "b0-224"],
)
def test_features_are_the_same_up_to_rounding(build: Callable[[], nn.Module], cuts: tuple[str, ...], size: int) -> None:
    """Both are compared with the network in float64; the bound is that of a single layer (ERROR_RATIO)."""
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    x = x.contiguous(memory_format=torch.channels_last)
    model = build()
    plain = Teacher(copy.deepcopy(model), cuts, input_size=(3, size, size), fused=False)
    exact = Teacher(copy.deepcopy(model).double(), cuts, input_size=(3, size, size), fused=False)(x.double())
    fused = Teacher(model, cuts, input_size=(3, size, size))
    assert fused.fusion is not None
    assert not fused.fusion.kept
    assert plain.fusion is None
    for got, own, expected in zip(fused(x), plain(x), exact, strict=True):
        assert distance(got, expected) <= ERROR_RATIO * distance(own, expected)
        assert distance(own, expected) <= 1e-5 * float(expected.norm())
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_every_layer_runs_fused_once_a_pass(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    teacher = Teacher(small_net(), CUTS, input_size=SIZE)
    fused_calls.clear()
    teacher(images)
    assert fused_calls == [torch.float32] * len(LAYERS)
    Teacher(small_net(), CUTS, input_size=SIZE, fused=False)(images)
    assert len(fused_calls) == len(LAYERS)


def test_two_teachers_of_the_same_weights_give_the_same_bits(images: Tensor) -> None:
    """What a resumed run relies on."""
    first, second = (Teacher(small_net(), CUTS, input_size=SIZE) for _ in range(2))
    again = Teacher(first.model, CUTS, input_size=SIZE)  # on a network that is fused already
    for teacher in (second, again, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert all(torch.equal(*pair) for pair in zip(first(images), teacher(images), strict=True))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batch_sizes(count: int) -> None:
    model, plain = fused_and_not()
    x = torch.randn(count, *SIZE)
    torch.testing.assert_close(model.forward_features(x), plain.forward_features(x), rtol=1e-5, atol=1e-5)


# ---- the same network to everyone ---------------------------------------------------------------------------------------


def test_names_weights_and_identity_are_untouched() -> None:
    model, plain = fused_and_not()
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    fused, unfused = (
        Teacher(m, CUTS, input_size=SIZE, fused=is_fused) for m, is_fused in ((model, True), (plain, False))
    )
    assert fused.weights_sha256() == unfused.weights_sha256()
    assert (fused.plan, fused.macs) == (unfused.plan, unfused.macs)


def test_hooks_on_layers_and_containers_are_called(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    seen: dict[str, list[Tensor]] = {}
    for net in (model, plain):
        for name in (*LAYERS, "blocks.1", "blocks"):
            net.get_submodule(name).register_forward_hook(
                lambda _m, _a, out, name=name: seen.setdefault(name, []).append(out)
            )
        net(images)
    assert len(fused_calls) == len(LAYERS)
    for got, expected in seen.values():
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_with_a_hook_inside_runs_as_before(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, _ = fused_and_not()
    fused_calls.clear()
    seen: list[Tensor] = []
    handle = model.blocks[1][0].conv_dw.register_forward_hook(lambda _m, _a, out: seen.append(out))
    model(images)
    assert len(seen) == 1
    assert len(fused_calls) == len(LAYERS) - 1
    handle.remove()
    model(images)
    assert len(fused_calls) == 2 * len(LAYERS) - 1


def test_a_cut_inside_a_layer(images: Tensor) -> None:
    cuts = ("blocks.1.1.conv_pw", "blocks.3")
    plain = Teacher(small_net(), cuts, input_size=SIZE, fused=False)
    teacher = Teacher(small_net(), cuts, input_size=SIZE)
    assert teacher.fusion is not None
    assert teacher.fusion.kept == {"blocks.1.1": "conv_pw inside has a hook or is a cut"}
    torch.testing.assert_close(teacher(images), plain(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_fused_and_own_their_weights(
    copied: Callable[[Any], Any], images: Tensor, fused_calls: list[torch.dtype]
) -> None:
    model, _ = fused_and_not()
    before = model(images)
    fused_calls.clear()
    other = copied(model)
    assert torch.equal(other(images), before)
    assert len(fused_calls) == len(LAYERS)
    nn.init.zeros_(other.blocks[3][0].bn3.weight)
    assert not torch.equal(other(images), before)
    assert torch.equal(model(images), before)


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda m: m.blocks[1][0].conv_dw.weight.mul_(2.0),
    "data": lambda m: setattr(m.blocks[1][0].conv_pwl.weight, "data", m.blocks[1][0].conv_pwl.weight * 3.0),
    "statistics": lambda m: m.blocks[0][0].bn1.running_mean.add_(1.0),
    "state dict": lambda m: m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()}),
    "assigned": lambda m: m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()}, assign=True),
    "no residual": lambda m: [setattr(b, "has_skip", False) for stage in m.blocks for b in stage],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(change: str, images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    before = model(images)
    fused_calls.clear()
    with torch.no_grad():
        for net in (model, plain):
            CHANGES[change](net)
            net.requires_grad_(False)
    assert not torch.allclose(model(images), before, rtol=1e-3)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-4)
    assert len(fused_calls) == 2 * len(LAYERS)


def test_a_rebuilt_layer_is_seen(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    for net in (model, plain):
        net.blocks[1][0].bn2.act = nn.ReLU().eval()
        net.blocks[2][0].se = nn.Identity().eval()
        net.blocks[3][0].bn1.eps = 0.5
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)
    assert len(fused_calls) == len(LAYERS) - 1


# ---- where a fused layer runs as before -----------------------------------------------------------------------------------


def test_training_mode_is_the_networks_own(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    for net in (model, plain):
        net.train()
    assert torch.equal(model(images), plain(images))
    assert torch.equal(model.blocks[3][0].bn3.running_mean, plain.blocks[3][0].bn3.running_mean)
    assert not fused_calls
    for net in (model, plain):
        net.eval()
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-5)
    assert len(fused_calls) == len(LAYERS)


def test_batch_statistics_are_the_networks_own(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    teachers = [Teacher(m, CUTS, input_size=SIZE, bn="batch") for m in (model, plain)]
    assert teachers[0].fusion is None
    assert all(torch.equal(*pair) for pair in zip(teachers[0](images), teachers[1](images), strict=True))
    assert not fused_calls


@pytest.mark.parametrize("of", ["images", "weights"])
def test_gradients_are_the_networks_own(of: str, images: Tensor, fused_calls: list[torch.dtype]) -> None:
    gradients = []
    for net in fused_and_not():
        fused_calls.clear()
        x = images.clone().requires_grad_(of == "images")
        wanted = x if of == "images" else net.blocks[1][0].conv_dw.weight.requires_grad_()
        gradients.append(torch.autograd.grad(net(x).square().sum(), wanted)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_under_no_grad_learnable_weights_run_fused(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model = small_net()
    fuse(model, SIZE)
    for mode, expected in ((torch.no_grad(), len(LAYERS)), (torch.inference_mode(), len(LAYERS)), (nullcontext(), 0)):
        fused_calls.clear()
        with mode:
            model(images)
        assert len(fused_calls) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_other_dtypes_run_as_before(dtype: torch.dtype, images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = (net.to(dtype) for net in fused_and_not())
    fused_calls.clear()
    assert torch.equal(model(images.to(dtype)), plain(images.to(dtype)))
    assert not fused_calls


def test_other_devices_and_tracing_run_as_before(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    compiled = torch.compile(model.blocks[1][0], backend="eager", fullgraph=True)
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(compiled(x), plain.blocks[1][0](x))
    assert model.to("meta")(images.to("meta")).shape == (4, 5)
    assert not fused_calls


# ---- bfloat16 and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
def test_bfloat16_loses_no_more_than_before(autocast: bool, images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    exact = copy.deepcopy(plain).double().forward_features(images.double())
    if not autocast:
        model, plain, images = model.bfloat16(), plain.bfloat16(), images.bfloat16()
    fused_calls.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        got, own = model.forward_features(images), plain.forward_features(images)
    assert got.dtype == own.dtype == torch.bfloat16
    assert distance(got, exact) <= distance(own, exact)
    assert fused_calls == [torch.bfloat16] * len(LAYERS)


def test_float16_autocast_runs_as_before(images: Tensor, fused_calls: list[torch.dtype]) -> None:
    model, plain = fused_and_not()
    fused_calls.clear()
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(model(images), plain(images))
    assert not fused_calls


def test_any_layout_gives_the_same_bits(images: Tensor) -> None:
    model, _ = fused_and_not()
    layer, x = model.blocks[1][0], torch.randn(2, 8, 12, 20)
    expected = layer(x.contiguous(memory_format=torch.channels_last))
    assert expected.is_contiguous(memory_format=torch.channels_last)
    for other in (x, torch.cat([x, x], 3)[..., :20], x.repeat_interleave(2, 2)[:, :, ::2]):
        assert torch.equal(layer(other), expected)


def test_wrong_input_is_the_networks_own_error() -> None:
    layer = fused_and_not()[0].blocks[1][0]
    with pytest.raises(RuntimeError, match=r"expected input.* to have 8 channels, but got 9"):
        layer(torch.zeros(1, 9, 4, 4))
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        layer(torch.zeros(1, 8, 4, 4, dtype=torch.float64))
