"""Is the found network any good? Against random, uniform and the largest ones, by one recipe, from scratch and with inherited weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dna_fast._files import write_json, written_aside
from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.space import SearchSpace
from dna_fast.study_statistics import Estimate

if TYPE_CHECKING:
    from dna_fast.recipe import Accuracy
    from dna_fast.stages import Compared

FORMAT, VERSION = "dna_fast.comparison", 1
UNIFORM_TOLERANCE = (
    0.1  # a uniform network of equal macs: depths and widths come in steps, so the 1 % of random ones is out of reach
)
ROLES = ("found", "random", "uniform", "largest")
DPI, PANEL_INCHES = 100, (4.2, 3.4)


@dataclass(frozen=True)
class Row:
    """One network of the comparison; accuracies are None where it was not trained so."""

    name: str
    role: str
    macs: int
    params: int
    scratch: Accuracy | None
    head: Accuracy | None
    inherited: Accuracy | None


@dataclass(frozen=True)
class Comparison:
    """All networks, and what they allow to be said.

    Args:
        rows: the found one first.
        findings: in words -> difference of top-1 with its 95 % interval.
    """

    rows: tuple[Row, ...]
    findings: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [
            {**asdict(row), **{init: _described(getattr(row, init)) for init in ("scratch", "head", "inherited")}}
            for row in self.rows
        ]
        findings = {name: asdict(estimate) for name, estimate in self.findings.items()}
        return {"format": FORMAT, "version": VERSION, "networks": rows, "findings": findings}


def _described(accuracy: Accuracy | None) -> dict[str, Any] | None:
    if accuracy is None:
        return None
    return {**asdict(accuracy), "top1": accuracy.top1, "interval_95": list(accuracy.interval)}


def uniform_architectures(space: SearchSpace, macs: int) -> dict[str, Architecture]:
    """For every operator the network that takes it in every layer, with the cells that bring its macs nearest to `macs`.

    Returns:
        Those within UNIFORM_TOLERANCE; if none is, the nearest of all, by the name ``uniform_<operator>``.
    """
    found = {}
    for number, choice in enumerate(space.choices):
        networks = []
        for cells in product(*(range(len(block.cells)) for block in space.blocks)):
            picks = [
                space.candidate_index(b, c, (number,) * space.blocks[b].cells[c].depth) for b, c in enumerate(cells)
            ]
            networks.append(Architecture.from_space(space, picks, f"uniform_{choice.name}"))
        found[f"uniform_{choice.name}"] = min(networks, key=lambda arch: abs(architecture_cost(arch)["macs"] - macs))
    off = {name: abs(architecture_cost(arch)["macs"] - macs) / macs for name, arch in found.items()}
    near = {name: arch for name, arch in found.items() if off[name] <= UNIFORM_TOLERANCE}
    return near or {(name := min(off, key=lambda n: off[n])): found[name]}


def compare_all(scratch: Sequence[Compared], inherited: Sequence[Compared]) -> Comparison:
    """Puts the two trainings of every network together and judges them.

    Args:
        scratch, inherited: the same networks in the same order, the found one first; inherited may be empty.
    """
    rows = []
    for number, one in enumerate(scratch):
        other = inherited[number] if inherited else None
        role = next((role for role in ROLES if one.name.startswith(role)), "found")
        rows.append(
            Row(
                one.name,
                role,
                one.macs,
                one.params,
                one.accuracy,
                None if other is None else other.head_accuracy,
                None if other is None else other.accuracy,
            )
        )
    return Comparison(tuple(rows), _findings(rows))


def _findings(rows: Sequence[Row]) -> dict[str, Estimate]:
    found = {}
    for init in ("scratch", "head", "inherited"):
        winner = getattr(rows[0], init)
        if winner is None:
            continue
        for role in ROLES[1:]:
            others = [getattr(row, init) for row in rows if row.role == role]
            if others:
                found[f"{init}: found minus {role}"] = _against(winner, others)
    pairs = [(r.inherited.top1, r.scratch.top1) for r in rows if r.inherited is not None and r.scratch is not None]
    if pairs:
        found["inherited minus scratch, the same networks"] = _mean(np.array([a - b for a, b in pairs]))
    return found


def _against(winner: Accuracy, others: Sequence[Accuracy]) -> Estimate:
    """The winner's top-1 minus the mean of others.

    The interval has the images' sampling error in the winner's accuracy and the spread between the others (Student's t), of one other
    its sampling error: that all answer the same images makes it too wide rather than too narrow.
    """
    from scipy.stats import t

    top1 = np.array([other.top1 for other in others])
    sampling = winner.top1 * (1 - winner.top1) / winner.total
    if len(others) == 1:
        (other,) = others
        spread, factor = other.top1 * (1 - other.top1) / other.total, 1.96
    else:
        spread, factor = float(top1.var(ddof=1)) / len(top1), float(t.ppf(0.975, len(top1) - 1))
    difference, half = winner.top1 - float(top1.mean()), factor * (sampling + spread) ** 0.5
    return Estimate(difference, difference - half, difference + half)


def _mean(differences: Any) -> Estimate:
    """Mean over networks with Student's 95 % interval."""
    from scipy.stats import t

    mean = float(differences.mean())
    if len(differences) < 3:
        return Estimate(mean, why=f"no interval: {len(differences)} networks")
    half = float(t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def write_comparison(found: Comparison, directory: Path) -> tuple[Path, Path]:
    """Writes `comparison.json` and `comparison.png`.

    Raises:
        RuntimeError: matplotlib is missing; the JSON is then written.
    """
    figures, picture = directory / "comparison.json", directory / "comparison.png"
    write_json(figures, found.to_dict())
    _plot(found, picture)
    return figures, picture


def _plot(found: Comparison, path: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("plots need matplotlib; install it with: pip install 'dna_fast[report]'") from error
    panels = [init for init in ("scratch", "head", "inherited") if getattr(found.rows[0], init) is not None]
    figure = Figure(
        figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), dpi=DPI, layout="constrained", facecolor="white"
    )
    canvas: Any = FigureCanvasAgg(figure)
    titles = {"scratch": "from scratch", "head": "inherited, head alone", "inherited": "inherited, trained on"}
    for number, init in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for role in ROLES:
            accuracies = [(row.macs / 1e6, getattr(row, init)) for row in found.rows if row.role == role]
            if accuracies:
                macs, top1 = [m for m, _ in accuracies], [100 * a.top1 for _, a in accuracies]
                ends = [[100 * abs(a.top1 - a.interval[side]) for _, a in accuracies] for side in (0, 1)]
                axes.errorbar(macs, top1, yerr=ends, fmt="o", markersize=5, linewidth=1, label=role)
        axes.set_title(titles[init], loc="left")
        axes.set_xlabel("macs, millions")
        axes.set_ylabel("top-1, % [95 % interval]" if number == 1 else "")
        axes.legend(frameon=False, fontsize="small")
    with written_aside(path) as aside, open(aside, "wb") as file:
        canvas.print_png(file, metadata={"Software": None})


def with_random(config: Any, count: int) -> Any:
    """A run's configuration that asks for so many random networks of equal macs, and the largest."""
    return replace(config, retrain=replace(config.retrain, random_baselines=count, largest=True))
