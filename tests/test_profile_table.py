"""Latency tables: sums over layers against whole networks, the correction, files, CSV from other devices, what is missing."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import CONFIG

from dna_fast.architecture import Architecture
from dna_fast.cost import cost_table
from dna_fast.profile_fit import Errors, fit_latency
from dna_fast.profile_layers import LayerKey, Setting, architecture_layers, latency_arrays, space_layers
from dna_fast.profile_table import Network, Profile, Timing, add_latencies, read_csv, write_template
from dna_fast.space import SearchSpace, preset

SPACE = SearchSpace.from_dict(CONFIG["space"])
ALL = list(product(*(range(SPACE.num_candidates(b)) for b in range(len(SPACE.blocks)))))
PLAIN = Setting(1, "float32", "torch")
FUSED = Setting(1, "float32", "fused")


def drawn_ns(multiple: int = 1) -> dict[LayerKey, int]:
    rng = np.random.default_rng(0)
    return {key: multiple * int(rng.integers(1, 5000)) for key in space_layers(SPACE)}


def filled(setting: Setting = PLAIN, *, offset_us: float = 0.0, factor: float = 1.0, networks: int = 0) -> Profile:
    """A profile whose whole networks take offset + factor x the sum of their layers."""
    profile = Profile({"processor": "toy"})
    for key, ns in drawn_ns().items():
        profile.layers[key, setting] = Timing([ns / 1000])
    for choice in ALL[:: len(ALL) // networks][:networks] if networks else ():
        summed = profile.summed_us(Architecture.from_space(SPACE, choice), setting)
        profile.networks[Network(SPACE.sha256, choice), setting] = Timing([offset_us + factor * summed])
    return profile


# ---- sums over layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SPACE, preset("digits")], ids=["small", "digits"])
def test_a_spaces_layers_are_those_of_its_architectures_each_once(space: SearchSpace) -> None:
    layers = space_layers(space)
    assert len(set(layers)) == len(layers)
    rng, found = np.random.default_rng(1), set()
    choices = (
        ALL if space is SPACE else [[int(rng.integers(space.num_candidates(b))) for b in range(3)] for _ in range(2000)]
    )
    for choice in choices:
        found |= set(architecture_layers(Architecture.from_space(space, choice)))
    assert found == set(layers)


def test_table_totals_are_sums_over_every_networks_layers() -> None:
    """In whole microseconds nothing is rounded: the table's sum is the network's, widths between blocks and all."""
    ns = drawn_ns(multiple=1000)
    table = cost_table(SPACE).add("latency_us", latency_arrays(SPACE, ns))
    for choice in ALL:
        layers = architecture_layers(Architecture.from_space(SPACE, choice))
        assert table.total(choice)["latency_us"] == sum(ns[key] for key in layers) // 1000


def test_latencies_are_rounded_up_once_per_candidate() -> None:
    ns = drawn_ns()
    table = cost_table(SPACE).add("latency_us", latency_arrays(SPACE, ns, extra_ns=700))
    excess = [
        1000 * table.total(choice)["latency_us"]
        - sum(ns[key] for key in architecture_layers(Architecture.from_space(SPACE, choice)))
        - 700
        for choice in ALL
    ]
    assert min(excess) >= 0
    assert max(excess) < 1000 * len(SPACE.blocks)


# ---- the correction -------------------------------------------------------------------------------------------------


def test_a_line_is_found_and_predicts_what_it_has_not_seen() -> None:
    summed = np.array([100.0, 150.0, 230.0, 310.0, 420.0])
    found = fit_latency(summed, 12 + 0.9 * summed)
    assert (found.offset_us, found.factor) == pytest.approx((12, 0.9), rel=1e-9)
    assert found.after.worst < 1e-9
    assert found.before.mean == pytest.approx(np.mean(np.abs(summed / (12 + 0.9 * summed) - 1)))
    assert found.helps


def test_networks_are_judged_by_fits_that_leave_them_out() -> None:
    summed, measured = np.array([100.0, 200.0, 300.0, 400.0]), np.array([110.0, 190.0, 330.0, 405.0])
    predicted = []
    for i in range(4):
        keep = np.arange(4) != i
        weights = 1 / measured[keep]
        slope, offset = np.polyfit(summed[keep], measured[keep], 1, w=weights)
        if offset < 0:
            ratio = summed[keep] / measured[keep]
            slope, offset = ratio.sum() / (ratio**2).sum(), 0.0
        predicted.append(offset + slope * summed[i])
    after, expected = fit_latency(summed, measured).after, Errors.of(np.array(predicted), measured)
    assert asdict(after) == pytest.approx(asdict(expected), rel=1e-9)


def test_an_offset_is_never_negative() -> None:
    summed = np.array([100.0, 150.0, 230.0, 310.0])
    found = fit_latency(summed, summed - 40)
    assert found.offset_us == 0
    assert 0 < found.factor < 1


def test_three_networks_are_too_few() -> None:
    with pytest.raises(ValueError, match="expected at least 4 networks to fit a correction, got 3"):
        fit_latency(np.ones(3), np.ones(3))


def test_costs_are_corrected_where_that_helps() -> None:
    profile = filled(offset_us=3.0, factor=1.25, networks=8)
    table = add_latencies(cost_table(SPACE), profile)
    for choice in ALL:
        expected = 3.0 + 1.25 * profile.summed_us(Architecture.from_space(SPACE, choice), PLAIN)
        # rounded up per candidate, and before that to whole nanoseconds per layer
        assert 0 <= table.total(choice)["latency_us"] - expected < len(SPACE.blocks) + 0.01
    correction = table.metadata["latency"]["latency_us"]["correction"]
    assert (correction["offset_us"], correction["factor"]) == pytest.approx((3.0, 1.25))


def test_costs_are_plain_sums_where_the_correction_does_not_help() -> None:
    """Networks that are their sums, but for one far off: fits with it are worse for all the others."""
    profile = filled(networks=6)
    next(iter(profile.networks.values())).samples_us[0] *= 3
    found = profile.fit(SPACE, PLAIN)
    assert found is not None
    assert not found.helps
    plain = add_latencies(cost_table(SPACE), filled())
    table = add_latencies(cost_table(SPACE), profile)
    assert all(table.total(choice) == plain.total(choice) for choice in ALL)
    assert table.metadata["latency"]["latency_us"]["correction"] is None


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    profile = filled(networks=5)
    timing = next(iter(profile.layers.values()))
    timing.samples_us, timing.kept = [3.0, 1.0, 2.0, 10.0, 4.0], "a hook"
    next(iter(profile.networks.values())).peak_bytes = 4096
    profile.save(tmp_path / "p.json", [SPACE])
    assert Profile.load(tmp_path / "p.json") == profile
    record = json.loads((tmp_path / "p.json").read_text())
    assert (record["layers"][0]["median_us"], record["layers"][0]["quartiles_us"]) == (3.0, [2.0, 4.0])
    assert record["fits"][0]["networks"] == 5
    assert set(record["fits"][0]["after"]) == {"mean", "worst", "bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a profile"),
        ({"version": 2}, "expected a version up to 1, got 2"),
        ({"layers": [{"part": "stem"}]}, "damaged"),
    ],
    ids=["format", "version", "damaged"],
)
def test_files_that_are_no_profile(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    filled().save(tmp_path / "p.json")
    (tmp_path / "p.json").write_text(json.dumps(json.loads((tmp_path / "p.json").read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Profile.load(tmp_path / "p.json")


def test_every_missing_layer_is_named() -> None:
    profile = filled()
    gone = space_layers(SPACE)[1::5]
    for key in gone:
        del profile.layers[key, PLAIN]
    assert not profile.is_complete(SPACE)
    with pytest.raises(
        ValueError, match=f"{len(gone)} of {len(space_layers(SPACE))} layers of small are missing"
    ) as told:
        add_latencies(cost_table(SPACE), profile)
    assert all(str(key) in str(told.value) for key in gone)


def test_further_settings_become_costs_of_their_own_where_they_are_complete() -> None:
    profile, half = filled(), Setting(8, "bfloat16", "torch")
    for (key, _), timing in list(profile.layers.items()):
        profile.layers[key, FUSED] = Timing([2 * timing.samples_us[0]])
    profile.layers[space_layers(SPACE)[0], half] = Timing([1.0])
    table = add_latencies(cost_table(SPACE), profile)
    assert [name for name in table.names if name.startswith("latency")] == ["latency_us", "latency_us_b1_float32_fused"]
    assert table.total(ALL[0])["latency_us_b1_float32_fused"] > table.total(ALL[0])["latency_us"]


# ---- measured elsewhere ---------------------------------------------------------------------------------------------


def fill_in(path: Path, change: Any = lambda rows: rows) -> None:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        row["latency_us"] = str(number + 0.5)
    rows = change(rows)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_filled_in_template_gives_costs(tmp_path: Path) -> None:
    path = tmp_path / "phone.csv"
    assert write_template(path, SPACE, 1, "float16") == len(space_layers(SPACE))
    fill_in(path)
    profile = read_csv(path, "phone")
    assert profile.settings == [Setting(1, "float16", "elsewhere")]
    table = add_latencies(cost_table(SPACE), profile)
    latency = {key: number + 0.5 for number, key in enumerate(space_layers(SPACE), start=1)}
    summed = sum(latency[key] for key in architecture_layers(Architecture.from_space(SPACE, ALL[-1])))
    assert 0 <= table.total(ALL[-1])["latency_us"] - summed < len(SPACE.blocks)
    assert table.metadata["latency"]["latency_us"]["device"] == {"device": "phone", "source": "phone.csv"}


def test_an_empty_template_holds_nothing(tmp_path: Path) -> None:
    write_template(tmp_path / "phone.csv", SPACE, 1, "float32")
    with pytest.raises(ValueError, match="it holds no layer"):
        add_latencies(cost_table(SPACE), read_csv(tmp_path / "phone.csv", "phone"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{**rows[0], "kernel": "three"}], "line 2: invalid literal"),
        (lambda rows: [rows[0], {**rows[1], "latency_us": "-1"}], "line 3: latency_us must be > 0, got -1"),
        (lambda rows: [{**rows[0], "latency_us": "inf"}], "line 2: latency_us must be > 0, got inf"),
        (lambda rows: [rows[0], rows[0]], "line 3: stem .* is there twice"),
        (lambda rows: [{"part": "stem"}], "got no in_channels, mid_channels"),
        (lambda rows: [{**rows[0], "dtype": "int8"}], "line 2: profile: dtype must be one of"),
    ],
    ids=["text", "negative", "infinite", "twice", "columns", "dtype"],
)
def test_csv_files_that_do_not_fit(change: Any, message: str, tmp_path: Path) -> None:
    write_template(tmp_path / "phone.csv", SPACE, 1, "float32")
    fill_in(tmp_path / "phone.csv", change)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "phone.csv", "phone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "float32", "torch"), "batch"), ((1, "int8", "torch"), "dtype"), ((1, "float32", "magic"), "implementation")],
    ids=["batch", "dtype", "implementation"],
)
def test_settings_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"profile: {message} must be"):
        Setting(*arguments)


def test_medians_of_even_numbers_lie_between() -> None:
    timing = Timing([1.0, 2.0, 4.0, 100.0])
    assert timing.median_us == 3.0
    assert math.isclose(Timing([5.0]).spread_us[1], 5.0)
