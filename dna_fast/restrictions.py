"""Fixed and forbidden candidates, cells and operators of a space, as masks for the solver.

A rule is text. Blocks and operators go by number, cells by layers x width, paths by their operators:

    3:4x112         a cell of block 3
    3:4x112:0215    a candidate of block 3
    3:op2           operator 2 in block 3
    op2             operator 2 in every block

To fix a cell or a candidate leaves nothing else in its block; to fix an operator leaves the paths that consist of it. To forbid an
operator removes the paths that hold it anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dna_fast.space import SearchSpace

Mask = NDArray[np.bool_]

_RULE = re.compile(r"(?:(?P<block>\d+):)?(?:op(?P<op>\d+)|(?P<depth>\d+)x(?P<width>\d+)(?::(?P<path>\d+))?)")


def masks(space: SearchSpace, fix: Sequence[str] = (), forbid: Sequence[str] = ()) -> list[Mask]:
    """Per block [n_b]: the candidates that the rules leave.

    Raises:
        ValueError: no rule of the forms above, no such block, cell, path or operator, or a block that nothing is left of.
    """
    allowed = [np.ones(space.num_candidates(b), bool) for b in range(len(space.blocks))]
    for rules, fixing in ((fix, True), (forbid, False)):
        for text in rules:
            for block, mask in _matches(space, text, fixing):
                allowed[block] &= mask if fixing else ~mask
                if not allowed[block].any():
                    verb = "fixing" if fixing else "forbidding"
                    raise ValueError(f"search: {verb} {text!r} leaves no candidate of block {block}")
    return allowed


def rules_in_words(fix: Sequence[str], forbid: Sequence[str], min_differences: int) -> list[str]:
    """For people, a phrase each; none where nothing is ruled."""
    rules = [f"{verb} {', '.join(texts)}" for verb, texts in (("fixed", fix), ("forbidden", forbid)) if texts]
    return [*rules, f"every two differ in at least {min_differences} blocks"] if min_differences > 1 else rules


def _matches(space: SearchSpace, text: str, every_layer: bool) -> list[tuple[int, Mask]]:
    rule = _RULE.fullmatch(text.strip())
    if rule is None or (rule["op"] is None and rule["block"] is None):
        raise ValueError(
            f"search: expected BLOCK:LAYERSxWIDTH, BLOCK:LAYERSxWIDTH:PATH, BLOCK:opN or opN, such as 3:4x112, got {text!r}"
        )
    if rule["block"] is not None and int(rule["block"]) >= len(space.blocks):
        raise ValueError(f"search: {text!r}: blocks run from 0 to {len(space.blocks) - 1}")
    if rule["op"] is not None:
        if int(rule["op"]) >= len(space.choices):
            raise ValueError(f"search: {text!r}: operators run from 0 to {len(space.choices) - 1}")
        blocks = range(len(space.blocks)) if rule["block"] is None else [int(rule["block"])]
        return [(b, _paths_of(space, b, int(rule["op"]), every_layer)) for b in blocks]
    return [_cell_or_candidate(space, text, rule)]


def _cell_or_candidate(space: SearchSpace, text: str, rule: re.Match[str]) -> tuple[int, Mask]:
    block, mask = int(rule["block"]), np.zeros(space.num_candidates(int(rule["block"])), bool)
    cells = space.blocks[block].cells
    shapes = [f"{cell.depth}x{cell.width}" for cell in cells]
    wanted = f"{int(rule['depth'])}x{int(rule['width'])}"
    if wanted not in shapes:
        raise ValueError(f"search: {text!r}: block {block} has no such cell, only {', '.join(shapes)}")
    cell = shapes.index(wanted)
    if rule["path"] is None:
        start = space.cell_offset(block, cell)
        mask[start : start + space.num_paths(cells[cell])] = True
    else:
        try:
            mask[space.candidate_index(block, cell, [int(digit) for digit in rule["path"]])] = True
        except ValueError as error:
            raise ValueError(f"search: {text!r}: {error}") from error
    return block, mask


def _paths_of(space: SearchSpace, block: int, operator: int, every_layer: bool) -> Mask:
    """Paths with the operator in every layer, or in any."""
    parts = []
    for cell in space.blocks[block].cells:
        paths = np.arange(space.num_paths(cell))
        digits = np.stack([paths // len(space.choices) ** layer % len(space.choices) for layer in range(cell.depth)])
        hits = digits == operator
        parts.append(hits.all(axis=0) if every_layer else hits.any(axis=0))
    return np.concatenate(parts)
