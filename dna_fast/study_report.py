"""What a study tells: tables on the console, study.json, study.png."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dna_fast._files import write_json, written_aside
from dna_fast.study import Agreement, Comparison, Study
from dna_fast.study_statistics import COEFFICIENTS, Estimate

if TYPE_CHECKING:
    from dna_fast.display import Display

DPI, PANEL_INCHES, COLUMNS = 100, (3.6, 3.0), 3
BUCKET_COLOURS = "viridis"  # ordered by lightness, as buckets are by cost


def write_study(found: Study, directory: Path) -> tuple[Path, Path]:
    """Writes `study.json` and `study.png` into a directory; returns their paths.

    Raises:
        RuntimeError: matplotlib is missing; study.json is then written.
    """
    figures, picture = directory / "study.json", directory / "study.png"
    write_json(figures, found.to_dict())
    plot_study(found, picture)
    return figures, picture


def print_study(found: Study, display: Display) -> None:
    """Tables: agreement of every score, what differs, the buckets; and in words what is not defined."""
    models = found.models
    display.say(f"{models.title}: {len(models.names)} models by {models.truth_name} [95 % interval]")
    columns = ("score", *COEFFICIENTS, f"kendall at equal {models.cost_name}")
    rows = [(_name(found, a), *(str(a.overall[c]) for c in COEFFICIENTS), str(a.within)) for a in found.agreements]
    display.table(columns, rows)
    for agreement in found.agreements:
        for where, estimate in _estimates(agreement):
            if estimate.why:
                display.say(f"  {agreement.score}, {where}: {estimate.why}")
    display.table(
        ("kendall's tau, difference", "overall", f"at equal {models.cost_name}", "verdict at equal cost"),
        [(f"{c.first} - {c.second}", str(c.overall), str(c.within), verdict(c)) for c in found.comparisons],
    )
    display.table(
        (f"bucket of {models.cost_name}", "models", *(f"tau of {score}" for score in models.scores)),
        [
            (f"{bucket.low:,.4g} .. {bucket.high:,.4g}", len(bucket.models))
            + tuple(str(a.buckets[i]["kendall"]) for a in found.agreements)
            for i, bucket in enumerate(found.buckets)
        ],
    )
    display.say(
        f"equal {models.cost_name}: within a factor of {1 + found.bucket_width:.3g}; pairs of one bucket, all buckets together. "
        f"Intervals: percentiles of {found.resamples} resamples of the models."
    )
    for remark in models.remarks:
        display.say(f"  {remark}.")


def verdict(comparison: Comparison) -> str:
    """What the interval of the difference at equal cost allows to be said."""
    difference = comparison.within
    if difference.low is None or difference.high is None:
        return "cannot be told"
    if difference.low > 0:
        return f"{comparison.first} ranks better"
    if difference.high < 0:
        return f"{comparison.second} ranks better"
    return "not distinguishable"


def _name(found: Study, agreement: Agreement) -> str:
    return agreement.score + (" (less is better)" if agreement.score in found.models.lower_is_better else "")


def _estimates(agreement: Agreement) -> list[tuple[str, Estimate]]:
    """What to explain where it is not defined; the coefficients share their reasons, so one stands for all."""
    return [("overall", agreement.overall["kendall"]), ("within buckets", agreement.within)]


# ---- the picture ----------------------------------------------------------------------------------------------------


def plot_study(found: Study, path: str | Path) -> None:
    """Draws a panel per score, truth against score coloured by bucket, and one with every tau and its interval.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    panels = len(found.agreements) + 1
    columns = min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.4)
    figure, canvas = _figure(size)
    figure.suptitle(found.models.title, fontweight="bold", x=0.01, ha="left")
    for number, agreement in enumerate(found.agreements, start=1):
        _draw_score(figure.add_subplot(rows, columns, number), found, agreement)
    _draw_intervals(figure.add_subplot(rows, columns, panels), found)
    with written_aside(path) as aside, open(aside, "wb") as file:
        canvas.print_png(file, metadata={"Software": None})  # no version in it: the same study, the same bytes


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("plots need matplotlib; install it with: pip install 'dna_fast[report]'") from error
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    return figure, FigureCanvasAgg(figure)


def _draw_score(axes: Any, found: Study, agreement: Agreement) -> None:
    models = found.models
    last = max(len(found.buckets) - 1, 1)
    axes.scatter(
        models.scores[agreement.score], models.truth, c=found.groups, cmap=BUCKET_COLOURS, vmin=0, vmax=last, s=26
    )
    axes.set_xlabel(_name(found, agreement))
    axes.set_ylabel(models.truth_name)
    if agreement.score in models.lower_is_better:
        axes.invert_xaxis()  # better is to the right in every panel
    axes.set_title(f"tau {agreement.overall['kendall']}\nat equal {models.cost_name} {agreement.within}", fontsize=9)


def _draw_intervals(axes: Any, found: Study) -> None:
    upwards = found.agreements[::-1]
    for shift, colour, label, estimates in (
        (0.12, "#0072B2", "overall", [a.overall["kendall"] for a in upwards]),
        (-0.12, "#D55E00", f"at equal {found.models.cost_name}", [a.within for a in upwards]),
    ):
        axes.plot([], [], "o-", color=colour, label=label)
        for place, estimate in enumerate(estimates):
            if estimate.value is not None:
                axes.plot(estimate.value, place + shift, "o", color=colour)
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high], [place + shift] * 2, "-", color=colour)
    axes.set_yticks(range(len(upwards)), [a.score for a in upwards])
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel("Kendall's tau, 95 % interval")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
