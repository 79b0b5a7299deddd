"""The compiled module called directly and wrongly: words, never a crash."""

from __future__ import annotations

import numpy as np
import pytest

from dna_fast import _solver

LOSS = [np.zeros(2), np.zeros(3)]
COST = ("macs", "sum", [np.ones(2, np.int64), np.ones(3, np.int64)], None, 5)
LABELS = [np.array([0, 1]), None]
TWO_ROWS = [np.zeros(2), np.zeros((2, 3))]


def with_cost(position: int, value: object) -> list:
    return [tuple(value if i == position else part for i, part in enumerate(COST))]


def arguments(**changed: object) -> dict:
    usual = {"losses": LOSS, "costs": [COST], "labels": [None, None], "top_k": 1, "method": "auto"}
    return usual | {"time_limit_s": None, "max_states": 1000, "beam_width": 64} | changed


BROKEN = {
    "no_blocks": ({"losses": [], "costs": [], "labels": []}, ValueError, "at least one block"),
    "empty_block": ({"losses": [np.zeros(0), np.zeros(3)]}, ValueError, "no candidates|must hold"),
    "float32": ({"losses": [np.zeros(2, np.float32), np.zeros(3)]}, TypeError, "C-contiguous float64"),
    "strided": ({"losses": [np.zeros(4)[::2], np.zeros(3)]}, TypeError, "ascontiguousarray"),
    "list": ({"losses": [[0.0, 1.0], np.zeros(3)]}, TypeError, "float64 array"),
    "scalar": ({"losses": [np.zeros(()), np.zeros(3)]}, ValueError, "got 0 dimensions"),
    "three_dimensions": ({"losses": [np.zeros((1, 1, 2)), np.zeros(3)]}, ValueError, "got 3 dimensions"),
    "no_rows": ({"losses": [np.zeros((0, 2)), np.zeros(3)]}, ValueError, "at least one row"),
    "rows_in_block_0": ({"losses": [np.zeros((2, 2)), np.zeros(3)]}, ValueError, "block 0 has no block before"),
    "nan": ({"losses": [np.array([0, np.nan]), np.zeros(3)]}, ValueError, "block 0, candidate 1 must be finite"),
    "losses_overflow": ({"losses": [np.full(2, 1e308)] + [np.full(3, 1e308)]}, ValueError, "could leave float64"),
    "cost_blocks": ({"costs": with_cost(2, [np.ones(2, np.int64)])}, ValueError, "one array per block"),
    "cost_length": ({"costs": with_cost(2, [np.ones(3, np.int64)] * 2)}, ValueError, "must hold 2 candidates"),
    "cost_int32": ({"costs": with_cost(2, [np.ones(2, np.int32)] * 2)}, TypeError, "C-contiguous int64"),
    "cost_negative": ({"costs": with_cost(2, [np.array([1, -1]), COST[2][1]])}, ValueError, "must not be negative"),
    "cost_overflow": (
        {"costs": with_cost(2, [np.full(2, 2**62), np.full(3, 2**62)])},
        ValueError,
        "could leave int64 at block 1",
    ),
    "cost_short_tuple": ({"costs": [COST[:3]]}, ValueError, "a cost must be"),
    "cost_reduce": ({"costs": with_cost(1, "mean")}, ValueError, "reduce must be"),
    "labels_missing": ({"losses": TWO_ROWS}, ValueError, "labels of block 0 must hold one label per candidate"),
    "labels_none_given": ({"losses": TWO_ROWS, "labels": []}, ValueError, "labels of block 0"),
    "labels_count": ({"labels": [None]}, ValueError, "one array per block"),
    "label_too_large": ({"losses": TWO_ROWS, "labels": [np.array([0, 2]), None]}, ValueError, "below the 2 rows"),
    "label_negative": ({"losses": TWO_ROWS, "labels": [np.array([0, -1]), None]}, ValueError, "codes 0, 1"),
    "label_huge": ({"losses": TWO_ROWS, "labels": [np.array([0, 2**40]), None]}, ValueError, "codes 0, 1"),
    "label_rows": ({"losses": TWO_ROWS, "labels": [np.zeros((2, 1), np.int64), None]}, ValueError, r"must be \[n\]"),
    "rows_disagree": (
        {
            "losses": TWO_ROWS,
            "labels": LABELS,
            "costs": with_cost(2, [np.ones(2, np.int64), np.ones((3, 3), np.int64)]),
        },
        ValueError,
        "3 rows where another array has 2",
    ),
    "top_k": ({"top_k": 0}, ValueError, "at least 1"),
    "max_states": ({"max_states": 0}, ValueError, "at least 1"),
    "method": ({"method": "bean"}, ValueError, "'auto', 'front', 'branch_and_bound' or 'beam', got 'bean'"),
    "negative_top_k": ({"top_k": -1}, TypeError, "incompatible function arguments"),
}


@pytest.mark.parametrize(("changed", "error", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_wrong_call_raises(changed: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        _solver.solve(**arguments(**changed))


def test_right_call_solves() -> None:
    result = _solver.solve(**arguments(losses=TWO_ROWS, labels=LABELS))
    assert (result["status"], result["best"][0]["choice"]) == ("optimal", [0, 0])


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e300, float("inf")])
def test_any_time_limit_is_survived(seconds: float) -> None:
    result = _solver.solve(**arguments(time_limit_s=seconds))
    assert result["status"] in ("optimal", "feasible", "limit")
