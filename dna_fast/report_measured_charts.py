"""The pictures of a report's measurements: points of any two quantities, figures with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from dna_fast.report_charts import Mark, legend
from dna_fast.report_html import Html, element, joined
from dna_fast.report_svg import COLOURS, PAPER, pictures

MOST_LETTERS = 24  # of a line of a name beside an axis: more would leave a telephone no room for the points


def points(
    name: str,
    title: str,
    marks: Sequence[Mark],
    axes_names: tuple[str, str],
    *,
    identity: bool = False,
    falling: bool = False,
) -> Html:
    """Points, told apart by colour and shape.

    Args:
        axes_names: of x and y.
        identity: also draw y = x.
        falling: less is better in x, so that its axis is turned.
    """

    def draw(axes: Any) -> None:
        for mark in marks:
            edge = {"markeredgecolor": COLOURS[PAPER], "markeredgewidth": 0.8}
            size = 13 if mark.shape == "*" else 7
            axes.plot(mark.x, mark.y, mark.shape, linestyle="none", color=COLOURS[mark.colour], markersize=size, **edge)
        if identity:
            ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
            axes.plot(ends, ends, color=COLOURS["budget"], linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        if falling:
            axes.invert_xaxis()
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        axes.locator_params(axis="x", nbins=5)

    key = legend([(mark.label, mark.colour, mark.shape) for mark in marks])
    return element("figure", joined([pictures(name, title, draw, heights=(340, 300)), key]))


def _in_two_lines(name: str) -> str:
    lines = textwrap.wrap(name, MOST_LETTERS)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")


def intervals(
    name: str, title: str, rows: Sequence[tuple[str, float, float | None, float | None, str]], xlabel: str
) -> Html:
    """Dots with whiskers beside a line at zero: (name, value, low, high, colour); low and high are None where not known."""

    def draw(axes: Any) -> None:
        for place, (_, value, low, high, colour) in enumerate(rows):
            c = COLOURS[colour]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=c, linewidth=2, solid_capstyle="butt")
                axes.plot([low, high], [place, place], "|", color=c, markersize=10, markeredgewidth=2)
            axes.plot([value], [place], "o", color=c, markersize=8)
        axes.set_yticks(range(len(rows)), [_in_two_lines(name) for name, *_ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(0, color=COLOURS["budget"], linewidth=1, zorder=1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        axes.locator_params(axis="x", nbins=5)

    height = 64 + 30 * len(rows)
    return element("figure", pictures(name, title, draw, heights=(height, height)))
