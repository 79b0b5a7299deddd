"""Teachers: features from one pass, nothing changed by it, cuts that make sense, and errors in words."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from dna_fast.teacher import (
    CutPlan,
    CutPoint,
    Teacher,
    build_efficientnet,
    list_cut_candidates,
    load_teacher,
    propose_cuts,
)

ARCH = [
    ["ds_r1_k3_s1_e1_c8_se0.25"],
    ["ir_r2_k3_s2_e4_c12_se0.25"],
    ["ir_r2_k5_s2_e4_c20_se0.25"],
    ["ir_r1_k3_s1_e4_c28"],
]
CUTS = ("blocks.1", "blocks.2", "blocks.3")
SIZE = (3, 32, 32)


class Residual(nn.Module):
    """x + f(x); nothing inside it is a cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


class HandWritten(nn.Module):
    """No stages: conv 3 -> 6 (stride 2), two residual layers, conv 6 -> 10 (stride 2), a grouped one, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.a, self.b = Residual(6), Residual(6)
        self.narrow = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(10, 10, 3, padding=1, groups=5)
        self.norm = nn.BatchNorm2d(10)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(10, 4)
        self.unused = nn.ModuleList([nn.Conv2d(3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.narrow(self.b(self.a(self.enter(x)))))
        return self.head(self.act(self.norm(x)).mean((2, 3)))


def small_net(seed: int = 0) -> nn.Module:
    """A four-stage EfficientNet with running statistics that differ from a batch's."""
    model = build_efficientnet(ARCH, stem_size=8, num_features=32, num_classes=5, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


def hooked(model: nn.Module, images: Tensor, names: tuple[str, ...] = CUTS) -> tuple[list[Tensor], Tensor]:
    """Features by plain hooks and a whole pass: the oracle."""
    features: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _a, out, name=name: features.update({name: out}))
        for name in names
    ]
    with torch.no_grad():
        logits = model(images)
    for handle in handles:
        handle.remove()
    return [features[name] for name in names], logits


def count_calls(model: nn.Module) -> dict[str, int]:
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _m, _a, name=name: calls.update({name: calls.get(name, 0) + 1}))
    return calls


# ---- one pass -------------------------------------------------------------------------------------------------------


def test_features_and_logits_equal_those_of_plain_hooks(images: Tensor) -> None:
    model = small_net().eval()
    features, logits = hooked(copy.deepcopy(model), images)
    teacher = Teacher(model, CUTS, input_size=SIZE, fused=False)
    torch.testing.assert_close(teacher(images), tuple(features), rtol=0, atol=0)
    torch.testing.assert_close(teacher.forward_with_logits(images), (tuple(features), logits), rtol=0, atol=0)
    torch.testing.assert_close(teacher.logits(images), logits, rtol=0, atol=0)
    assert [tuple(f.shape[1:]) for f in features] == [(p.channels, p.height, p.width) for p in teacher.plan.points]
    assert not any(f.requires_grad for f in teacher(images.requires_grad_()))


def test_one_pass_calls_each_module_once_and_never_the_head(images: Tensor) -> None:
    teacher = Teacher(small_net(), CUTS, input_size=SIZE)
    calls = count_calls(teacher.model)
    teacher(images)
    assert set(calls.values()) == {1}
    assert not calls.keys() & {"conv_head", "bn2", "global_pool", "classifier"}
    calls.clear()
    teacher.forward_with_logits(images)
    assert set(calls.values()) == {1}
    assert calls.keys() >= {"conv_head", "classifier"}


def test_pass_stops_at_a_last_cut_before_later_stages(images: Tensor) -> None:
    teacher = Teacher(small_net(), CUTS[:1], input_size=SIZE)
    calls = count_calls(teacher.model)
    teacher(images)
    assert "blocks.1" in calls
    assert "blocks.2" not in calls


def test_channels_last_images_give_channels_last_features(images: Tensor) -> None:
    teacher = Teacher(timm.create_model("convnext_atto"), ("stages.0", "stages.1"), input_size=SIZE)
    plain = teacher(images)
    features = teacher(images.contiguous(memory_format=torch.channels_last))
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in features)
    # The same sums in another order: a few float32 roundings of values of order 1.
    torch.testing.assert_close(features, plain, rtol=1e-4, atol=1e-4)


def test_failed_pass_leaves_nothing_behind(images: Tensor) -> None:
    model = small_net().eval()
    teacher = Teacher(model, CUTS, input_size=SIZE)
    expected = teacher(images)
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        teacher(images)
    assert teacher._tape.features is None
    handle.remove()
    torch.testing.assert_close(teacher(images), expected, rtol=0, atol=0)
    assert model(images).shape == (4, 5)  # outside the teacher's passes its hooks do nothing


def test_model_that_catches_exceptions_does_not_swallow_the_stop(images: Tensor) -> None:
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head_calls = small_net(), 0

        def forward(self, x: Tensor) -> Tensor | None:
            try:
                return self.net(x)
            except Exception:
                self.head_calls += 1
                return None

    model = Guarded()
    teacher = Teacher(model, ["net.blocks.1"], input_size=SIZE)
    assert len(teacher(images)) == 1
    assert model.head_calls == 0


def test_threads_and_two_teachers_on_one_model_do_not_mix(images: Tensor) -> None:
    model = small_net()
    teachers = [Teacher(model, CUTS, input_size=SIZE), Teacher(model, CUTS[:2], input_size=SIZE)]
    expected = [[tuple(t(images * k)) for k in range(4)] for t in teachers]
    wrong: list[object] = []

    def work(number: int) -> None:
        teacher, k = number % 2, number // 2
        for _ in range(5):
            got = teachers[teacher](images * k)
            if len(got) != 3 - teacher or any(
                (a - b).abs().max() > 1e-6 for a, b in zip(got, expected[teacher][k], strict=True)
            ):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_copied_and_pickled_teachers_work_alone(images: Tensor) -> None:
    teacher = Teacher(small_net(), CUTS, input_size=SIZE)
    expected = teacher(images)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        torch.testing.assert_close(other(images), expected, rtol=0, atol=0)
        assert other._tape is not teacher._tape
        assert other.plan == teacher.plan


# ---- frozen ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_parameters_buffers_and_gradients_are_untouched(bn: str, images: Tensor) -> None:
    model = small_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    teacher = Teacher(model, CUTS, input_size=SIZE, bn=bn).train()
    images[0, 0, 0, 0] = float("inf")  # batch statistics of such a batch must not leak into the running ones either
    teacher(images)
    teacher.logits(images)
    teacher.forward_with_logits(images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_mode_survives_train_calls_on_teacher_and_model(bn: str, images: Tensor) -> None:
    model = build_efficientnet(ARCH, stem_size=8, num_features=32, num_classes=5, drop_rate=0.5, drop_path_rate=0.5)
    teacher = Teacher(model, CUTS, input_size=SIZE, bn=bn)
    expected = teacher.forward_with_logits(images)
    teacher.train()
    torch.testing.assert_close(teacher.forward_with_logits(images), expected, rtol=0, atol=0)
    model.train()
    torch.testing.assert_close(teacher.forward_with_logits(images), expected, rtol=0, atol=0)
    assert not any(m.training for m in model.modules() if not isinstance(m, nn.BatchNorm2d))
    assert all(m.training == (bn == "batch") for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_batch_mode_equals_a_model_left_in_train_mode(images: Tensor) -> None:
    model = small_net()
    expected, _ = hooked(
        copy.deepcopy(model).train(), images
    )  # no dropout in it: train mode differs by its norms alone
    features = Teacher(model, CUTS, input_size=SIZE, bn="batch")(images)
    torch.testing.assert_close(features, tuple(expected), rtol=0, atol=0)
    evaluated = Teacher(small_net(), CUTS, input_size=SIZE)(images)
    assert not torch.allclose(features[0], evaluated[0], atol=1e-2)


@pytest.mark.parametrize("probe_on", ["meta", "real"])
def test_probe_leaves_model_as_it_was(probe_on: str) -> None:
    model = small_net()
    model.blocks[0].eval()
    if probe_on == "real":  # a tensor that is no buffer has no stand-in on the meta device
        model.scale = torch.ones(3, 1, 1)
        model.forward = lambda x: type(model).forward(model, x * model.scale)
    flags = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weight = model.conv_stem.weight
    names = [p.name for p in list_cut_candidates(model, SIZE)]
    assert names[-4:] == ["blocks.2.0", "blocks.2", "blocks.3", "bn2"]
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.conv_stem.weight is weight
    assert not any(module._forward_hooks for module in model.modules())


# ---- candidates and proposals ---------------------------------------------------------------------------------------


def test_macs_and_candidates_equal_a_hand_count() -> None:
    points = list_cut_candidates(HandWritten(), (3, 16, 16))
    assert points == [
        CutPoint("enter", 6, 8, 8, macs=8 * 8 * 6 * 3 * 9),
        CutPoint("a", 6, 8, 8, macs=8 * 8 * 6 * 6 * 9),
        CutPoint("b", 6, 8, 8, macs=8 * 8 * 6 * 6 * 9),
        CutPoint("narrow", 10, 4, 4, macs=4 * 4 * 10 * 6 * 9),
        # norm is overwritten by act and shares its place with it
        CutPoint("act", 10, 4, 4, macs=4 * 4 * 10 * (10 // 5) * 9),
    ]
    assert Teacher(HandWritten(), ["b"], input_size=(3, 16, 16)).macs == sum(p.macs for p in points) + 10 * 4


def test_macs_of_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2))
    assert [p.macs for p in list_cut_candidates(model, (3, 5, 5))] == [5 * 5 * 4 * 3 * 9, 5 * 5 * 4 * (6 // 2) * 4]


def test_inside_of_a_skip_connection_is_no_candidate() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.third(x + self.second(x))

    assert [p.name for p in list_cut_candidates(Skip(), (3, 8, 8))] == ["first", "third"]


def test_b7_is_cut_at_its_six_stages() -> None:
    model = on_meta("tf_efficientnet_b7")
    plan = propose_cuts(model, 6, (3, 224, 224), sizes=(56, 28, 14, 14, 7, 7))
    assert plan.names == tuple(f"blocks.{i}" for i in range(1, 7))
    assert plan.channels == (48, 80, 160, 224, 384, 640)
    assert [(p.height, p.width) for p in plan.points] == [(s, s) for s in (56, 28, 14, 14, 7, 7)]
    assert [round(p.macs / 1e6) for p in plan.points] == [784, 485, 604, 1200, 1166, 848]
    assert propose_cuts(model, 6, (3, 224, 224)) == plan


@pytest.mark.parametrize(
    ("name", "blocks", "size", "expected"),
    [
        ("resnet50", 4, 224, ["layer1", "layer2", "layer3", "layer4"]),
        ("resnet50", 6, 224, ["layer1", "layer2.1", "layer2", "layer3.2", "layer3", "layer4"]),
        ("mobilenetv3_large_100", 6, 224, [f"blocks.{i}" for i in range(6)]),
        ("convnext_atto", 4, 224, [f"stages.{i}" for i in range(4)]),
        ("regnety_004", 4, 224, ["s1", "s2", "s3", "s4"]),
        ("resnet18", 3, 32, ["layer1", "layer2", "layer4"]),  # every layer costs the same but the first
    ],
)
def test_proposals_follow_the_stages(name: str, blocks: int, size: int, expected: list[str]) -> None:
    model = on_meta(name)
    plan = propose_cuts(model, blocks, (3, size, size))
    assert list(plan.names) == expected
    assert propose_cuts(model, blocks, (3, size, size)) == plan


def test_sizes_choose_among_cuts() -> None:
    model = on_meta("mobilenetv3_large_100")
    plan = propose_cuts(model, 6, (3, 224, 224), sizes=(56, 28, 14, 14, 7, 7))
    # blocks.6, a lone 1x1 convolution, would be too small a block
    assert plan.names == ("blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5.0", "blocks.5")
    Teacher(model, plan, input_size=(3, 224, 224)).check_shapes((56, 28, 14, 14, 7, 7))


def test_hand_written_model_is_cut_where_width_changes() -> None:
    assert propose_cuts(HandWritten(), 2, (3, 16, 16)).names == ("b", "act")


def test_convolutional_head_is_no_stage_however_big() -> None:
    model = build_efficientnet(ARCH[:3], stem_size=8, num_features=512, num_classes=5)
    assert propose_cuts(model, 2, SIZE).names == ("blocks.1", "blocks.2")


def test_rectangular_images() -> None:
    points = Teacher(small_net(), CUTS, input_size=(3, 32, 48)).plan.points
    assert {p.name for p in list_cut_candidates(small_net(), (3, 32, 48))} >= set(CUTS)
    assert [(p.height, p.width) for p in points] == [(8, 12), (4, 6), (4, 6)]


def test_plan_reads_well() -> None:
    plan = CutPlan((CutPoint("stem", 8, 16, 16, 1_500_000), CutPoint("stages.0", 16, 8, 8, 4_500_000)))
    assert plan.table().splitlines() == [
        "block  output of  channels   size   macs   share",
        "    0  stem              8  16x16  1.5 M  25.0 %",
        "    1  stages.0         16    8x8  4.5 M  75.0 %",
    ]
    assert plan.to_dict()["points"][1] == {
        "name": "stages.0",
        "channels": 16,
        "height": 8,
        "width": 8,
        "macs": 4_500_000,
    }


# ---- identity and data ----------------------------------------------------------------------------------------------


def test_sha256_follows_values_only() -> None:
    teacher = Teacher(small_net(), CUTS, input_size=SIZE)
    sha = teacher.weights_sha256()
    assert sha == Teacher(small_net(), CUTS[:1], input_size=SIZE, bn="batch").weights_sha256()
    assert sha == copy.deepcopy(teacher).to(memory_format=torch.channels_last).weights_sha256()
    with torch.no_grad():
        next(teacher.model.parameters()).view(-1)[0] += 1
    assert teacher.weights_sha256() != sha
    assert len(sha) == 64


def test_sha256_of_half_precision_weights() -> None:
    assert len(Teacher(small_net(), CUTS, input_size=SIZE).bfloat16().weights_sha256()) == 64


def test_data_config_comes_from_timm_or_from_the_caller() -> None:
    config = Teacher(on_meta("tf_efficientnet_b7.aa_in1k"), ["blocks.1"], input_size=(3, 64, 64)).data_config
    assert config is not None
    assert config["input_size"] == (3, 600, 600)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config.keys() == {"mean", "std", "crop_pct", "interpolation", "input_size"}
    assert Teacher(HandWritten(), ["b"], input_size=SIZE).data_config is None
    assert Teacher(HandWritten(), ["b"], input_size=SIZE, data_config={"mean": (0.5,)}).data_config == {"mean": (0.5,)}


def test_built_efficientnet_takes_widths_as_given_and_depends_on_its_seed_only() -> None:
    state = torch.random.get_rng_state()
    a, b = small_net(seed=3), small_net(seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert propose_cuts(a, 3, SIZE, sizes=(8, 4, 4)).channels == (12, 20, 28)
    assert torch.equal(a.conv_stem.weight, small_net(seed=3).conv_stem.weight)
    assert not torch.equal(a.conv_stem.weight, b.conv_stem.weight)


# ---- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "wrapped.pth"])
def test_checkpoint_is_loaded(suffix: str, tmp_path) -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=7)
    path = tmp_path / f"weights.{suffix}"
    weights = {f"module.{key}" if "wrapped" in suffix else key: value for key, value in model.state_dict().items()}
    if suffix == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if "wrapped" in suffix else weights, path)
    loaded = load_teacher("mobilenetv3_small_050", checkpoint=path, num_classes=7)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_model_kwargs_reach_timm() -> None:
    model = load_teacher("mobilenetv3_small_050", pretrained=False, num_classes=3, model_kwargs={"in_chans": 1})
    assert model.conv_stem.weight.shape[1] == 1
    assert model.classifier.out_features == 3


def test_loading_errors_say_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"timm has no model 'resnet5O'; nearest: .*resnet50"):
        load_teacher("resnet5O")
    with pytest.raises(ValueError, match=r"no weights 'aa_in2k' for tf_efficientnet_b7; it has: .*aa_in1k"):
        load_teacher("tf_efficientnet_b7.aa_in2k")
    with pytest.raises(ValueError, match="no such file"):
        load_teacher("mobilenetv3_small_050", checkpoint=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"cannot be read as tensors only .*; save its state dict"):
        load_teacher("mobilenetv3_small_050", checkpoint=tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match=r"expected a state dict of tensors, got dict; save model.state_dict\(\)"):
        load_teacher("mobilenetv3_small_050", checkpoint=tmp_path / "epoch.pth")

    weights = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    weights["extra"] = weights.pop("conv_stem.weight")
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"1 missing: conv_stem.weight; 1 unexpected: extra; 2 of another shape: class"
    ):
        load_teacher("mobilenetv3_small_050", checkpoint=tmp_path / "other.pth")

    def offline(*args: object, **kwargs: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"pretrained weights of resnet50: OSError: no route to host.*checkpoint="):
        load_teacher("resnet50")
    with pytest.raises(OSError, match="no route"):  # nothing was to be downloaded: not called a download failure
        load_teacher("resnet50", pretrained=False)


# ---- errors of teachers and cuts ------------------------------------------------------------------------------------


class Repeats(nn.Module):
    """One layer called twice, one that returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pair = nn.Conv2d(3, 3, 3, padding=1), Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(self.conv(self.conv(x)))[0]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("model", "cuts", "message"),
    [
        (small_net, ["block.1"], r"no module 'block\.1' in EfficientNet; nearest: .*blocks\.1"),
        (small_net, ["blocks.2", "blocks.1"], r"execution order without repetition, \['blocks.1', 'blocks.2'\], got"),
        (small_net, ["blocks.1", "blocks.1"], "execution order without repetition"),
        (small_net, [], "list of at least one module name"),
        (small_net, "blocks.1", "list of at least one module name, got 'blocks.1'"),
        (small_net, ["classifier"], r"'classifier' must be one map \[1, C, H, W\], got \[1, 5\]"),
        (HandWritten, ["unused"], "'unused' is never executed"),
        (HandWritten, ["norm"], "a later module overwrites the output of cut 'norm' in place"),
        (Repeats, ["conv"], "'conv' must be executed once, got 2 times"),
        (Repeats, ["pair"], "'pair' must be one map .* got something else"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_cuts(model, cuts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teacher(model(), cuts, input_size=SIZE)


def test_bad_arguments(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"bn must be one of eval, batch, got 'train'"):
        Teacher(small_net(), CUTS, input_size=SIZE, bn="train")
    with pytest.raises(ValueError, match=r"bn='batch' needs batch norms and Sequential has none"):
        Teacher(nn.Sequential(nn.Conv2d(3, 3, 1)), ["0"], input_size=SIZE, bn="batch")
    with pytest.raises(ValueError, match=r"input_size must be \(channels, height, width\)"):
        Teacher(small_net(), CUTS, input_size=(32, 32))
    with pytest.raises(
        ValueError, match=r"EfficientNet: one pass over an image \[1, 4, 32, 32\] failed: .*check input_size"
    ):
        Teacher(small_net(), CUTS, input_size=(4, 32, 32))
    with pytest.raises(ValueError, match=r"made for another model or input size than \(3, 32, 32\)"):
        Teacher(small_net(), propose_cuts(small_net(), 3, (3, 64, 64)), input_size=SIZE)
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 32, 32\], got \[4, 3, 30, 32\]"):
        Teacher(small_net(), CUTS, input_size=SIZE)(images[:, :, 1:-1])


def test_logits_take_other_sizes() -> None:
    assert Teacher(small_net(), CUTS, input_size=SIZE).logits(torch.zeros(2, 3, 40, 40)).shape == (2, 5)


def test_pass_that_misses_a_cut_says_which(images: Tensor) -> None:
    class Forks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if len(x) == 1 else self.b(x)

    with pytest.raises(RuntimeError, match="did not reach cut 'a'"):
        Teacher(Forks(), ["a"], input_size=SIZE)(images)


def test_check_shapes_shows_where_teacher_and_space_differ() -> None:
    teacher = Teacher(small_net(), CUTS, input_size=SIZE)
    teacher.check_shapes((8, 4, 4))
    with pytest.raises(ValueError, match="a teacher whose cuts do not match the space") as error:
        teacher.check_shapes((8, 8, 4, 4))
    assert str(error.value).splitlines()[1:] == [
        "block  expected   teacher",
        "    0  8x8        12x8x8 (blocks.1)",
        "    1  8x8        20x4x4 (blocks.2)  <-",
        "    2  4x4        28x4x4 (blocks.3)",
        "    3  4x4        no cut  <-",
    ]


def test_impossible_proposals_list_the_candidates() -> None:
    with pytest.raises(
        ValueError, match=r"cannot be cut into 2 blocks with output sizes \(8, 5\)(.|\n)*blocks\.1 +12 +8x8"
    ):
        propose_cuts(small_net(), 2, SIZE, sizes=(8, 5))
    with pytest.raises(ValueError, match=r"cannot be cut into 99 blocks; ask for fewer"):
        propose_cuts(small_net(), 99, SIZE)
    with pytest.raises(ValueError, match=r"no module returns one map"):
        propose_cuts(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 1, (3, 2, 2))
    with pytest.raises(ValueError, match=r"3 blocks need as many sizes, got \(8, 4\)"):
        propose_cuts(small_net(), 3, SIZE, sizes=(8, 4))
    with pytest.raises(ValueError, match="num_blocks must be >= 1, got 0"):
        propose_cuts(small_net(), 0, SIZE)
