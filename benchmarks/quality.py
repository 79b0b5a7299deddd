"""Are the networks good that are found, and do ratings and summed latencies hold? What `make study` and the pilot measured, kept and told.

`python -m benchmarks.quality RUN` keeps what the studies of a run directory left there as benchmarks/results/study-<date>.json.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.layout import table
from benchmarks.results import FOLDER
from dna_fast.about import facts
from dna_fast.provenance import revision

PARTS = {"assembled": "assembled/assembled.json", "comparison": "comparison/comparison.json", "profile": "profile.json"}
INITS = {"scratch": "from scratch", "head": "inherited, head alone", "inherited": "inherited, trained on"}


def record(run: Path) -> dict[str, Any]:
    """Whatever studies a run directory holds; of the profile the device and the fits.

    Raises:
        ValueError: none of them.
    """
    found = {
        name: json.loads((run / file).read_text(encoding="utf-8"))
        for name, file in PARTS.items()
        if (run / file).exists()
    }
    if not found:
        raise ValueError(f"{run}: expected one of {', '.join(PARTS.values())}, found none; run: make study")
    if "profile" in found:
        found["profile"] = {key: found["profile"][key] for key in ("device", "fits")}
    stages = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    return {
        "what": "studies of the demo's run",
        "date": str(datetime.date.today()),
        "revision": revision(),
        "machine": facts(),
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        **found,
    }


def lines(folder: Path = FOLDER) -> list[str]:
    """Of docs/benchmarks.md: the newest study and the newest pilot."""
    told: list[str] = []
    for what, tell in (("study", _study), ("pilot", _pilot)):
        paths = sorted(folder.glob(f"{what}-*.json"))
        if paths:
            data = json.loads(paths[-1].read_text(encoding="utf-8"))
            origin = f"[{paths[-1].name}](../benchmarks/results/{paths[-1].name}), {data['date']}, revision {str(data['revision'])[:10]}"
            told += ["", *tell(data, origin)] if told else tell(data, origin)
    return told or ["Not measured yet: `make study`, `python -m benchmarks.pilot`."]


def _study(data: Mapping[str, Any], origin: str) -> list[str]:
    told = [f"The demo's run on the embedded digits ({origin}). `make study` does it again."]
    if "comparison" in data:
        told += ["", *_comparison(data["comparison"])]
    if "assembled" in data:
        told += ["", *_assembled(data["assembled"])]
    if "profile" in data:
        told += ["", *_latency(data["profile"])]
    return told


def _comparison(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for net in found["networks"]:
        top1 = ["–" if net[init] is None else f"{100 * net[init]['top1']:.1f}" for init in INITS]
        rows.append([net["name"], net["role"], f"{net['macs'] / 1e6:.2f}", f"{net['params']:,}", *top1])
    differences = [[name, _points(estimate)] for name, estimate in found["findings"].items()]
    return [
        "The found network beside random ones of equal macs, uniform ones and the largest: top-1 in percent, one training run each.",
        "",
        *table(("network", "role", "M macs", "params", *INITS.values()), rows, text_columns=2),
        "",
        *table(("difference of top-1, points", "mean [95 % interval]"), differences, text_columns=2),
    ]


def _assembled(found: Mapping[str, Any]) -> list[str]:
    kinds = {"sampled": "random architectures", "best": "the search's best"}
    rows = [[kinds.get(name, name), _estimate(estimate)] for name, estimate in found["agreement"].items()]
    return [
        f"Whole networks of trained blocks, {len(found['networks'])} of them, nothing trained: Kendall's tau of summed ratings with the",
        "distance of the last feature from the teacher's.",
        "",
        *table(("networks", "tau [95 % interval]"), rows, text_columns=2),
        "",
        f"Correction between neighbouring cells: {found['verdict']}.",
    ]


def _latency(profile: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{fit['implementation']}, {fit['dtype']}, batch {fit['batch']}",
            f"{fit['networks']}",
            *(f"{100 * fit[when][what]:.1f} %" for when in ("before", "after") for what in ("mean", "worst")),
            "taken" if fit["helps"] else "not taken",
        ]
        for fit in profile["fits"]
    ]
    head = ("setting", "networks", "sums: mean error", "worst", "corrected: mean", "worst", "correction")
    return [
        "Summed latencies of layers against whole networks on this CPU; corrected ones are predicted from the other networks.",
        "",
        *table(head, rows),
    ]


def _pilot(data: Mapping[str, Any], origin: str) -> list[str]:
    found, teacher = data["study"], data["teacher"]
    variants = {"rating": "as configured", **{name: " ".join(changes) for name, changes in data["variants"].items()}}
    rows = [
        [
            one["score"],
            variants.get(one["score"], ""),
            *(_estimate(one["overall"][c]) for c in ("kendall", "spearman", "pearson")),
        ]
        for one in found["agreements"]
    ]
    accuracies = [net[found["truth"]] for net in found["models"]]
    top1 = f"from {100 * min(accuracies):.1f} to {100 * max(accuracies):.1f} %"
    return [
        f"CIFAR-10, {data['train_images']:,} training images ({origin}): {found['title']}, one bucket of macs.",
        f"Accuracies {top1}, the teacher's {100 * teacher['correct'] / teacher['total']:.1f} %;",
        f"{sum(data['seconds'].values()) / 60:.0f} minutes. How scores rank the networks; one attempt each at a better rating:",
        "",
        *table(("score", "changed", "Kendall", "Spearman", "Pearson"), rows, text_columns=2),
        "",
        *(f"- {remark}." for remark in found["remarks"]),
    ]


def _estimate(estimate: Mapping[str, Any]) -> str:
    return _interval(estimate, 1.0, 3)


def _points(estimate: Mapping[str, Any]) -> str:
    return _interval(estimate, 100.0, 2)


def _interval(estimate: Mapping[str, Any], scale: float, digits: int) -> str:
    value = estimate["value"]
    if value is None:
        return estimate["why"] or "–"
    ends = [estimate[end] for end in ("low", "high")]
    shown = "" if None in ends else f" [{scale * ends[0]:.{digits}f}, {scale * ends[1]:.{digits}f}]"
    return f"{scale * value:.{digits}f}{shown}"


def main(arguments: Sequence[str]) -> None:
    """Keeps the studies of a run."""
    (run,) = arguments
    kept = record(Path(run))
    path = FOLDER / f"study-{kept['date']}.json"
    path.write_text("\n".join(_wrapped(kept)) + "\n", encoding="utf-8")
    print(path)


def _wrapped(kept: Mapping[str, Any]) -> Iterator[str]:
    """JSON with a line per network, so that files stay small and their differences readable."""
    yield "{"
    last = list(kept)[-1]
    for key, value in kept.items():
        comma = "" if key == last else ","
        if isinstance(value, dict) and isinstance(value.get("networks"), list):
            head = json.dumps({k: v for k, v in value.items() if k != "networks"})[:-1]
            networks = ",\n  ".join(json.dumps(network) for network in value["networks"])
            yield f' "{key}": {head}, "networks": [\n  {networks}\n ]}}{comma}'
        else:
            yield f' "{key}": {json.dumps(value)}{comma}'
    yield "}"


if __name__ == "__main__":
    main(sys.argv[1:])
