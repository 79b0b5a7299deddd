"""Spaces: counting, order, the bijection between paths and indices, and what is refused."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dna_fast.space import Block, Cell, Choice, Frame, MBConvSpec, SearchSpace, preset

DNA = preset("dna")


def test_dna_numbers():
    assert sum(len(block.cells) for block in DNA.blocks) == 16
    assert [DNA.num_candidates(b) for b in range(6)] == [288, 1548, 1548, 2808, 16848, 6]
    assert sum(DNA.num_candidates(b) for b in range(6)) == 23_046
    assert DNA.num_architectures == 195_898_498_887_057_408
    assert [c.name for c in DNA.choices] == ["e6k3", "e6k5", "e6k7", "e3k3", "e3k5", "e3k7"]
    assert [DNA.nominal_width(b) for b in range(6)] == [16, 24, 40, 80, 112, 192]
    assert [DNA.out_size(b) for b in range(6)] == [56, 28, 14, 14, 7, 7]
    assert [DNA.input_widths(b) for b in range(6)] == [(16,), (24, 32), (40,), (80,), (96, 112), (160, 192)]


@pytest.mark.parametrize("name", ["dna", "digits"])
def test_presets_fold(name):
    assert preset(name).fold_problems() == []


@pytest.mark.parametrize("name", ["dna", "digits"])
def test_every_candidate_is_its_index(name):
    space = preset(name)
    for b, block in enumerate(space.blocks):
        index = 0
        for c in range(len(block.cells)):
            for path in space.paths(b, c).tolist():
                assert space.candidate(b, index) == (c, tuple(path))
                assert space.candidate_index(b, c, path) == index
                index += 1
        assert index == space.num_candidates(b)


cells = st.lists(st.builds(Cell, st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=4, unique=True).map(tuple)
spaces = st.builds(
    SearchSpace,
    st.just("any"),
    st.lists(st.builds(Choice, st.sampled_from([1, 3, 5]), st.integers(1, 6)), min_size=1, max_size=4, unique=True).map(
        tuple
    ),
    st.lists(st.builds(Block, st.integers(1, 3), cells), min_size=1, max_size=4).map(tuple),
)


@given(spaces, st.data())
def test_bijection_and_order_of_any_space(space, data):
    b = data.draw(st.integers(0, len(space.blocks) - 1))
    first, second = sorted(data.draw(st.integers(0, space.num_candidates(b) - 1)) for _ in range(2))
    (cell, path), (next_cell, next_path) = space.candidate(b, first), space.candidate(b, second)
    assert space.candidate_index(b, cell, path) == first
    assert (cell, path) <= (next_cell, next_path)
    assert space.labels(b)[first] == space.blocks[b].cells[cell].width


@given(spaces)
def test_dict_round_trip(space):
    again = SearchSpace.from_dict(space.to_dict())
    assert again == space
    assert again.sha256 == space.sha256


def test_hash_follows_every_field():
    other = SearchSpace.from_dict({**DNA.to_dict(), "frame": {"bn_eps": 1e-3}})
    assert other.sha256 != DNA.sha256


def test_first_layer_follows_the_neighbour_and_nothing_else_does():
    nominal, wide = DNA.layers(1, 0), DNA.layers(1, 0, in_width=32)
    assert nominal[1:] == wide[1:]
    spec = DNA.mbconv(wide[0], 0)
    assert (spec.in_channels, spec.mid_channels, spec.se_channels) == (32, 144, 6)


def test_sizes_round_up():
    space = SearchSpace("odd", (Choice(3, 2),), (Block(2, (Cell(1, 4),)),) * 3, Frame(resolution=17))
    assert [space.frame.stem_size, *(space.out_size(b) for b in range(3))] == [9, 5, 3, 2]


def test_summary_of_a_space_beyond_floats():
    space = SearchSpace("huge", DNA.choices, (Block(1, (Cell(8, 16),)),) * 60)
    assert space.num_architectures > 10**308
    assert "3.26e+373 architectures" in space.summary()
    assert "1.96e+17" in DNA.summary()


def test_fold_problem_is_named():
    space = SearchSpace("s", DNA.choices, (Block(2, (Cell(1, 24),)), Block(1, (Cell(2, 32), Cell(2, 24)))))
    assert space.fold_problems() == ["block 1 cell 1: its first layer has a residual (stride 1, width 24 in and out)"]


def changed(path, value):
    data = copy.deepcopy(DNA.to_dict())
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["nam"], "x", "unknown key 'nam'; did you mean 'name'"),
        (["frame", "resolutoin"], 224, "space.frame: unknown key 'resolutoin'; did you mean 'resolution'"),
        (
            ["blocks", 0, "cells", 0, "wide"],
            3,
            r"space.blocks\[0\].cells\[0\]: unknown key 'wide'; did you mean 'width'",
        ),
        (["blocks", 2], {"stride": 1}, r"space.blocks\[2\]: missing key 'cells'"),
        (["blocks", 2, "cells"], [], "at least one cell"),
        (["blocks", 2, "cells"], [{"depth": 2, "width": 8}] * 2, "cells must differ"),
        (["blocks"], [], "at least one block"),
        (["blocks"], 3, "a list or mapping was expected"),
        (["choices"], [], "at least one operator"),
        (["choices", 0, "kernel"], 4, "kernel must be odd, got 4"),
        (["choices", 0, "expand_ratio"], 0, "expand_ratio must be a positive integer, got 0"),
        (["choices", 0, "expand_ratio"], 2.5, "expand_ratio must be a positive integer, got 2.5"),
        (["choices", 1], {"kernel": 3, "expand_ratio": 6}, "choices must differ"),
        (["blocks", 0, "stride"], True, "stride must be a positive integer, got True"),
        (["frame", "padding"], "valid", "padding must be one of symmetric, same, got 'valid'"),
        (["frame", "se_ratio"], 1.5, "se_ratio must lie in"),
        (["frame", "bn_eps"], 0, "bn_eps must be > 0"),
        (["frame", "bn_eps"], math.nan, "bn_eps must be > 0"),
        (["frame"], [], "expected a mapping"),
    ],
    ids=lambda value: (
        ".".join(map(str, value)) if isinstance(value, list) and value and isinstance(value[0], str) else ""
    ),
)
def test_refused(path, value, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_dict(changed(path, value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("dnb"), "unknown preset 'dnb'; known: dna, digits"),
        (lambda: DNA.candidate(0, 288), "block 0: candidates run from 0 to 287, got 288"),
        (lambda: DNA.candidate(0, -1), "candidates run from 0 to 287, got -1"),
        (lambda: DNA.candidate(6, 0), "blocks run from 0 to 5, got 6"),
        (lambda: DNA.candidate_index(0, 3, (0, 0)), "cells run from 0 to 2, got 3"),
        (lambda: DNA.candidate_index(0, 0, (0, 0, 0)), "a path has 2 choices"),
        (lambda: DNA.candidate_index(0, 0, (0, 6)), "choices run from 0 to 5, got 6"),
        (lambda: MBConvSpec(8, 8, 8, 3, 1, -1), "se_channels must be"),
        (lambda: MBConvSpec(8, 8, 8, 3, 1, 1.5), "se_channels must be"),
        (lambda: MBConvSpec(8, 8, 8, 2, 1, 0), "kernel must be odd"),
        (lambda: MBConvSpec(8, 0, 8, 3, 1, 0), "mid_channels must be a positive integer, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_file(tmp_path):
    path = tmp_path / "space.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"space.json: not valid JSON"):
        SearchSpace.from_file(path)


def test_labels_are_widths():
    np.testing.assert_array_equal(np.unique(DNA.labels(0), return_counts=True), [[24, 32], [252, 36]])
