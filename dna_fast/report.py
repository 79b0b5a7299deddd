"""The picture of a search: rating against macs, what is possible, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dna_fast._files import written_aside

SIZE_INCHES, DPI = (10.0, 5.6), 100  # 1000 pixels wide, the width of a README
# Okabe and Ito's palette: told apart with every common colour blindness, and in print by lightness.
FRONT_COLOUR, WINNER_COLOUR, BUDGET_COLOUR, CLOUD_COLOUR = "#0072B2", "#D55E00", "#555555", "#B8BEC6"
BASELINE_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BASELINE_MARKERS = ("s", "D", "^", "v", "P", "X", "o")


@dataclass(frozen=True)
class Point:
    """One architecture of the picture."""

    name: str
    macs: int
    loss: float


@dataclass(frozen=True)
class SearchPlot:
    """What the picture of a search shows.

    Args:
        title: heading.
        front_macs, front_loss: [front] the exact Pareto front, in any order.
        winner: the architecture that was chosen.
        baselines: further architectures, each named in the legend.
        cloud_macs, cloud_loss: [architectures] random architectures, to show what the search space is like.
        budget_macs: upper bound on macs, inclusive; None draws none.
        metric: name of the rating whose sum is drawn; lower is better.

    Raises:
        ValueError: an empty front, or arrays of different lengths or with values that are not finite.
    """

    title: str
    front_macs: ArrayLike
    front_loss: ArrayLike
    winner: Point
    baselines: Sequence[Point] = ()
    cloud_macs: ArrayLike = ()
    cloud_loss: ArrayLike = ()
    budget_macs: int | None = None
    metric: str = "relative_l1"

    def __post_init__(self) -> None:
        _points("front", self.front_macs, self.front_loss)
        _points("cloud", self.cloud_macs, self.cloud_loss)
        if not np.size(self.front_macs):
            raise ValueError("plot: the front must have at least one point, got none; did the search find a solution?")


def plot_search(path: str | Path, plot: SearchPlot) -> None:
    """Draws a search as a PNG of 1000 x 560 pixels, written atomically; matplotlib's global state stays untouched.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    figure, canvas = _figure()
    axes = figure.add_subplot()
    _draw_cloud(axes, plot)
    _draw_front(axes, plot)
    _draw_points(axes, plot)
    _draw_budget(axes, plot)  # behind the points, but last: it fixes how far the axis reaches
    _dress(axes, plot)
    with written_aside(path) as aside, open(aside, "wb") as file:
        canvas.print_png(file, metadata={"Software": None})  # no version in it: the same search, the same bytes


def _points(what: str, macs: ArrayLike, loss: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] macs and [n] losses in ascending order of macs."""
    x, y = np.asarray(macs, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"plot: {what} macs and losses must be 1-D and of one length, got shapes {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"plot: {what} macs and losses must be finite; drop the others first")
    order = np.lexsort((y, x))
    return x[order], y[order]


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise RuntimeError("plots need matplotlib; install it with: pip install 'dna_fast[report]'") from error
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def _draw_cloud(axes: Any, plot: SearchPlot) -> None:
    x, y = _points("cloud", plot.cloud_macs, plot.cloud_loss)
    if len(x):
        opacity = float(np.clip(40 / len(x) ** 0.5, 0.25, 0.8))  # thousands overlap, dozens must not vanish
        label = f"{len(x):,} random architectures"
        axes.scatter(x, y, s=12, color=CLOUD_COLOUR, alpha=opacity, linewidths=0, label=label, zorder=1)


def _draw_front(axes: Any, plot: SearchPlot) -> None:
    x, y = _points("front", plot.front_macs, plot.front_loss)
    # Between two points of the front the cheaper one is the best there is: a staircase, no slope.
    axes.step(x, y, where="post", color=FRONT_COLOUR, linewidth=1.8, zorder=3)
    marker_size = float(np.clip(30 / len(x) ** 0.5, 1.5, 5.0))  # hundreds of points must not hide the stairs
    axes.plot(x, y, "o", color=FRONT_COLOUR, markersize=marker_size, zorder=3)
    points = "1 point" if len(x) == 1 else f"{len(x):,} points"
    axes.plot([], [], "o-", color=FRONT_COLOUR, linewidth=1.8, markersize=4, label=f"exact Pareto front, {points}")


def _draw_budget(axes: Any, plot: SearchPlot) -> None:
    if plot.budget_macs is None:
        return
    label = f"budget, {in_units(plot.budget_macs)}"
    axes.axvline(plot.budget_macs, color=BUDGET_COLOUR, linewidth=1.4, linestyle=(0, (5, 3)), label=label, zorder=2)
    _, right = axes.get_xlim()
    axes.axvspan(plot.budget_macs, max(right, plot.budget_macs), color=BUDGET_COLOUR, alpha=0.07, linewidth=0, zorder=0)
    axes.set_xlim(right=max(right, plot.budget_macs))


def _draw_points(axes: Any, plot: SearchPlot) -> None:
    _mark(axes, plot.winner, marker="*", color=WINNER_COLOUR, markersize=19, zorder=6)
    for i, point in enumerate(plot.baselines):
        marker, colour = BASELINE_MARKERS[i % len(BASELINE_MARKERS)], BASELINE_COLOURS[i % len(BASELINE_COLOURS)]
        _mark(axes, point, marker=marker, color=colour, markersize=9, zorder=5)
    axes.annotate(
        plot.winner.name,
        (plot.winner.macs, plot.winner.loss),
        xytext=(-10, -10),  # cheaper and better than a point of the front there is nothing to write over
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=12,
        fontweight="bold",
        color=WINNER_COLOUR,
        zorder=7,
    )


def _mark(axes: Any, point: Point, **style: Any) -> None:
    label = f"{point.name}\n{in_units(point.macs)}, {point.loss:.4g}"
    axes.plot([point.macs], [point.loss], linestyle="none", markeredgecolor="white", label=label, **style)


def _dress(axes: Any, plot: SearchPlot) -> None:
    size = min(14, 1250 / max(len(plot.title), 1))  # long titles stay on the picture
    axes.figure.suptitle(plot.title, fontsize=size, fontweight="bold", x=0.012, ha="left")
    axes.set_xlabel("multiply-accumulates per image", fontsize=12)
    axes.set_ylabel(f"rating: sum of {plot.metric}\n(lower is better)", fontsize=12)
    largest = axes.get_xlim()[1]
    axes.xaxis.set_major_formatter(lambda value, _: in_units(value, unit_of=largest))
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.06 * (high - low), high)  # room for the winner's name
    axes.tick_params(labelsize=11, color="#999999", labelcolor="#333333")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
    axes.legend(**beside, fontsize=11, frameon=False, labelspacing=0.9)


def in_units(macs: float, *, unit_of: float | None = None) -> str:
    """333,500,000 -> 333.5 M; in the unit that suits `unit_of`, if given."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(macs if unit_of is None else unit_of) >= size:
            return f"{macs / size:.4g}{unit}"
    return f"{macs:.4g}"
