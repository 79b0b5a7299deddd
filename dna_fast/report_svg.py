"""Pictures that live in a page: matplotlib draws them, their colours follow the page's theme."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dna_fast.report_html import Html, element
from dna_fast.report_style import PALETTE

# matplotlib knows no CSS, so that every colour of the palette goes through it as a number of its own.
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(PALETTE, start=1)}
_PROPERTIES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}

POINTS_PER_INCH = 72  # of an SVG: one point is one pixel at its natural size
FONT_SIZE = 11
WIDE, NARROW = 760, 370  # pixels: beside each other on a desk, and on a telephone
PAPER = "paper"

Draw = Callable[[Any], None]


def picture(name: str, title: str, draw: Draw, *, size: tuple[int, int]) -> Html:
    """One picture as an SVG of the page; equal drawings give equal bytes.

    Args:
        name: unique in the page; only letters, digits and hyphens.
        title: what the picture shows, for those who cannot see it.
        draw: gets the axes.
        size: width and height in pixels.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("a report needs matplotlib; install it with: pip install 'dna_fast[report]'") from error
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": FONT_SIZE, "path.simplify": False}
    settings |= {"axes.unicode_minus": True, "text.parse_math": False}
    with rc_context(settings):
        figure = Figure(figsize=(size[0] / POINTS_PER_INCH, size[1] / POINTS_PER_INCH), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        _dress(axes)
        draw(axes)
        drawn = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(drawn, metadata=metadata)
    return _of_the_page(drawn.getvalue(), name, title)


def pictures(name: str, title: str, draw: Draw, *, heights: tuple[int, int]) -> Html:
    """The same picture for wide and for narrow screens, of which the page shows one; its letters stay readable on both."""
    wide = picture(f"{name}-w", title, draw, size=(WIDE, heights[0]))
    narrow = picture(f"{name}-n", title, draw, size=(NARROW, heights[1]))
    return Html(element("div", wide, class_="wide") + element("div", narrow, class_="narrow"))


def scatter(axes: Any, x: ArrayLike, y: ArrayLike, colour: str, *, size: float, alpha: float, zorder: int = 2) -> None:
    """Many dots as one path, a tenth of the bytes that markers take."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = np.repeat(np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1), 2, axis=0)
    if not len(points):
        return
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points) // 2)  # a line of no length with round ends is a dot
    patch = PathPatch(
        Path(points, codes),
        facecolor="none",
        edgecolor=COLOURS[colour],
        linewidth=size,
        capstyle="round",
        alpha=alpha,
        zorder=zorder,
    )
    axes.add_patch(patch)
    axes.update_datalim(points)
    axes.autoscale_view()


def apart(x: NDArray[np.float64], y: NDArray[np.float64], cells: tuple[int, int] = (400, 260)) -> NDArray[np.intp]:
    """Indices of points of which no two fall on the same spot of a grid: the others would be hidden under them."""
    if not len(x):
        return np.empty(0, dtype=np.intp)
    spots = []
    for values, n in ((x, cells[0]), (y, cells[1])):
        width = float(np.ptp(values)) or 1.0
        spots.append(np.floor((values - values.min()) / width * n).astype(np.int64))
    _, first = np.unique(spots[0] * (cells[1] + 1) + spots[1], return_index=True)
    return np.sort(first)


def _dress(axes: Any) -> None:
    ink, muted, line = COLOURS["ink"], COLOURS["muted"], COLOURS["line"]
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(muted)
    axes.tick_params(color=muted, labelcolor=muted)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    axes.grid(color=line, linewidth=0.8)
    axes.set_axisbelow(True)


def _of_the_page(svg: str, name: str, title: str) -> Html:
    """What matplotlib wrote, without what belongs to a file of its own and with names of its own in the page."""
    body = svg[svg.index("<svg") : svg.rindex("</svg>")]
    head, _, body = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib writes one"
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _of_the_name(tag[0], name), body)  # text stays as it is
    body = re.sub(r"\s*\n\s*", " ", body)
    label = element("title", title, id=f"{name}-title")
    shape = f'{box[0]} role="img" aria-labelledby="{html.escape(name)}-title"'
    return Html(f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>{label}{body}</svg>')


def _of_the_name(tag: str, name: str) -> str:
    """A tag with ids that no other picture has, colours of the theme, the page's font, short numbers and an end of HTML."""
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)
    tag = re.sub(r' id="', f' id="{name}-', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\1#{name}-", tag).replace("xlink:href", "href")
    tag = re.sub(r' (?:d|x|y|transform|width|height)="[^"]*"', lambda m: _rounded(m[0]), tag)
    tag = re.sub(r"#0102[0-9a-f]{2}", lambda m: _PROPERTIES[m[0]], tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font-size: \1", tag)  # as older releases put it
    return re.sub(r"^<(\w+)([^<>]*)/>$", r"<\1\2></\1>", tag)


def _rounded(attribute: str) -> str:
    """Hundredths of a pixel are enough."""
    short = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), attribute)
    return re.sub(r"\s+", " ", short)
