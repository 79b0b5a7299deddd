"""Training on one process and on two ranks of one machine, every rank with one thread: each placement, against one process.

Request: model, space, batch, bn_group, steps, turns. Each turn starts every way in processes of its own, one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RANKS = 2
WAYS = {"alone": (1, 1), "alone-threads": (1, RANKS), "data": (RANKS, 1), "block": (RANKS, 1)}  # ranks, threads of each
# Losses of replicas differ by the rounding of gradients that are added up in halves, which Adam's division by their own size can turn
# into a different step where a gradient is next to nothing: after a few steps a share of 1e-3 of a loss at the most.
TOLERANCE = 1e-3


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per way the seconds of a step and what it sent; losses are compared with the one process's first."""
    entries: dict[str, dict[str, Any]] = {}
    expected: list[list[float]] = []
    for turn in range(request["turns"]):
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            found = _run(way, request)
            if way == "alone" and not expected:
                expected = found["losses"]
            error = _error(found.pop("losses"), expected)
            check(way, error, found)
            ranks, threads = WAYS[way]
            entry = entries.setdefault(
                way, {"way": way, "ranks": ranks, "threads": threads, "error": error, "seconds": []}
            )
            entry["seconds"].append(found.pop("seconds"))
            entry.update(found)
    return {"entries": list(entries.values()), "facts": {}}


def check(way: str, error: float, found: dict[str, Any]) -> None:
    """Raises AssertionError where a way trains something else, or sends other than was predicted."""
    most = TOLERANCE if way in ("data", "alone-threads") else 0.0
    assert error <= most, f"{way}: expected the losses of one process within {most:g}, got {error:.2e}"
    for rank, sent in enumerate(found.get("sent", [])):
        for what in ("features", "gradients"):
            counted = sent[f"counted_{what}"]
            assert sent[what] == counted, (
                f"{way}: rank {rank} sent {sent[what]} bytes of {what} a step, predicted {counted}"
            )


def _error(losses: list[list[float]], expected: list[list[float]]) -> float:
    pairs = [(a, b) for mine, other in zip(losses, expected, strict=True) for a, b in zip(mine, other, strict=True)]
    return max(abs(a / b - 1) for a, b in pairs)


def _run(way: str, request: dict[str, Any]) -> dict[str, Any]:
    ranks, threads = WAYS[way]
    with tempfile.TemporaryDirectory() as directory:
        asked, answer = Path(directory) / "request.json", Path(directory) / "answer.json"
        asked.write_text(json.dumps({**request, "placement": way if ranks > 1 else None}), encoding="utf-8")
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *launcher, "benchmarks.rank_worker", str(asked), str(answer)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{way}: exit status {done.returncode}; it ended with\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found
