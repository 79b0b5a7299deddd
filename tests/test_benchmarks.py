"""What the benchmarks make of times: ratios, verdicts, files, the page. No time is measured here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, results, roofs, summary
from benchmarks.bench_mbconv import cases, distinct_layers
from benchmarks.results import Entry, Race, Result
from benchmarks.sections import depthwise, feature_mse, mbconv, rate, search, teacher
from benchmarks.targets import TARGETS, Target

MACHINE = {"processor": "some", "torch": "2.15.0"}


def entry(median_s: float, way: str, dtype: str = "float32", allocator: str = "tuned", **fields: Any) -> Entry:
    seconds = {"min": median_s, "q1": median_s, "median": median_s, "q3": median_s, "max": median_s, "rounds": 5}
    return Entry({"way": way, "dtype": dtype, "allocator": allocator, **fields}, seconds)


def result(what: str, *races: Race) -> Result:
    return Result(what, "full", "2026-01-02", "0123456789abcdef", False, MACHINE, races)


# ---- ratios ----------------------------------------------------------------------------------------------------------


def test_geometric_mean() -> None:
    assert summary.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert summary.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "ratios", [[], [1.0, 0.0], [1.0, -2.0], [float("nan")]], ids=["none", "zero", "negative", "nan"]
)
def test_geometric_mean_refuses(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="expected positive numbers"):
        summary.geometric_mean(ratios)


RACE = (
    entry(2.0, "ours", allocator="default", pieces=0),
    entry(1.0, "ours", pieces=0),
    entry(0.5, "ours", "bfloat16", pieces=0),
    entry(9.0, "eager", allocator="default", pieces=0),
    entry(8.0, "compile", allocator="default", pieces=0),
    entry(4.0, "compile", pieces=0),
    entry(3.0, "compile", pieces=4),
    entry(3.5, "autocast", "bfloat16", pieces=0),
    entry(6.0, "autocast", "bfloat16", allocator="default", pieces=0),
)


def test_default_and_tuned_race_whole_batches_under_one_allocator() -> None:
    stand = summary.standing(RACE, "float32")
    assert stand.ratio_default == 4.0  # 8 / 2
    assert stand.ratio_tuned == 4.0  # 4 / 1, not the 3 in pieces


def test_any_takes_pieces() -> None:
    assert summary.standing(RACE, "float32").ratio_any == 3.0


def test_bfloat16_must_beat_float32_opponents_but_not_the_other_way_round() -> None:
    low = summary.standing(RACE, "bfloat16")
    assert (low.tuned, low.any) == (RACE[7], RACE[6])  # autocast among whole batches, compiled float32 in pieces of all
    assert low.ratio_any == 6.0
    assert low.ours_default is None
    assert low.ratio_default is None
    faster_low = (*RACE, entry(0.1, "autocast", "bfloat16", pieces=0))
    assert summary.standing(faster_low, "float32").ratio_any == 3.0


def test_any_counts_the_default_allocator_where_it_is_faster() -> None:
    lucky = entry(1.5, "eager", allocator="default", pieces=0)
    stand = summary.standing((*RACE, lucky), "float32")
    assert stand.any is lucky
    assert stand.ratio_tuned == 4.0


def test_spread() -> None:
    over = summary.spread([2.0, None, 8.0, 4.0])
    assert over is not None
    assert (over.mean, over.worst, over.median, over.count) == (pytest.approx(4.0), 2.0, 4.0, 3)
    assert summary.spread([None]) is None


def test_counted_bound_adds_arithmetic_and_silu() -> None:
    seconds = roofs.counted_bound_s(macs=10**9, silus=16 * 10**6, gflops=200.0, clock_ghz=3.25, threads=2)
    assert seconds == pytest.approx(0.01 + 6.5e6 / 6.5e9)


# ---- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_least", "measured", "verdict"),
    [
        (True, 2.0, "met"),
        (True, 1.5, "falls short: 1.5x of 2x"),
        (False, 2.0, "met"),
        (False, 2.5, "falls short: 2.5x of 2x"),
        (True, None, "not measured"),
    ],
)
def test_verdict(at_least: bool, measured: float | None, verdict: str) -> None:
    assert Target("key", "area", "meaning", at_least, 2, "x").verdict(measured) == verdict


def test_a_near_miss_is_not_rounded_to_met() -> None:
    assert Target("key", "area", "meaning", True, 2.2, "x").verdict(2.199) == "falls short: 2.199x of 2.2x"


def test_targets_have_keys_of_their_own() -> None:
    assert len({target.key for target in TARGETS}) == len(TARGETS)


# ---- files -----------------------------------------------------------------------------------------------------------


def raw_record(**changes: Any) -> dict[str, Any]:
    """As pytest-benchmark writes it, with a plain benchmark and two contestants of a race."""

    def record(file: str, group: str, params: dict[str, Any] | None, extra: dict[str, Any]) -> dict[str, Any]:
        stats = {
            "min": 1.0,
            "q1": 1.1,
            "median": 1.23456789,
            "q3": 1.3,
            "max": 2.0,
            "rounds": 3,
            "data": [1.0, 1.2, 2.0],
        }
        named = {"fullname": f"benchmarks/{file}.py::test[x]", "name": "test[x]", "group": group}
        return {**named, "params": params, "extra_info": extra, "stats": stats}

    race = {"batch": 32}
    return {
        "machine_info": MACHINE,
        "commit_info": {"id": "abc", "dirty": True},
        "datetime": "2026-01-02T03:04:05+00:00",
        "tier": "quick",
        "benchmarks": [
            record("bench_search", "front", {"opponent": "dna_fast"}, {"points": 300}),
            record("bench_mbconv", "layer", {"case": "?"}, {"race": race, "entry": {"way": "ours"}}),
            record("bench_mbconv", "layer", {"case": "?"}, {"race": race, "entry": {"way": "eager"}}),
        ],
    } | changes


def test_record_is_split_by_file_and_stripped() -> None:
    searched, layers = results.from_pytest_benchmark(raw_record())
    assert (searched.what, searched.tier, searched.date, searched.modified) == ("search", "quick", "2026-01-02", True)
    assert searched.races[0].facts == {"points": 300}
    assert searched.races[0].entries[0].fields == {"opponent": "dna_fast"}
    (race,) = layers.races
    assert (race.name, race.facts) == ("layer", {"batch": 32})
    assert [e.fields for e in race.entries] == [{"way": "ours"}, {"way": "eager"}]
    seconds = race.entries[0].seconds
    assert seconds == {"min": 1.0, "q1": 1.1, "median": 1.2346, "q3": 1.3, "max": 2.0, "rounds": 3}


def test_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    for expected in results.from_pytest_benchmark(raw_record()):
        (path,) = results.save([expected], tmp_path)
        assert path.name == f"{expected.what}-2026-01-02.json"
        assert results.read(path) == expected


def test_quick_result_does_not_replace_a_full_one(tmp_path: Path) -> None:
    quick, full = (results.from_pytest_benchmark(raw_record(tier=tier)) for tier in ("quick", "full"))
    results.save(full, tmp_path)
    with pytest.raises(ValueError, match="got a quick one"):
        results.save(quick, tmp_path)
    assert [r.tier for r in results.latest(tmp_path)] == ["full", "full"]
    results.save(full, tmp_path)


def test_latest_prefers_full_then_newest_and_leaves_strangers_out(tmp_path: Path) -> None:
    old = result("search", Race("r", {}, (entry(1.0, "ours"),)))
    results.save([old, replace(old, date="2026-02-01"), replace(old, date="2026-03-01", tier="quick")], tmp_path)
    (tmp_path / "demo-2026-01-01.json").write_text(json.dumps({"what": "something else"}), encoding="utf-8")
    assert [r.date for r in results.latest(tmp_path)] == ["2026-02-01"]


def test_other_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"format": "dna_fast benchmark 99"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.json: expected format"):
        results.read(path)


# ---- cases -----------------------------------------------------------------------------------------------------------


def test_full_tier_has_every_layer_and_operator() -> None:
    assert len(distinct_layers()) == 17
    throughput = [case for case in cases("full") if case.batch == 32]
    assert len({(case.spec, case.size) for case in throughput}) == 17 * 6
    assert len({case.id for case in cases("full")}) == len(cases("full"))


def test_quick_tier_is_part_of_the_full_one() -> None:
    quick, full = ({case.id for case in cases(tier)} for tier in ("quick", "full"))
    assert quick < full


# ---- sections --------------------------------------------------------------------------------------------------------

PEAK = {"clock_ghz": 3.25, "fp32_gflops": 200.0, "bf16_gflops": 400.0}


def layer_race(batch: int, threads: int, entries: tuple[Entry, ...]) -> Race:
    facts = {"batch": batch, "threads": threads, "macs": 10**9, "silus": 16 * 10**6, "peak": PEAK}
    return Race(f"mbconv 24->24 s1 @56 e6k3, N = {batch}, {threads} threads", facts, entries)


def test_mbconv_section() -> None:
    slow = tuple(replace(e, seconds=e.seconds | {"median": 1.6 * e.median_s}) for e in RACE)
    made = mbconv.section(result("mbconv", layer_race(32, 2, RACE), layer_race(1, 1, slow), layer_race(1, 2, RACE)))
    # Bounds: 10 ms + 1 ms of 1 s, and 5 ms + 1 ms of 0.5 s.
    assert made.measured == pytest.approx(
        {
            "mbconv.float32": 3.0,
            "mbconv.bfloat16": 6.0,
            "mbconv.worst": 3.0,
            "mbconv.bound": 1.15,
            "mbconv.one_image": 1.6,
        }
    )
    row, of_one_image = [line for line in made.lines if line.startswith("| 24->24 s1 @56 e6k3 | float32")]
    assert of_one_image == row
    cells = [cell.strip() for cell in row.split("|")[3:-1]]
    assert cells == [
        *("1,000", "8,000", "4,000", "3,000", "compile float32, 4 a piece"),
        *("4.00x", "4.00x", "3.00x", "2.00", "1 %"),
    ]


def test_mbconv_section_without_bfloat16_arithmetic() -> None:
    race = layer_race(32, 2, RACE)
    without = replace(race, facts=race.facts | {"peak": PEAK | {"bf16_gflops": 0.0}})
    assert mbconv.section(result("mbconv", without)).measured["mbconv.bound"] == pytest.approx(1.1)


def test_feature_mse_section() -> None:
    def race(student: str, teacher_: str, eager_s: float) -> Race:
        facts = {"shape": [1, 2, 3, 4], "student": student, "teacher": teacher_}
        entries = (
            entry(1.0, "ours", student),
            entry(3.0, "ours", student, "default"),
            entry(eager_s, "eager-float", student),
            entry(0.5, "compile", student),
        )
        return Race(student + teacher_, facts | {"least_bytes": 10**9, "copy_bytes_per_s": 2e9}, entries)

    both = race("bfloat16", "bfloat16", 2.0), race("bfloat16", "float32", 3.0)
    made = feature_mse.section(result("feature_mse", *both))
    assert made.measured == pytest.approx({"feature_mse.same": 2.0, "feature_mse.mixed": 3.0})
    assert made.lines[-1].endswith("| 50 % |")


def test_depthwise_section() -> None:
    def entries(dtype: str, way: str, *seconds: float) -> tuple[Entry, ...]:
        made = [entry(s, way, dtype, allocator="tuned") for s in seconds]
        passes = ("forward", "input", "weight")
        return tuple(replace(e, fields=e.fields | {"pass": p}) for e, p in zip(made, passes, strict=True))

    facts = {"layer": {"channels": 8, "size": 7, "kernel": 5, "stride": 2}, "batch": 4, "threads": 2}
    all_entries = (
        *entries("float32", "ours", 1.0, 1.0, 2.0),
        *entries("float32", "torch", 1.0, 3.0, 8.0),
        *entries("float32", "torch-nchw", 2.0, 1.0, 20.0),
        *entries("bfloat16", "ours", 1.0, 1.0, 1.0),
        *entries("bfloat16", "torch", 0.5, 50.0, 50.0),
    )
    made = depthwise.section(result("depthwise", Race("c8", facts, all_entries)))
    # All three count per contestant, 12 s of 4 s and not 10; what bfloat16 is slow at may be done in float32.
    assert made.measured == pytest.approx(
        {
            "depthwise.weight_float32": 4.0,
            "depthwise.step_float32": 3.0,
            "depthwise.weight_bfloat16": 8.0,
            "depthwise.step_bfloat16": 4.0,
        }
    )
    (row,) = [line for line in made.lines if line.startswith("| c8 @7 k5 s2 | bfloat16")]
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["1,000", "500", "0.50x"]


def test_rate_section_counts_equal_calibration_only() -> None:
    def race(images: int, official_s: float) -> Race:
        facts = {"depth": 3, "width": 112, "calibration": images, "paths": 216}
        entries = entry(0.1, "ours", paths_timed=432), entry(official_s, "official", paths_timed=12)
        return Race(f"{images}", facts | {"agreement": 2e-6, "agreement_float64": 1e-6}, entries)

    grown = entry(1.0, "ours", allocator="default", max_bytes=1 << 28, growth_bytes=1 << 27)
    memory = Race("memory", {"depth": 3, "width": 112, "calibration": 32}, (grown,))
    made = rate.section(result("rate", race(32, 1.5), race(512, 0.5), memory))
    assert made.measured == pytest.approx({"rate.3x112": 15.0, "rate.agreement": 2e-6, "rate.memory": 50.0})
    assert any("12 of 216" in line for line in made.lines)


def test_teacher_section_counts_the_worse_dtype() -> None:
    facts = {"model": teacher.TARGET_MODEL, "batch": 8}
    entries = (
        *(
            entry(1.0, "ours"),
            entry(0.5, "ours", "bfloat16"),
            entry(3.0, "eager"),
            entry(1.2, "eager-cast", "bfloat16"),
        ),
        *(entry(2.0, "compile"), entry(0.8, "compile", "bfloat16")),
    )
    made = teacher.section(result("teacher", Race("b7", facts, entries)))
    assert made.measured == pytest.approx({"teacher.eager": 2.4, "teacher.compile": 1.6})


def test_search_section() -> None:
    def named(median_s: float, opponent: str) -> Entry:
        return replace(entry(median_s, ""), fields={"opponent": opponent})

    races = Race("optimum, one budget", {}, (named(0.002, "dna_fast"), named(5.0, "highs_raw")))
    alone = Race("top 100, one budget", {}, (replace(entry(0.08, ""), fields={}),))
    made = search.section(result("search", races, alone))
    assert made.measured == pytest.approx({"search.one_budget_ms": 2.0, "search.top_100_ms": 80.0})
    assert "| optimum, one budget | 2.00 | HiGHS | 5,000 | 2,500x |" in made.lines


def test_search_section_says_what_is_proven_of_huge_spaces() -> None:
    def once(median_s: float, opponent: str, gap: float) -> Entry:
        fields = {"opponent": opponent, "loss": 10.5, "gap": gap, "peak_bytes": 3_000_000}
        return replace(entry(median_s, ""), fields=fields)

    def timed(median_s: float, opponent: str) -> Entry:
        return replace(entry(median_s, ""), fields={"opponent": opponent})

    huge = Race("1e100 architectures, two budgets", {}, (once(0.5, "dna_fast", 5e-4), once(60.0, "cp_sat", 0.02)))
    sizes = Race("size 1e5", {"exponent": 5}, (once(0.001, "dna_fast", 0.0),))
    small = Race("optimum, one budget", {}, (timed(0.001, "dna_fast"), timed(0.5, "cp_sat_raw")))
    coupled = Race("optimum, three budgets, costs by the width before", {}, (timed(0.004, "dna_fast"),))
    made = search.section(result("search", small, coupled, huge, sizes))
    expected = {"one_budget_ms": 1.0, "one_budget_ratio": 500.0, "three_budgets_ms": 4.0, "huge_gap": 0.05}
    assert made.measured == pytest.approx({f"search.{name}": value for name, value in expected.items()})
    assert "|  | CP-SAT | 60.000 | 10.500000 | 2.000% | 3 |" in made.lines
    assert "| size 1e5 | dna_fast | 0.001 | 10.500000 | none | 3 |" in made.lines


def test_sizes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    from benchmarks import plot_search

    def run(exponent: int, opponent: str, gap: float) -> Race:
        fields = {"opponent": opponent, "loss": 1.0, "gap": gap, "peak_bytes": 10**exponent}
        return Race(f"size 1e{exponent}", {"exponent": exponent}, (replace(entry(0.1, ""), fields=fields),))

    found = plot_search.series(result("search", run(7, "dna_fast", 0), run(5, "dna_fast", 0), run(5, "highs", 0.1)))
    assert found == {"dna_fast": [(5, 0.1, 0.1, 0), (7, 0.1, 10.0, 0)], "highs": [(5, 0.1, 0.1, 0.1)]}
    monkeypatch.setattr(plot_search, "PATH", tmp_path / "sizes.png")
    plot_search.draw(found)
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="the result holds no sizes"):
        plot_search.draw({})


# ---- the page --------------------------------------------------------------------------------------------------------


def test_committed_page_is_what_the_committed_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(list(results.latest())), "run: make bench-page"


def test_page_shows_every_target_and_section() -> None:
    race = Race("top 100, one budget", {}, (replace(entry(0.5, ""), fields={}),))
    text = page.render([result("search", race)])
    for target in TARGETS:
        assert f"| {target.meaning} | {target.goal} |" in text
    assert "falls short: 500 ms of 20 ms" in text
    assert "search-2026-01-02.json" in text
    assert "- torch: 2.15.0" in text


def test_page_refuses_what_it_has_no_section_for() -> None:
    with pytest.raises(ValueError, match="got weather; add a section"):
        page.render([result("weather")])


def test_every_benchmark_file_has_a_section() -> None:
    files = (Path(page.__file__).parent).glob("bench_*.py")
    assert {path.stem.removeprefix("bench_") for path in files} == page.SECTIONS.keys()
