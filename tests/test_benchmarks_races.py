"""How benchmarks measure: checked before timed, each race in its own process, sessions that can be continued."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import worker
from benchmarks.agreement import check_close, layer_tolerance
from benchmarks.baselines_torch import WAYS, forward_of, mbconv_layer, settle_norms
from benchmarks.race import Contestant, Pace, race
from benchmarks.races.mbconv import work
from benchmarks.worker import Races

PACE = Pace(turns=2, turn_s=0.0)


class Counter:
    """Something to race: gives its answer and counts its calls."""

    def __init__(self, answer: int = 1) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self) -> int:
        self.calls += 1
        return self.answer


def is_one(answer: int) -> dict[str, Any]:
    assert answer == 1, f"expected 1, got {answer}"
    return {"error": 0.0}


def test_race_reports_fields_checks_and_times() -> None:
    first, second = Counter(), Counter()
    entries = race([Contestant({"way": "a"}, first, is_one), Contestant({"way": "b"}, second, is_one)], PACE)
    assert [(e["way"], e["error"], len(e["seconds"])) for e in entries] == [("a", 0.0, 2), ("b", 0.0, 2)]
    assert first.calls == second.calls == 1 + 2 * 2  # checked once, and warmed up in every turn
    assert all(seconds > 0 for e in entries for seconds in e["seconds"])


def test_nothing_is_timed_if_one_answer_is_wrong() -> None:
    right, wrong, unseen = Counter(), Counter(2), Counter()
    entrants = [Contestant({"way": way}, run, is_one) for way, run in (("a", right), ("b", wrong), ("c", unseen))]
    with pytest.raises(AssertionError, match=r"'way': 'b'.*expected 1, got 2"):
        race(entrants, PACE)
    assert (right.calls, wrong.calls, unseen.calls) == (1, 1, 0)


def test_turns_alternate() -> None:
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda: order.append(name)

    def accept(answer: object) -> dict[str, Any]:
        return {}

    race([Contestant({}, note(name), accept) for name in "ab"], PACE)
    assert "".join(order) == "ab" + "aabb" + "bbaa"  # checks, first turn, second turn in reverse


def test_a_slow_contestant_is_timed_once() -> None:
    slow, fast = Counter(), Counter()

    def run_slowly() -> int:
        time.sleep(0.05)
        return slow()

    entrants = [Contestant({"way": "slow"}, run_slowly, is_one), Contestant({"way": "fast"}, fast, is_one)]
    entries = race(entrants, replace(PACE, once_above_s=0.04))
    assert (slow.calls, fast.calls) == (1, 1 + 2 * 2)
    assert [len(e["seconds"]) for e in entries] == [1, 2]
    assert entries[0]["seconds"][0] >= 0.05


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_rounding_passes_and_mistakes_do_not() -> None:
    expected = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tolerance = layer_tolerance(100, torch.float32)
    assert check_close(expected.float(), expected=expected, tolerance=tolerance)["error"] < 2**-23
    one_off, missing = expected.clone(), expected.clone()
    one_off[1, 3, 2, 2] += 1e-3
    missing[0, 0, 0, 0] = float("nan")
    for wrong in (one_off, missing, expected * 1.001, expected.flip(0)):
        with pytest.raises(AssertionError, match="expected"):
            check_close(wrong, expected=expected, tolerance=tolerance)
    with pytest.raises(AssertionError, match="expected shape"):
        check_close(expected[:1], expected=expected, tolerance=tolerance)


def test_bfloat16_rounding_passes_and_a_lost_kernel_tap_does_not() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        layer = mbconv_layer(16, 48, 24, 3, 1, 4)
        x = torch.randn(2, 16, 10, 10).contiguous(memory_format=torch.channels_last)
        settle_norms(layer, x)
        expected = layer.double()(x.bfloat16().double())
        layer.float()
        tolerance = layer_tolerance(16 + 9 + 48, torch.bfloat16)
        run = forward_of(layer, "eager-cast", torch.bfloat16)
        check_close(run(x.bfloat16()), expected=expected, tolerance=tolerance)
        layer.get_parameter("conv_dw.weight")[:, :, 0, 0] = 0
        run = forward_of(layer, "eager-cast", torch.bfloat16)
        with pytest.raises(AssertionError, match="expected an error of at most"):
            check_close(run(x.bfloat16()), expected=expected, tolerance=tolerance)


def test_pieces_give_the_same_answer() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        layer = mbconv_layer(16, 48, 16, 5, 1, 4)
        x = torch.randn(5, 16, 6, 6).contiguous(memory_format=torch.channels_last)
        whole, parts = (forward_of(layer, "eager", torch.float32, pieces)(x) for pieces in (0, 2))
    assert parts.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize(
    ("way", "dtype"), [("autocast", torch.float32), ("eager", torch.bfloat16), ("warp", torch.float32)]
)
def test_unknown_way_is_refused(way: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"expected one of {', '.join(WAYS)} that runs in {dtype}, got '{way}'"):
        forward_of(torch.nn.Identity(), way, dtype)


def test_work_is_counted_exactly() -> None:
    spec = {"in_channels": 2, "mid_channels": 8, "out_channels": 3, "kernel": 3, "stride": 2, "se_channels": 1}
    # 5 x 5 -> 3 x 3: expansion 16 * 25, depthwise 72 * 9, gates 16, projection 24 * 9; SiLU on 8 * 25, 8 * 9 and the gate.
    assert work(spec, 2, 5) == {"macs": 2 * (400 + 648 + 16 + 216), "silus": 2 * (200 + 72 + 1)}


# ---- processes -------------------------------------------------------------------------------------------------------


def test_layer_race_in_its_own_process(tmp_path: Path) -> None:
    layer = {"in_channels": 16, "mid_channels": 48, "out_channels": 24, "kernel": 3, "stride": 2, "se_channels": 4}
    request = {
        "layer": layer,
        "size": 9,
        "batch": 3,
        "dtypes": ["float32", "bfloat16"],
        "ways": ["ours", "eager", "autocast"],
        "pieces": [2],
        "allocators": ["default", "tuned"],
        "threads": 1,
        "pace": {"turns": 1, "turn_s": 0.0},
    }
    answer = Races("identity", tmp_path / "races.jsonl").run("mbconv", request)
    found = [(e["way"], e["dtype"], e["allocator"], e["pieces"]) for e in answer["entries"]]
    assert len(found) == len(set(found)) == 4 + 6  # pieces are tried with the tuned allocator only
    assert all(e["error"] < 2**-6 and e["seconds"] for e in answer["entries"])
    assert answer["facts"]["peak"]["fp32_gflops"] > 0


def test_failed_race_says_why_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    races = Races("identity", tmp_path / "races.jsonl")
    with pytest.raises(RuntimeError, match=r"No module named 'benchmarks\.races\.weather'"):
        races.run("weather", {})
    monkeypatch.setattr(worker, "_in_own_process", lambda *_: {"entries": []})
    with pytest.raises(RuntimeError, match="weather"):
        races.run("weather", {})


def test_race_that_takes_too_long_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"race mbconv .* not done after 0\.01 s"):
        Races("identity", tmp_path / "races.jsonl").run("mbconv", {}, timeout_s=0.01)


def test_interrupted_session_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(module: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(request["n"])
        return {"n": request["n"]}

    monkeypatch.setattr(worker, "_in_own_process", answer)
    journal = tmp_path / "folder" / "races.jsonl"
    first = Races("identity", journal)
    assert [first.run("x", {"n": n}) for n in (1, 2, 1)] == [{"n": 1}, {"n": 2}, {"n": 1}]
    assert asked == [1, 2]  # once each
    with open(journal, "a", encoding="utf-8") as file:
        file.write('{"key": "cut o')  # killed while writing
    again = Races("identity", journal, resume=True)
    assert again.run("x", {"n": 2}) == {"n": 2}
    assert asked == [1, 2]
    Races("other sources", journal, resume=True).run("x", {"n": 2})
    assert asked == [1, 2, 2]
    Races("identity", journal).run("x", {"n": 2})
    assert asked == [1, 2, 2, 2]
