"""Training on two ranks, from bench_ranks.py's result."""

from __future__ import annotations

from typing import Any

from benchmarks.layout import Section, table, three_digits, times
from benchmarks.results import Entry, Result

WAYS = {
    "alone": "one process, one thread",
    "alone-threads": "one process, two threads",
    "data": "two ranks, `data`",
    "block": "two ranks, `block`",
}
HEAD = (
    "way",
    "blocks x replicas",
    "images/s",
    "against one thread",
    "predicted",
    "features sent",
    "gradients averaged",
    "predicted bytes",
)


def section(result: Result) -> Section:
    """A row per way; bytes are those of the rank that sends most."""
    (race,) = result.races
    facts, found = race.facts, {entry.fields["way"]: entry for entry in race.entries}
    base = found["alone"].median_s
    rows = [_row(WAYS[way], found[way], facts["batch"], base) for way in WAYS if way in found]
    lines = [
        f"{facts['model']} teaches the cells of the space `{facts['space']}`, {facts['batch']} images a step in groups of",
        f"{facts['bn_group']}, float32, random weights, the same images again and again; {facts['steps']} steps behind as many that warm",
        "up, until the last rank has finished the last. Ranks are processes of one machine with a thread each, who talk by gloo. Checked",
        "first: `block` has the losses of one process to the last bit, `data` to rounding, and every rank has sent exactly the bytes that",
        "were predicted for its paths. Predicted speeds are from costs measured before, for each block alone, over all of its",
        "operators, while both ranks measure.",
        "",
        *table(HEAD, rows, text_columns=2),
    ]
    return Section("Training on two ranks, CPU", lines, {})


def _row(label: str, entry: Entry, batch: int, base: float) -> list[str]:
    own: dict[str, Any] = entry.fields
    sent = own.get("sent", [])
    predicted = times(base / own["predicted_s"]) if "predicted_s" in own else "-"
    most = [max((rank[what] for rank in sent), default=0) for what in ("features", "gradients")]
    counted = max((rank["counted_features"] + rank["counted_gradients"] for rank in sent), default=0)
    sizes = [f"{three_digits(value / 1e6)} MB" if value else "-" for value in (*most, counted)]
    speed = three_digits(batch / entry.median_s)
    return [label, own.get("stages", "-"), speed, times(base / entry.median_s), predicted, *sizes]
