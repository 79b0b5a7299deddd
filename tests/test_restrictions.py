"""Rules about candidates, cells and operators, against every candidate asked one by one; and in a query."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dna_fast.cost import cost_table
from dna_fast.query import Query, answer, write_answer
from dna_fast.restrictions import masks, rules_in_words
from dna_fast.space import preset
from dna_fast.tables import RatingTable

SPACE = preset("digits")
CELLS = [[f"{cell.depth}x{cell.width}" for cell in block.cells] for block in SPACE.blocks]
ALL = [[SPACE.candidate(b, i) for i in range(SPACE.num_candidates(b))] for b in range(len(SPACE.blocks))]


def left(fix: tuple[str, ...] = (), forbid: tuple[str, ...] = ()) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Per block the (cell, path) that the masks leave."""
    return [[ALL[b][i] for i in np.flatnonzero(mask)] for b, mask in enumerate(masks(SPACE, fix, forbid))]


def test_no_rules_leave_everything() -> None:
    assert left() == ALL


def test_cells() -> None:
    fixed, forbidden = left(fix=(f"1:{CELLS[1][0]}",)), left(forbid=(f"1:{CELLS[1][0]}",))
    assert fixed[1] == [c for c in ALL[1] if c[0] == 0]
    assert forbidden[1] == [c for c in ALL[1] if c[0] != 0]
    assert fixed[0] == forbidden[0] == ALL[0]


def test_candidates() -> None:
    cell, path = ALL[0][-1]
    rule = f"0:{CELLS[0][cell]}:{''.join(map(str, path))}"
    assert left(fix=(rule,))[0] == [(cell, path)]
    assert left(forbid=(rule,))[0] == ALL[0][:-1]


@pytest.mark.parametrize("operator", range(len(SPACE.choices)))
def test_operators(operator: int) -> None:
    everywhere = left(forbid=(f"op{operator}",))
    assert everywhere == [[c for c in block if operator not in c[1]] for block in ALL]
    one = left(forbid=(f"1:op{operator}",))
    assert (one[0], one[1]) == (ALL[0], everywhere[1])
    only = left(fix=(f"op{operator}",))
    assert only == [[c for c in block if set(c[1]) == {operator}] for block in ALL]


def test_rules_add_up() -> None:
    rules = left(fix=(f"0:{CELLS[0][0]}",), forbid=("0:op0", "op1"))
    assert rules[0] == [c for c in ALL[0] if c[0] == 0 and not {0, 1} & set(c[1])]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("3x24", "expected BLOCK:LAYERSxWIDTH, .* got '3x24'"),
        ("0:3y24", "expected BLOCK:LAYERSxWIDTH"),
        ("", "expected BLOCK:LAYERSxWIDTH"),
        ("99:op1", "blocks run from 0 to"),
        ("op99", "operators run from 0 to"),
        ("0:77x1", "block 0 has no such cell, only"),
        (f"0:{CELLS[0][0]}:9999999", "a path has"),
    ],
    ids=["no_block", "form", "empty", "block", "operator", "cell", "path"],
)
def test_wrong_rules_are_refused(rule: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        masks(SPACE, forbid=(rule,))


def test_nothing_left_is_refused() -> None:
    rules = tuple(f"0:{cell}" for cell in CELLS[0])
    with pytest.raises(ValueError, match=r"forbidding .* leaves no candidate of block 0"):
        masks(SPACE, forbid=rules)


ASKED = ("bounds", "metric", "fix", "forbid", "min_differences")


def query(**changed) -> Query:
    rng = np.random.default_rng(0)
    losses = [rng.random(SPACE.num_candidates(b)) for b in range(len(SPACE.blocks))]
    return Query(RatingTable.from_losses(SPACE, losses), cost_table(SPACE), **changed)


def test_query_with_rules_and_choices_apart() -> None:
    free = answer(query(top=1)).solutions[0]
    cell, path = SPACE.candidate(0, free.candidates[0])
    rule = f"0:{CELLS[0][cell]}:{''.join(map(str, path))}"
    without = answer(query(top=3, forbid=(rule,), min_differences=len(SPACE.blocks))).solutions
    assert all(found.candidates[0] != free.candidates[0] for found in without)
    assert without[0].loss > free.loss
    for i, one in enumerate(without):
        for other in without[:i]:
            assert all(a != b for a, b in zip(one.candidates, other.candidates, strict=True))


def test_query_refuses_wrong_rules_at_once() -> None:
    with pytest.raises(ValueError, match="operators run from 0 to"):
        query(fix=("op99",))


def test_an_answer_keeps_what_was_asked(tmp_path: Path) -> None:
    bound = {"macs": (None, int(query().costs.total([0] * len(SPACE.blocks))["macs"] * 2))}
    asked = query(
        bounds=bound, metric="relative_l1", fix=(f"0:{CELLS[0][1]}",), forbid=("1:op0", "op2"), min_differences=2
    )
    given = answer(asked)
    write_answer(asked, given, tmp_path)
    again = query().as_answered(tmp_path)
    assert [getattr(again, name) for name in ASKED] == [getattr(asked, name) for name in ASKED]
    assert answer(again).solutions == given.solutions
    assert given.solutions != answer(query(bounds=bound)).solutions


def test_an_answer_without_rules_is_one_of_an_earlier_release(tmp_path: Path) -> None:
    write_answer(query(), answer(query()), tmp_path)
    known = json.loads((tmp_path / "search.json").read_text())
    (tmp_path / "search.json").write_text(json.dumps({k: v for k, v in known.items() if k not in ASKED[2:]}))
    again = query(forbid=("op1",)).as_answered(tmp_path)
    assert (again.fix, again.forbid, again.min_differences) == ((), (), 1)


def test_rules_in_words() -> None:
    assert rules_in_words(("3:4x112", "op2"), ("1:op0",), 3) == [
        "fixed 3:4x112, op2",
        "forbidden 1:op0",
        "every two differ in at least 3 blocks",
    ]
    assert rules_in_words((), (), 1) == []
