"""Costs: the published numbers, counting what timm builds, tables against whole networks, drawing by cost."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dna_fast.architecture import Architecture, from_zoo, random_choice, uniform_choice, zoo
from dna_fast.cost import (
    COSTS,
    architecture_cost,
    cost_table,
    head_cost,
    largest_choice,
    layer_cost,
    random_at_cost,
    stem_cost,
)
from dna_fast.space import Block, Cell, Choice, Frame, MBConvSpec, SearchSpace, preset

DNA = preset("dna")

# ---- published numbers ----------------------------------------------------------------------------------------------

PUBLISHED = {
    "dna_a": (4_243_318, 335_141_728, 348_152_992),
    "dna_b": (4_918_180, 392_492_032, 405_776_128),
    "dna_c": (5_273_896, 450_138_976, 465_909_920),
    "dna_d": (6_409_486, 592_837_792, 611_186_528),
    "efficientnet_b0": (5_288_548, 385_814_752, 399_352_864),
}


def test_zoo_is_published():
    assert set(zoo()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_to_the_unit(name):
    costs = architecture_cost(from_zoo(name))
    assert (costs["params"], costs["macs"], costs["macs_official"]) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("block", "layer", "thousands"),
    [
        (0, 0, [32364, 37181, 44407, 16257, 18666, 22279]),
        (0, 1, [27699, 34924, 45762, 13925, 17537, 22956]),
        (2, 0, [12220, 12972, 14101, 6126, 6502, 7066]),
        (5, 0, [29778, 30682, 32036, 14905, 15356, 16034]),
    ],
)
def test_published_layers(block, layer, thousands):
    """The published rows add one operation per bias of squeeze-excite; the published network totals do not."""
    position = DNA.layers(block, 0)[layer]
    for operator, published in enumerate(thousands):
        spec = DNA.mbconv(position, operator)
        biases = spec.se_channels + spec.mid_channels
        assert round((layer_cost(spec, position.in_size)["macs_official"] + biases) / 1000) == published


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_layer_by_hand():
    costs = layer_cost(MBConvSpec(in_channels=4, mid_channels=8, out_channels=6, kernel=3, stride=2, se_channels=2), 5)
    assert costs["params"] == 4 * 8 + 16 + 8 * 9 + 16 + (8 * 2 + 2 + 2 * 8 + 8) + 8 * 6 + 12
    assert costs["macs"] == 4 * 8 * 25 + 8 * 9 * 9 + 2 * 8 * 2 + 8 * 6 * 9
    assert costs["macs_official"] == costs["macs"] + 2 * (8 * 25 + 8 * 9 + 6 * 9)
    assert costs["activation_bytes"] == 4 * (4 * 25 + 8 * 25)


def test_residual_waits_for_the_later_convolutions():
    # depthwise: 8 x 25 in, 8 x 25 out, and the layer's 4 x 25 input that the sum still needs
    costs = layer_cost(MBConvSpec(4, 8, 4, 3, 1, 0), 5)
    assert costs["activation_bytes"] == 4 * 25 * (8 + 8 + 4)
    assert costs["params"] == 4 * 8 + 16 + 8 * 9 + 16 + 8 * 4 + 8
    without = layer_cost(MBConvSpec(4, 8, 3, 3, 1, 0), 5)
    assert without["activation_bytes"] == 4 * 25 * (8 + 8)


def test_residual_of_the_stem():
    frame = Frame(stem_channels=8, stem_width=8, resolution=8)
    assert stem_cost(frame)["activation_bytes"] == 4 * 16 * (8 + 8 + 8)
    assert stem_cost(replace(frame, stem_width=6))["activation_bytes"] == 4 * (3 * 64 + 8 * 16)


def test_head_by_hand():
    costs = head_cost(Frame(head_channels=10, num_classes=7), width=4, size=3)
    assert costs == {
        "params": 40 + 20 + 77,
        "macs": 40 * 9 + 70,
        "macs_official": 40 * 9 + 70 + 2 * 90 + 90,
        "activation_bytes": 4 * 9 * (4 + 10),
    }


# ---- counting what timm builds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    """Counts params, macs and macs_official of the network that timm builds from the architecture's strings."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    from timm.models import efficientnet
    from timm.models._efficientnet_builder import decode_arch_def
    from torch import nn

    def build(arch):
        return efficientnet.EfficientNet(
            decode_arch_def(arch.to_timm()),
            num_classes=arch.frame.num_classes,
            num_features=arch.frame.head_channels,
            stem_size=arch.frame.stem_channels,
            fix_stem=True,
            act_layer=nn.SiLU,
            norm_layer=partial(nn.BatchNorm2d, eps=arch.frame.bn_eps),
        ).eval()

    def count(arch, resolution):
        counted = Counter()

        def hook(module, inputs, output):
            if isinstance(module, nn.Conv2d):
                counted["macs"] += module.weight[0].numel() * output.numel()
            elif isinstance(module, nn.Linear):
                counted["macs"] += module.weight.numel()
            else:
                counted["bn"] += output.numel()

        model = build(arch)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.register_forward_hook(hook)
        model.conv_head.register_forward_hook(lambda _, __, output: counted.update(pool=output.numel()))
        with torch.inference_mode():
            model(torch.zeros(1, 3, resolution, resolution))
        return {
            "params": sum(p.numel() for p in model.parameters()),
            "macs": counted["macs"],
            "macs_official": counted["macs"] + 2 * counted["bn"] + counted["pool"],
        }

    # Only shapes count here, and drawing weights takes most of the time of building a network.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "efficientnet_init_weights", lambda *_: None)
        for kind in (nn.Conv2d, nn.Linear):
            patch.setattr(kind, "reset_parameters", lambda _: None)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield count
        torch.set_num_threads(threads)


def without_bytes(costs):
    return {name: value for name, value in costs.items() if name != "activation_bytes"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_zoo_equals_the_built_network(built, name):
    arch = from_zoo(name)
    assert built(arch, 224) == without_bytes(architecture_cost(arch))


@pytest.mark.parametrize("seed", range(10))
def test_random_architectures_equal_the_built_network(built, seed):
    """30 a seed, at an odd small resolution: macs at 224 differ from those at 33 by nothing but layer sizes."""
    space = replace(DNA, frame=replace(DNA.frame, resolution=33))
    table, rng = cost_table(space), np.random.default_rng(seed)
    for _ in range(30):
        choice = random_choice(space, rng)
        arch = Architecture.from_space(space, choice)
        assert built(arch, 33) == without_bytes(table.total(choice)) == without_bytes(architecture_cost(arch)), choice


# ---- tables against whole networks ----------------------------------------------------------------------------------

NO_SE = SearchSpace(
    "no_se", (Choice(3, 1), Choice(1, 4)), DNA.blocks[:3], Frame(se_ratio=0.0, padding="same", resolution=65)
)
ONE_BLOCK = SearchSpace(
    "one", DNA.choices, (Block(3, (Cell(2, 16), Cell(1, 10))),), Frame(stem_width=32, resolution=30)
)


@pytest.mark.parametrize("space", [DNA, preset("digits"), NO_SE, ONE_BLOCK], ids=lambda space: space.name)
def test_table_total_is_the_network(space):
    table, rng = cost_table(space), np.random.default_rng(5)
    assert table.names == COSTS
    assert table.reduce == {"params": "sum", "macs": "sum", "macs_official": "sum", "activation_bytes": "max"}
    for _ in range(400):
        choice = random_choice(space, rng)
        assert table.total(choice) == architecture_cost(Architecture.from_space(space, choice)), choice


def test_pairwise_term_is_the_first_convolution():
    table = cost_table(DNA)
    for b in range(1, 6):
        widths = DNA.input_widths(b)
        for row, width in enumerate(widths):
            cell, path = DNA.candidate(b, 4)
            mid = DNA.mbconv(DNA.layers(b, cell)[0], path[0]).mid_channels
            expected = mid * (width - widths[0]) * DNA.in_size(b) ** 2
            assert table.costs["macs"][b][row, 4] - table.costs["macs"][b][0, 4] == expected


def test_other_resolution():
    arch = from_zoo("dna_c")
    at_112 = architecture_cost(replace(arch, frame=replace(arch.frame, resolution=112)))
    assert architecture_cost(arch, 112) == at_112
    assert at_112["params"] == architecture_cost(arch)["params"]
    with pytest.raises(ValueError, match="resolution must be a positive integer, got 0"):
        architecture_cost(arch, 0)


def test_largest_by_brute_force():
    space = SearchSpace("s", DNA.choices[:3], DNA.blocks[:2])
    table = cost_table(space)
    every = [(i, j) for i in range(space.num_candidates(0)) for j in range(space.num_candidates(1))]
    for name in ("params", "macs"):
        best = max(every, key=lambda choice: table.total(choice)[name])  # max() keeps the first of equals
        assert largest_choice(table, name) == best


def test_largest_of_dna_has_the_largest_operator_everywhere():
    cells = [1, 2, 2, 1, 1, 0]
    assert largest_choice(cost_table(DNA), "params") == uniform_choice(DNA, cells, 2)


# ---- drawing by cost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "tolerance"),
    [(460_000_000, 0.01), (240_000_000, 0.001), (620_000_000, 0.005), (465_000_000, 1e-5), (460_000_000, 0.0)],
)
def test_random_at_cost_hits_the_range(target, tolerance):
    table, rng = cost_table(DNA), np.random.default_rng(1)
    drawn = {random_at_cost(table, "macs", target, tolerance, rng) for _ in range(2)}
    assert all(abs(table.total(choice)["macs"] - target) <= tolerance * target for choice in drawn)
    assert tolerance == 0 or len(drawn) == 2


def test_random_at_cost_is_reproducible():
    table = cost_table(preset("digits"))
    draws = [random_at_cost(table, "params", 60_000, 0.02, np.random.default_rng(3)) for _ in range(2)]
    assert draws[0] == draws[1]


def test_random_at_cost_is_uniform():
    space = SearchSpace("s", DNA.choices[:2], DNA.blocks[:2])
    table, rng = cost_table(space), np.random.default_rng(11)
    totals = {
        (i, j): table.total((i, j))["params"]
        for i in range(space.num_candidates(0))
        for j in range(space.num_candidates(1))
    }
    target = sorted(totals.values())[len(totals) // 3]
    wanted = [choice for choice, cost in totals.items() if abs(cost - target) <= int(0.0005 * target)]
    assert 5 < len(wanted) < 40
    draws = 60 * len(wanted)
    counts = Counter(random_at_cost(table, "params", target, 0.0005, rng) for _ in range(draws))
    assert set(counts) == set(wanted)
    chi2 = sum((counts[choice] - 60) ** 2 / 60 for choice in wanted)
    # mean and deviation of chi-squared with as many degrees of freedom; five deviations out is no accident
    freedom = len(wanted) - 1
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)


def test_random_at_cost_of_a_space_beyond_floats():
    blocks = DNA.blocks[:1] + tuple(Block(1, (Cell(3, 24), Cell(3, 32))) for _ in range(170))
    space = SearchSpace("deep", DNA.choices, blocks)
    assert space.num_architectures > 10**400
    table = cost_table(space)
    mean = sum(int(array.mean()) for array in table.costs["params"])
    choice = random_at_cost(table, "params", int(1.3 * mean), 0.1, np.random.default_rng(0))
    assert abs(table.total(choice)["params"] - int(1.3 * mean)) <= 0.13 * mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("macs", 1_000, 0.1), "found no architecture with macs from 900 to 1,100; move or widen it"),
        (("macs", 10**12, 0.1), "found no architecture"),
        (
            ("activation_bytes", 10**6, 0.1),
            r"adds up over blocks \(params, macs, macs_official\), got 'activation_bytes'",
        ),
        (("flops", 10**6, 0.1), "adds up over blocks .* got 'flops'"),
        (("macs", -1, 0.1), "target and tolerance must be >= 0, got -1 and 0.1"),
        (("macs", 1, -0.1), "target and tolerance must be >= 0"),
        (("macs", 1, math.nan), "target and tolerance must be >= 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_random_at_cost_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_at_cost(cost_table(DNA), *arguments, np.random.default_rng(0))


def test_largest_refused():
    with pytest.raises(ValueError, match="largest_choice: the cost must be one that adds up"):
        largest_choice(cost_table(DNA), "activation_bytes")
