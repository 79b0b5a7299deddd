"""Ranks that retrain a network together: what one process gives, the same bits on all of them, and nothing lost when one fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from ranks_retrain import RECIPES

from dna_fast._files import read_json

CALL = "ranks_retrain:train"


def _run(directory: Path, size: int, **arguments: Any) -> list[dict[str, Any]]:
    """What every rank knows at the end."""
    ranks.run(directory, size, CALL, out=str(directory), **arguments)
    return [read_json(directory / f"known_{rank}.json") for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "local"])
def test_it_is_that_of_one_process(recipe: str, size: int, tmp_path: Path) -> None:
    (alone,) = _run(tmp_path / "alone", 1, recipe=recipe)
    every = _run(tmp_path / "ranks", size, recipe=recipe)
    print(json.dumps([alone, *every]))
    a, b = (torch.load(tmp_path / n / "weights.pt") for n in ("alone", "ranks"))
    for name, x in a.items():
        print(name, float((x.double() - b[name].double()).abs().max()), float(x.double().abs().max()))
