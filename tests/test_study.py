"""Ranking studies: agreement by scipy and by counting pairs, buckets, intervals, comparisons, CSV files, the published set."""

from __future__ import annotations

import json
import math
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dna_fast import cli
from dna_fast.architecture import Architecture, from_zoo
from dna_fast.space import Frame, MBConvSpec
from dna_fast.study import Columns, Models, equal_cost_buckets, equal_ratios, read_models, study
from dna_fast.study_published import published_architectures, published_models
from dna_fast.study_report import print_study, verdict, write_study
from dna_fast.study_scores import entropy
from dna_fast.study_statistics import Resamples, coefficient, grouped_tau, replicates


def rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def some_models(count: int = 30, *, noise: float = 0.5, **changes: Any) -> Models:
    """Truth follows the score "good"; "noise" knows nothing; macs range over a factor of about 1.6."""
    draw = rng(count)
    truth = draw.normal(size=count)
    macs = draw.uniform(100, 160, count)
    scores = {"good": truth + noise * draw.normal(size=count), "noise": draw.normal(size=count), "macs": macs}
    given = {
        "title": "toy",
        "names": [f"m{i}" for i in range(count)],
        "truth_name": "top1",
        "truth": truth,
        "scores": scores,
        "cost_name": "macs",
        "cost": macs,
    }
    return Models(**{**given, **changes})


def by_counting(score: Any, truth: Any, groups: Any) -> float:
    """tau-b over pairs of one group, pair by pair."""
    concordant = by_score = by_truth = 0
    for i, j in combinations(range(len(score)), 2):
        if groups[i] == groups[j]:
            a, b = np.sign(score[i] - score[j]), np.sign(truth[i] - truth[j])
            concordant, by_score, by_truth = concordant + a * b, by_score + a * a, by_truth + b * b
    return float(concordant / math.sqrt(by_score * by_truth))


# ---- the figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "tied"])
def test_tau_within_groups_counts_pairs(ties: bool) -> None:
    draw = rng(1, ties)
    score, truth = (draw.integers(0, 5, 40) if ties else draw.normal(size=40) for _ in range(2))
    groups = draw.integers(0, 4, 40)
    ones = np.ones((1, 40))
    assert grouped_tau(score, truth, groups, ones)[0] == pytest.approx(by_counting(score, truth, groups), abs=1e-12)
    together = np.zeros(40, dtype=np.int64)
    assert grouped_tau(score, truth, together, ones)[0] == pytest.approx(stats.kendalltau(score, truth)[0], abs=1e-12)


def test_tau_of_more_models_than_are_looked_at_at_once() -> None:
    draw = rng(2)
    score, truth = draw.normal(size=1100), draw.normal(size=1100)
    found = grouped_tau(score, truth, np.zeros(1100, dtype=np.int64), np.ones((1, 1100)))[0]
    assert found == pytest.approx(stats.kendalltau(score, truth)[0], abs=1e-12)


@pytest.mark.parametrize("name", ["kendall", "spearman", "pearson"])
def test_replicates_are_the_coefficient_of_each_resample(name: str) -> None:
    models, of = some_models(12), {"kendall": "kendalltau", "spearman": "spearmanr", "pearson": "pearsonr"}[name]
    resamples = Resamples.draw(np.zeros(12, dtype=np.int64), 20, rng(3))
    found = replicates(name, models.scores["good"], models.truth, resamples)
    for row, value in zip(resamples.indices, found, strict=True):
        assert value == pytest.approx(getattr(stats, of)(models.scores["good"][row], models.truth[row])[0], abs=1e-12)


def test_resamples_keep_the_size_of_every_group_and_weigh_what_was_drawn() -> None:
    groups = np.array([2, 0, 0, 1, 2, 2, 0])
    resamples = Resamples.draw(groups, 50, rng(4))
    assert (np.sort(groups[resamples.indices], axis=1) == np.sort(groups)).all()
    assert (groups[resamples.indices] == groups).all()
    for row, weights in zip(resamples.indices, resamples.weights, strict=True):
        assert weights.tolist() == np.bincount(row, minlength=7).tolist()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """160 studies of 23 normal models with tau = 2 / pi asin(0.85); 95 % give or take three standard errors of 1.7 %."""
    true, held, draw = 2 / math.pi * math.asin(0.85), 0, rng(5)
    for _ in range(160):
        truth = draw.normal(size=23)
        score = 0.85 * truth + math.sqrt(1 - 0.85**2) * draw.normal(size=23)
        found = coefficient("kendall", score, truth, Resamples.draw(np.zeros(23, dtype=np.int64), 400, draw))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high
    assert held / 160 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 160)


def test_a_study_repeats_with_its_seed() -> None:
    models = some_models()
    assert study(models, rng(0)).to_dict() == study(models, rng(0)).to_dict()
    assert study(models, rng(0)).to_dict() != study(models, rng(1)).to_dict()


def test_intervals_at_equal_cost_come_from_each_buckets_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Resamples.draw

    def remembering(groups: Any, *rest: Any) -> Resamples:
        drawn.append(groups.tolist())
        return draw(groups, *rest)

    monkeypatch.setattr(Resamples, "draw", remembering)
    models = some_models()
    found, (overall, inside) = study(models, rng(0)), drawn
    assert overall == [0] * 30
    assert [sum(number == i for number in inside) for i in range(len(found.buckets))] == [
        len(bucket.models) for bucket in found.buckets
    ]
    resamples = Resamples.draw(np.array(overall), found.resamples, (again := rng(0)))
    within = Resamples.draw(np.array(inside), found.resamples, again)
    taus = grouped_tau(models.scores["good"], models.truth, found.groups, within.weights)
    assert len(resamples.indices) == len(taus)
    expected = found.agreements[0].within
    assert (expected.low, expected.high) == pytest.approx(tuple(np.quantile(taus, (0.025, 0.975))))


def test_less_is_better_turns_a_score() -> None:
    models = some_models()
    turned = some_models(scores={**models.scores, "good": -models.scores["good"]}, lower_is_better=frozenset({"good"}))
    before, after = study(models, rng(0)), study(turned, rng(0))
    assert before.agreements[0].overall == after.agreements[0].overall
    assert before.agreements[0].within == after.agreements[0].within


def test_a_score_that_is_only_the_cost_says_nothing_at_equal_cost() -> None:
    """Truth rises with macs from bucket to bucket and falls within: all of the agreement is the cost's."""
    macs = np.repeat([100.0, 200.0, 400.0], 5) + np.tile(np.arange(5.0), 3)
    truth = np.repeat([1.0, 2.0, 3.0], 5) - np.tile(np.arange(5.0), 3) / 100
    models = some_models(15, truth=truth, cost=macs, scores={"macs": macs, "truth": truth})
    found = study(models, rng(0))
    assert [len(bucket.models) for bucket in found.buckets] == [5, 5, 5]
    of_macs, of_truth = found.agreements
    assert of_macs.overall["kendall"].value > 0.3
    assert (of_macs.within.value, of_truth.within.value) == (-1.0, 1.0)
    assert [bucket["kendall"].value for bucket in of_macs.buckets] == [pytest.approx(-1.0)] * 3
    (difference,) = found.comparisons
    assert difference.within.value == -2.0
    assert verdict(difference) == "truth ranks better"


def test_two_scores_are_compared_on_the_same_models() -> None:
    """A score against its own shadow differs by nothing, although either alone is uncertain."""
    models = some_models()
    twice = some_models(scores={"good": models.scores["good"], "again": 2 * models.scores["good"] + 1})
    (same,) = study(twice, rng(0)).comparisons
    assert (same.overall.value, same.overall.low, same.overall.high) == (0.0, 0.0, 0.0)
    assert verdict(same) == "not distinguishable"
    first = study(models, rng(0)).comparisons[0]
    assert (first.first, first.second) == ("good", "noise")
    assert verdict(first) == "good ranks better"


# ---- buckets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "width", "sizes"),
    [
        ([100, 109, 110], 0.1, [3]),
        ([100, 111, 121.1], 0.1, [1, 1, 1]),
        ([100, 100, 100], 0.1, [3]),
        ([100, 101, 400], 1.0, [2, 1]),
    ],
    ids=["one", "three", "constant", "wide"],
)
def test_buckets_are_no_wider_than_asked(cost: list[float], width: float, sizes: list[int]) -> None:
    values = np.array(cost, dtype=np.float64)
    edges = equal_ratios(values, width)
    buckets = equal_cost_buckets(values, edges)
    assert [len(bucket.models) for bucket in buckets] == sizes
    for bucket in buckets:
        assert bucket.high <= bucket.low * (1 + width) * (1 + 1e-9)
        assert all(bucket.low <= values[m] <= bucket.high for m in bucket.models)


def test_models_keep_the_buckets_they_were_drawn_from() -> None:
    found = study(some_models(edges=(90.0, 130.0, 170.0)), rng(0), bucket_width=0.01)
    assert [(bucket.low, bucket.high) for bucket in found.buckets] == [(90.0, 130.0), (130.0, 170.0)]
    with pytest.raises(ValueError, match=r"costs run from .* the buckets from 120 to 170"):
        study(some_models(edges=(120.0, 170.0)), rng(0))


# ---- what cannot be ranked ------------------------------------------------------------------------------------------


def test_few_models_get_figures_without_intervals() -> None:
    found = study(some_models(7), rng(0)).agreements[0].overall["kendall"]
    assert found.value is not None
    assert found.low is None
    assert "7 models, expected at least 8" in found.why


def test_a_constant_score_ranks_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from dna_fast.display import Display

    models = some_models(scores={"flat": np.full(30, 4.0), **some_models().scores})
    found = study(models, rng(0))
    flat = found.agreements[0]
    assert {estimate.value for estimate in (*flat.overall.values(), flat.within)} == {None}
    assert found.comparisons[0].overall.value is None
    print_study(found, Display())
    assert "flat, overall: the score is 4 for all 30 models: it ranks nothing" in capsys.readouterr().out
    json.dumps(found.to_dict(), allow_nan=False)


def test_models_alone_in_their_buckets_have_no_agreement_at_equal_cost() -> None:
    found = study(some_models(cost=np.geomspace(1, 1e9, 30)), rng(0)).agreements[0]
    assert found.within.value is None
    assert found.within.why == "no bucket holds two models"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": np.full(30, 74.0)}, "top1 is 74 for all 30 models: there is nothing to rank"),
        ({"truth": np.array([np.nan, *range(29)])}, "top1 must be finite, got nan for m0"),
        ({"cost": np.zeros(30)}, "macs must be > 0"),
        ({"cost": np.ones(3)}, r"macs needs a value per model, 30, got \(3,\)"),
        (
            {"lower_is_better": frozenset({"rating"})},
            "lower is better for rating, but the scores are good, noise, macs",
        ),
    ],
    ids=["constant", "nan", "free", "length", "unknown"],
)
def test_models_that_make_no_study(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_models(**changes)


def test_two_models_are_too_few() -> None:
    with pytest.raises(ValueError, match="expected at least 3 models, got 2"):
        some_models(2)


# ---- the published set ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> Any:
    return study(published_models(), rng(0, 0))


def test_published_figures_are_reproduced(published: Any) -> None:
    taus = {a.score: a.overall["kendall"].value for a in published.agreements}
    assert {name: round(tau, 3) for name, tau in taus.items() if name != "entropy"} == {
        "rating": 0.644,
        "macs": 0.755,
        "params": 0.708,
    }


def test_published_params_rank_by_what_is_counted() -> None:
    """0.71 as counted here, 0.70 with squeeze-excites of a quarter of the expanded width: what the remark says."""
    models = published_models()
    wider = []
    for arch, params in zip(published_architectures(), models.scores["params"], strict=True):
        layers = [spec for block in arch.blocks for spec in block]
        own = sum(2 * s.mid_channels * s.se_channels + s.se_channels for s in layers)
        wide = sum(2 * s.mid_channels * (s.mid_channels // 4) + s.mid_channels // 4 for s in layers)
        wider.append(params - own + wide)
    assert round(stats.kendalltau(wider, models.truth)[0], 3) == 0.700
    assert any("0.708" in remark and "0.700" in remark for remark in models.remarks)


def test_published_networks_are_23_with_18_layers_each() -> None:
    architectures = published_architectures()
    assert [sum(map(len, arch.blocks)) for arch in architectures] == [18] * 23
    first = architectures[0].blocks[1][0]
    assert (first.in_channels, first.mid_channels, first.out_channels, first.kernel, first.stride) == (
        24,
        144,
        40,
        5,
        2,
    )


def test_published_rating_is_not_told_from_macs_at_equal_cost(published: Any) -> None:
    """Its within-bucket difference from macs has an interval around zero: 23 models do not decide."""
    difference = next(c for c in published.comparisons if (c.first, c.second) == ("rating", "macs"))
    assert difference.within.low < 0 < difference.within.high
    assert difference.overall.value == pytest.approx(0.644 - 0.755, abs=1e-3)


def test_entropy_by_hand() -> None:
    """One logarithm per convolution: in_channels x kernel^2 / groups; then the last feature map, 16 channels at 4 x 4 pixels."""
    frame = Frame(stem_channels=6, stem_width=4, head_channels=16, resolution=16)
    blocks = ((MBConvSpec(4, 12, 8, 5, 2, 1), MBConvSpec(8, 16, 8, 3, 1, 0)),)
    convolutions = [3 * 9, 9, 6, 4, 25, 12, 8, 9, 16, 8]
    expected = math.log(16 * 4 * 4) * sum(map(math.log, convolutions))
    assert entropy(Architecture("toy", frame, blocks)) == pytest.approx(expected, rel=1e-12)
    assert entropy(from_zoo("dna_d")) > entropy(from_zoo("dna_a"))


# ---- files and the command line -------------------------------------------------------------------------------------


def write_csv(path: Path, models: Models) -> Path:
    lines = ["net,acc,macs,good,noise"]
    for i, name in enumerate(models.names):
        values = (models.truth[i], models.cost[i], models.scores["good"][i], models.scores["noise"][i])
        lines.append(",".join([name, *map(repr, map(float, values))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_file_gives_the_same_study(tmp_path: Path) -> None:
    models = some_models()
    read = read_models(write_csv(tmp_path / "mine.csv", models), Columns("acc", ("good", "noise"), "macs", name="net"))
    assert list(read.scores) == ["good", "noise", "macs"]
    assert list(read.names) == models.names
    there, here = (study(m, rng(0)).agreements for m in (read, models))
    assert [a.overall for a in there] == [a.overall for a in here]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns("acurracy", (), "macs"), "no column 'acurracy'; did you mean 'acc'"),
        (Columns("acc", ("net",), "macs"), "line 2: net must be a number, got 'm0'"),
    ],
    ids=["missing", "text"],
)
def test_a_csv_file_that_does_not_fit(columns: Columns, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_models(write_csv(tmp_path / "mine.csv", some_models()), columns)


def test_files_of_a_study(tmp_path: Path, published: Any) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        write_study(published, directory)
    record = json.loads((first / "study.json").read_text())
    assert len(record["models"]) == 23
    assert record["agreements"][0]["score"] == "rating"
    assert (first / "study.png").read_bytes()[:4] == b"\x89PNG"
    assert (first / "study.png").read_bytes() == (second / "study.png").read_bytes()


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dna-fast", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_command_on_the_published_set(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    assert run("study", "published", "--out", str(tmp_path), "--json", monkeypatch=monkeypatch) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "study.json").read_text())


def test_command_on_a_csv_file(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COLUMNS", "200")
    file = write_csv(tmp_path / "mine.csv", some_models())
    options = ("--truth", "acc", "--scores", "good,noise", "--lower", "noise", "--out", str(tmp_path))
    assert run("study", str(file), *options, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "noise (less is better)" in out
    assert "good - noise" in out
    assert run("study", str(tmp_path / "none.csv"), monkeypatch=monkeypatch) == 2
