"""Architectures: from spaces, files, timm's strings and the zoo, and back."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dna_fast.architecture import Architecture, from_zoo, random_choice, uniform_choice, zoo
from dna_fast.space import Block, Cell, Choice, Frame, MBConvSpec, SearchSpace, preset

DNA, DIGITS = preset("dna"), preset("digits")
ODD = SearchSpace(
    "odd",
    (Choice(3, 1), Choice(5, 5), Choice(9, 7)),
    (Block(1, (Cell(1, 18), Cell(2, 33), Cell(1, 7))), Block(2, (Cell(2, 10), Cell(2, 113))), Block(1, (Cell(3, 57),))),
    Frame(stem_channels=14, stem_width=6, se_ratio=0.3, resolution=40),
)


def random_architectures(space, number, seed=0):
    rng = np.random.default_rng(seed)
    return [Architecture.from_space(space, random_choice(space, rng)) for _ in range(number)]


# ---- from a space ---------------------------------------------------------------------------------------------------


def test_first_layers_follow_the_neighbour():
    choice = [DNA.candidate_index(0, 2, (0, 5)), 0, 0, DNA.candidate_index(3, 2, (0, 0, 3, 1)), 0, 4]
    arch = Architecture.from_space(DNA, choice, "mine")
    assert (arch.name, arch.candidates, arch.frame) == ("mine", tuple(choice), DNA.frame)
    assert arch.blocks[0] == (MBConvSpec(16, 96, 32, 3, 2, 4), MBConvSpec(32, 96, 32, 7, 1, 8))
    assert arch.blocks[1][0] == MBConvSpec(32, 144, 40, 3, 2, 6)  # mid and se of the nominal 24
    assert arch.blocks[3][2] == MBConvSpec(96, 288, 96, 3, 1, 24)
    assert arch.blocks[4][0] == MBConvSpec(96, 672, 192, 3, 2, 28)  # nominal 112
    assert arch.blocks[5] == (MBConvSpec(192, 576, 320, 5, 1, 48),)


def test_numpy_indices_become_plain(tmp_path):
    arch = Architecture.from_space(DNA, np.zeros(6, dtype=np.int64))
    assert arch.name == "dna-0-0-0-0-0-0"
    arch.save(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json") == arch


def test_choices_without_search():
    choice = uniform_choice(DNA, [0, 1, 2, 0, 1, 0], 4)
    arch = Architecture.from_space(DNA, choice)
    assert [len(layers) for layers in arch.blocks] == [2, 3, 4, 3, 5, 1]
    assert {spec.kernel for layers in arch.blocks for spec in layers} == {5}
    draws = np.array([random_choice(DNA, np.random.default_rng(seed)) for seed in range(50)])
    assert (draws >= 0).all()
    assert (draws < [DNA.num_candidates(b) for b in range(6)]).all()
    assert random_choice(DNA, np.random.default_rng(3)) == random_choice(DNA, np.random.default_rng(3))


# ---- the zoo --------------------------------------------------------------------------------------------------------


def test_zoo_uses_the_actual_width():
    assert zoo() == ("dna_a", "dna_b", "dna_c", "dna_d", "efficientnet_b0")
    arch = from_zoo("dna_a")
    assert [len(layers) for layers in arch.blocks] == [3, 4, 4, 4, 5, 1]
    assert [layers[-1].out_channels for layers in arch.blocks] == [24, 40, 80, 96, 160, 320]
    assert arch.blocks[4][0] == MBConvSpec(96, 576, 160, 5, 2, 24)
    assert arch.blocks[5][0] == MBConvSpec(160, 960, 320, 3, 1, 40)
    assert arch.candidates is None


def test_efficientnet_b0_is_timms():
    timm = pytest.importorskip("timm")
    from torch import device

    with device("meta"):
        model = timm.create_model("efficientnet_b0")
    arch = from_zoo("efficientnet_b0")
    for stage, layers in zip(model.blocks[1:], arch.blocks, strict=True):
        assert [built_spec(layer) for layer in stage] == list(layers)
    strings = [
        ["ds_r1_k3_s1_e1_c16_se0.25"],
        ["ir_r2_k3_s2_e6_c24_se0.25"],
        ["ir_r2_k5_s2_e6_c40_se0.25"],
        ["ir_r3_k3_s2_e6_c80_se0.25"],
        ["ir_r3_k5_s1_e6_c112_se0.25"],
        ["ir_r4_k5_s2_e6_c192_se0.25"],
        ["ir_r1_k3_s1_e6_c320_se0.25"],
    ]
    assert Architecture.from_timm(strings, Frame(), "efficientnet_b0") == arch


def built_spec(layer):
    """What timm built, read off its modules."""
    se = getattr(layer.se, "conv_reduce", None)
    return MBConvSpec(
        layer.conv_pw.in_channels,
        layer.conv_pw.out_channels,
        layer.conv_pwl.out_channels,
        layer.conv_dw.kernel_size[0],
        layer.conv_dw.stride[0],
        0 if se is None else se.out_channels,
    )


# ---- timm's strings -------------------------------------------------------------------------------------------------


def test_strings_read_well():
    assert from_zoo("dna_c").to_timm()[:2] == [
        ["ds_r1_k3_s1_c16_se0.25"],
        ["ir_r1_k5_s2_e6_c24_se0.25", "ir_r1_k3_s1_e6_c24_se0.25"],
    ]
    wide = Architecture.from_space(DNA, [DNA.cell_offset(0, 2), 0, 0, DNA.cell_offset(3, 2), 0, 0])
    assert wide.to_timm()[2][0] == "ir_r1_k3_s2_e4.5_c40_se0.1875"  # 144 and 6 channels from 32
    assert wide.to_timm()[5][0].startswith("ir_r1_k3_s2_e7_c192_se0.29")  # 672 and 28 from 96


@pytest.mark.parametrize(
    ("space", "divisor"), [(DNA, 8), (DNA, 1), (DIGITS, 1), (ODD, 1)], ids=lambda v: getattr(v, "name", v)
)
def test_strings_round_trip(space, divisor):
    for arch in random_architectures(space, 300):
        again = Architecture.from_timm(arch.to_timm(), arch.frame, arch.name, mid_divisor=divisor)
        assert again == replace(arch, candidates=None)


@pytest.mark.parametrize("name", zoo())
def test_strings_of_the_zoo_round_trip(name):
    arch = from_zoo(name)
    assert Architecture.from_timm(arch.to_timm(), arch.frame, name) == arch


@pytest.mark.parametrize("nominal", [8, 16, 24, 40, 112, 192])
@pytest.mark.parametrize("expand", [1, 3, 4, 6])
def test_every_pair_of_widths_has_exact_decimals(nominal, expand):
    frame = Frame()
    for actual in range(1, 400):
        spec = MBConvSpec(actual, nominal * expand, 32, 3, 2, round(nominal * 0.25))
        arch = Architecture("a", replace(frame, stem_width=actual), ((spec,),))
        assert Architecture.from_timm(arch.to_timm(), arch.frame, "a") == arch


def test_half_channels_round_as_in_timm():
    """Python rounds 4.5 to 4; timm multiplies 0.25 / 6 by 108 and may get another half."""
    space = SearchSpace(
        "s", tuple(Choice(3, e) for e in range(1, 9)), (Block(2, (Cell(1, 18), Cell(1, 10))), Block(2, (Cell(1, 8),)))
    )
    for e in range(8):
        for cell in range(2):
            arch = Architecture.from_space(space, (cell * 8 + e, e))
            assert arch.blocks[1][0].se_channels == 4
            assert Architecture.from_timm(arch.to_timm(), space.frame, arch.name, mid_divisor=1).blocks == arch.blocks


def test_repeats_and_stride():
    strings = [["ds_r1_k3_s1_c16_se0.25"], ["ir_r2_k3_s2_e6_c24", "ir_r2_k5_s1_e2.5_c24_se0.25"]]
    arch = Architecture.from_timm(strings, Frame(), "m")
    assert arch.blocks == (
        (
            MBConvSpec(16, 96, 24, 3, 2, 0),
            MBConvSpec(24, 144, 24, 3, 1, 0),
            MBConvSpec(24, 64, 24, 5, 1, round(64 * (0.25 / 2.5))),  # 60 rounds to 64, and 0.25 of 24 with it
            MBConvSpec(24, 64, 24, 5, 1, 6),
        ),
    )


def test_timm_builds_what_the_strings_mean():
    pytest.importorskip("timm")
    from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def
    from torch import device, nn

    strings = [
        ["ds_r1_k3_s1_c16_se0.25"],
        ["ir_r2_k3_s2_e6_c24", "ir_r2_k5_s1_e2.5_c24_se0.25"],
        ["ir_r1_k3_s1_e4.3_c44_se0.5"],
    ]
    archs = [Architecture.from_timm(strings, Frame(), "m"), *random_architectures(DNA, 25, seed=4)]
    for arch, arch_def in zip(archs, [strings, *(arch.to_timm() for arch in archs[1:])], strict=True):
        with device("meta"):
            from timm.models._efficientnet_blocks import SqueezeExcite

            builder = EfficientNetBuilder(
                act_layer=nn.SiLU, norm_layer=nn.BatchNorm2d, se_layer=SqueezeExcite, round_chs_fn=int
            )
            stages = builder(arch.frame.stem_channels, decode_arch_def(arch_def))
        assert stages[0][0].se.conv_reduce.out_channels == arch.frame.stem_se_channels
        for stage, layers in zip(stages[1:], arch.blocks, strict=True):
            assert [built_spec(layer) for layer in stage] == list(layers)
            assert [layer.has_skip for layer in stage] == [spec.has_residual for spec in layers]


GOOD_STEM = ["ds_r1_k3_s1_c16_se0.25"]


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ([GOOD_STEM, ["ir_r1_k3_s2_e6_c24_nre"]], "timm string 'ir_r1_k3_s2_e6_c24_nre': cannot read option 'nre'"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e6_c16_noskip"]], "cannot read option 'noskip'"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e6_c16_skip"]], "cannot read option 'skip'"),
        ([GOOD_STEM, ["ir_r1_k3.5_s1_e6_c16"]], "cannot read option 'k3.5'"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e6_c16_cc4"]], "cannot read option 'cc4'"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e6_e3_c16"]], "cannot read option 'e3'"),
        ([GOOD_STEM, ["ir_r0_k3_s1_e6_c16"]], "cannot read option 'r0'"),
        ([GOOD_STEM, ["ir_k3_s1_e6"]], "expected r, k, s, e, c, each once, got no r, c"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e0_c16"]], "the expansion e must be > 0"),
        ([GOOD_STEM, ["ir_r1_k4_s1_e6_c16"]], "ir_r1_k4_s1_e6_c16': layer: kernel must be odd, got 4"),
        ([GOOD_STEM, ["cn_r1_k3_s1_c16"]], "timm string 'cn_r1_k3_s1_c16': expected a layer of type 'ir' here"),
        ([GOOD_STEM, [3]], "timm string 3: expected a layer of type 'ir'"),
        ([GOOD_STEM, ["ir_r1_k3_s1_e6_c16", "ir_r1_k3_s2_e6_c16"]], "a stride inside a stage, which timm ignores"),
        ([GOOD_STEM, []], "at least one block and one layer in each"),
        ([GOOD_STEM], "expected the stem's stage and at least one more"),
        ([["ir_r1_k3_s1_e1_c16"], ["ir_r1_k3_s1_e6_c16"]], "expected a layer of type 'ds'"),
        ([GOOD_STEM * 2, ["ir_r1_k3_s1_e6_c16"]], "the first stage must be one ds string"),
        (
            [["ds_r1_k3_s1_c24_se0.25"], ["ir_r1_k3_s1_e6_c16"]],
            r"the frame's stem has .* \(1, 3, 1, 16, 8\), got \(1, 3, 1, 24, 8\)",
        ),
        ([["ds_r1_k3_s1_c16"], ["ir_r1_k3_s1_e6_c16"]], r"got \(1, 3, 1, 16, 0\); pass the frame"),
        ([["ds_r1_k3_s1_e2_c16_se0.25"], ["ir_r1_k3_s1_e6_c16"]], "cannot read option 'e2'"),
    ],
    ids=lambda value: "_".join(map(str, value[-1])) if isinstance(value, list) else "",
)
def test_strings_refused(strings, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_timm(strings, Frame(), "m")


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch", [from_zoo("dna_d"), *random_architectures(DNA, 3), *random_architectures(ODD, 3)], ids=lambda a: a.name
)
def test_file_round_trip(tmp_path, arch):
    arch.save(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json") == arch
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_file_holds_every_layer():
    data = from_zoo("dna_c").to_dict()
    assert data["blocks"][0][0] == {
        "in_channels": 16,
        "mid_channels": 96,
        "out_channels": 24,
        "kernel": 5,
        "stride": 2,
        "se_channels": 4,
    }


def changed(path, value):
    data = json.loads(json.dumps(Architecture.from_space(DNA, [0] * 6).to_dict()))
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "dna_fast.costs", "format must be 'dna_fast.architecture', got 'dna_fast.costs'"),
        (["version"], 2, "version must be 1 to 1, got 2; a newer one needs a newer dna_fast"),
        (["version"], True, "version must be 1 to 1, got True"),
        (["candidate"], [0], "unknown key 'candidate'; did you mean 'candidates'"),
        (["name"], KeyError, "missing key 'name'"),
        (["frame", "resolutions"], 3, "architecture.frame: unknown key 'resolutions'; did you mean 'resolution'"),
        (["blocks", 1, 0, "kernal"], 3, r"architecture.blocks\[1\]\[0\]: unknown key 'kernal'; did you mean 'kernel'"),
        (["blocks", 1, 0, "kernel"], KeyError, r"architecture.blocks\[1\]\[0\]: missing key 'kernel'"),
        (["blocks", 1, 0, "kernel"], 2, "kernel must be odd, got 2"),
        (["blocks", 1, 0, "kernel"], "3", "kernel must be a positive integer, got '3'"),
        (["blocks", 1, 0, "se_channels"], None, "se_channels"),
        (["blocks", 1, 0, "in_channels"], 32, "block 1 layer 0: in_channels must be the width before it, 24, got 32"),
        (["blocks", 1, 1, "stride"], 2, "block 1 layer 1: only a first layer may have a stride, got 2"),
        (["blocks"], [], "needs at least one block and one layer in each"),
        (["blocks", 2], [], "needs at least one block and one layer in each"),
        (["blocks"], 3, "a value has the wrong type"),
        (["blocks", 0, 0], 3, "expected a mapping"),
        (["candidates"], [0], r"candidates must be one index per block, 6, got \(0,\)"),
        (["candidates", 0], -1, "candidates must be one index per block"),
        (["candidates", 0], 1.5, "candidates must be one index per block"),
    ],
    ids=lambda value: (
        ".".join(map(str, value)) if isinstance(value, list) and value and isinstance(value[0], str) else ""
    ),
)
def test_file_refused(tmp_path, path, value, message):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(ValueError, match=message) as raised:
        Architecture.load(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_damaged_file(tmp_path, content):
    file = tmp_path / "a.json"
    with pytest.raises(ValueError, match="no such file"):
        Architecture.load(file)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        Architecture.load(file)


# ---- what is refused elsewhere --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_zoo("dna_e"), "unknown network 'dna_e'; did you mean 'dna_d'|'dna_a'"),
        (
            lambda: from_zoo("efficientnet"),
            "did you mean 'efficientnet_b0'[?] Known: dna_a, dna_b, dna_c, dna_d, efficientnet_b0",
        ),
        (lambda: Architecture.from_space(DNA, [0, 0]), r"one candidate per block, 6, got \[0, 0\]"),
        (lambda: Architecture.from_space(DNA, [0, 0, 0, 0, 0, 6]), "block 5: candidates run from 0 to 5, got 6"),
        (lambda: uniform_choice(DNA, [0], 0), r"one cell per block, 6, got \[0\]"),
        (lambda: uniform_choice(DNA, [0, 0, 0, 0, 0, 1], 0), "block 5: cells run from 0 to 0, got 1"),
        (lambda: uniform_choice(DNA, [0] * 6, 6), "choices run from 0 to 5, got 6"),
    ],
    ids=["zoo", "zoo-nearest", "blocks", "candidate", "cells", "cell", "operator"],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fractional_index_refused():
    with pytest.raises(TypeError, match="integer"):
        Architecture.from_space(DNA, [0, 0, 0, 0, 0, 1.9])
