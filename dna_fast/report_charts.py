"""The pictures of a report: accuracies, fronts, ratings of a block, losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dna_fast.report import in_units
from dna_fast.report_html import Html, element, joined
from dna_fast.report_style import SERIES
from dna_fast.report_svg import COLOURS, PAPER, apart, picture, pictures, scatter

GLYPHS = {"*": "★", "o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖", "-": "—", "--": "╌"}
MARKERS = ("s", "D", "^", "v", "P", "X")
MAX_DETAIL = 300  # points of a fine curve; more than pixels tell apart


@dataclass(frozen=True)
class Mark:
    """Points that share a look and a line of the legend; `shape` is matplotlib's marker, or "-" for stairs."""

    label: str
    x: Sequence[float] | NDArray[Any]
    y: Sequence[float] | NDArray[Any]
    colour: str
    shape: str
    names: Sequence[str] = ()  # written beside the points


@dataclass(frozen=True)
class Scene:
    """Rating against macs.

    Args:
        cloud: dots for scale, (macs, rating).
        marks: what is told apart, drawn in this order.
        budget: upper bound on macs.
        metric: of the rating.
    """

    cloud: tuple[NDArray[Any], NDArray[Any]]
    marks: Sequence[Mark]
    budget: int | None
    metric: str


@dataclass(frozen=True)
class Line:
    """A loss by epoch, and the same finer, faint behind it."""

    label: str
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    colour: str
    detail: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None


@dataclass(frozen=True, eq=False)
class BlockScene:
    """Every candidate of a block: rating against macs by cell; whiskers are 95 % of the best ones' standard errors."""

    macs: NDArray[np.int64]
    ratings: NDArray[np.float64]
    errors: NDArray[np.float64]
    cells: NDArray[np.int64]
    best: Sequence[int] = field(default_factory=tuple)
    chosen: int | None = None


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """(label, colour, marker) of what a picture tells apart, as text of the page."""
    items = []
    for label, colour, shape in entries:
        glyph = element("span", GLYPHS[shape], style=f"color:var(--{colour})", aria_hidden="true")
        items.append(element("li", glyph, f" {label}"))
    return element("ul", *items, class_="legend")


def series(number: int) -> str:
    """A colour for the number-th of several."""
    return SERIES[number % len(SERIES)]


def accuracies(name: str, rows: Sequence[tuple[str, float, float, float, str]]) -> Html:
    """Dots with whiskers, a network a line: (name, top-1, low, high, colour), fractions."""

    def draw(axes: Any) -> None:
        for place, (_, top1, low, high, colour) in enumerate(rows):
            c = COLOURS[colour]
            axes.plot([100 * low, 100 * high], [place, place], color=c, linewidth=2, solid_capstyle="butt")
            axes.plot([100 * low, 100 * high], [place, place], "|", color=c, markersize=10, markeredgewidth=2)
            axes.plot([100 * top1], [place], "o", color=c, markersize=8)
        axes.set_yticks(range(len(rows)), [_short(row[0], 24) for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("top-1 in %, with its 95 % interval")
        axes.locator_params(axis="x", nbins=6)

    height = 64 + 30 * len(rows)
    return pictures(name, "Top-1 accuracy of every network with its 95 % interval", draw, heights=(height, height))


def front(name: str, title: str, scene: Scene) -> Html:
    """Fronts, the winner and others over a cloud of random architectures."""

    def draw(axes: Any) -> None:
        scatter(axes, *scene.cloud, "cloud", size=3, alpha=0.45, zorder=1)
        for mark in scene.marks:
            _draw_mark(axes, mark)
        if scene.budget is not None:
            axes.axvline(scene.budget, color=COLOURS["budget"], linewidth=1.4, linestyle=(0, (5, 3)), zorder=2)
            right = max(axes.get_xlim()[1], scene.budget)
            axes.axvspan(scene.budget, right, color=COLOURS["budget"], alpha=0.08, linewidth=0, zorder=0)
            axes.set_xlim(right=right)
        _name_axes(axes, f"rating: sum of {scene.metric}\n(lower is better)")

    return pictures(name, title, draw, heights=(430, 320))


def block_ratings(name: str, title: str, scene: BlockScene) -> Html:
    """A block's candidates; dots that would cover each other are drawn once."""

    def draw(axes: Any) -> None:
        for cell in np.unique(scene.cells).tolist():
            inside = np.flatnonzero(scene.cells == cell)
            shown = inside[apart(scene.macs[inside].astype(float), scene.ratings[inside])]
            opacity = float(np.clip(16 / max(len(shown), 1) ** 0.5, 0.45, 0.85))
            scatter(axes, scene.macs[shown], scene.ratings[shown], series(cell), size=3.2, alpha=opacity)
        best = np.array(scene.best, dtype=np.int64)
        known = best[np.isfinite(scene.errors[best])] if len(best) else best
        if len(known):
            axes.errorbar(
                scene.macs[known],
                scene.ratings[known],
                yerr=1.96 * scene.errors[known],
                fmt="none",
                color=COLOURS["ink"],
                elinewidth=1,
                capsize=2.5,
                zorder=4,
            )
            for i in known.tolist():
                scatter(axes, [scene.macs[i]], [scene.ratings[i]], series(scene.cells[i]), size=5, alpha=1, zorder=5)
        if scene.chosen is not None:
            star = {"marker": "*", "markersize": 14, "markeredgecolor": COLOURS[PAPER], "zorder": 6}
            axes.plot([scene.macs[scene.chosen]], [scene.ratings[scene.chosen]], color=COLOURS["winner"], **star)
        _name_axes(axes, "rating")

    return picture(name, title, draw, size=(350, 270))


def losses(name: str, title: str, lines: Sequence[Line], ylabel: str) -> Html:
    """Losses by epoch."""

    def draw(axes: Any) -> None:
        for line in lines:
            colour = COLOURS[line.colour]
            if line.detail is not None:
                axes.plot(*_bucketed(*line.detail), color=colour, linewidth=0.9, alpha=0.45, zorder=2)
            dots = "o-" if len(line.epochs) <= 60 else "-"
            axes.plot(line.epochs, line.values, dots, color=colour, linewidth=1.7, markersize=3.2, zorder=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(ylabel)
        axes.xaxis.get_major_locator().set_params(integer=True)

    key = legend([(line.label, line.colour, "-") for line in lines])
    return joined([pictures(name, title, draw, heights=(320, 280)), key])


def _bucketed(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of runs of points, so that no more are left than the picture has room for."""
    size = -(-len(x) // MAX_DETAIL)
    starts = np.arange(0, len(x), size)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _draw_mark(axes: Any, mark: Mark) -> None:
    colour = COLOURS[mark.colour]
    if mark.shape == "-":
        # Between two points of a front the cheaper one is the best there is: a staircase, no slope.
        axes.step(mark.x, mark.y, where="post", color=colour, linewidth=1.8, zorder=3)
        size = float(np.clip(30 / len(mark.x) ** 0.5, 1.5, 4.5))
        scatter(axes, mark.x, mark.y, mark.colour, size=size, alpha=1.0, zorder=3)
        return
    size, over = {"*": (18, 6), "o": (6, 4)}.get(mark.shape, (8, 5))
    edge = {"markeredgecolor": COLOURS[PAPER], "markeredgewidth": 0.8}
    axes.plot(mark.x, mark.y, mark.shape, linestyle="none", color=colour, markersize=size, zorder=over, **edge)


def _name_axes(axes: Any, ylabel: str) -> None:
    axes.set_xlabel("multiply-accumulates per image")
    axes.set_ylabel(ylabel)
    axes.locator_params(axis="x", nbins=6)
    largest = axes.get_xlim()[1]
    axes.xaxis.set_major_formatter(lambda value, _: in_units(value, unit_of=largest))


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
