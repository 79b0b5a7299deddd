"""The look of a report: colours that can be told from what they lie on, dots that hide nothing but each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dna_fast.report_html import Html, element, table
from dna_fast.report_style import MARK_COLOURS, PALETTE, TEXT_COLOURS, style_sheet


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("name", "surface", "least"),
    [
        *((name, s, 4.5) for name, s in itertools.product(TEXT_COLOURS, ("paper", "panel", "marked"))),
        *((name, s, 3.0) for name, s in itertools.product(MARK_COLOURS, ("paper", "panel"))),
    ],
)
def test_contrast_meets_wcag_aa(name: str, surface: str, least: float, theme: int) -> None:
    assert contrast(PALETTE[name][theme], PALETTE[surface][theme]) >= least


def test_the_style_sheet_knows_every_colour_it_uses_and_both_themes() -> None:
    css = style_sheet()
    light, dark = css.split("@media screen and (prefers-color-scheme:dark)")
    for name, (bright, dim) in PALETTE.items():
        assert f"--{name}:{bright};" in light
        assert f"--{name}:{dim};" in dark
    assert css.count("{") == css.count("}")
    used = {part.split(")")[0] for part in css.split("var(--")[1:]}
    assert used <= set(PALETTE)


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "<b>", Html("<b></b>"), class_='"') == '<p class="&quot;">&lt;b&gt;<b></b></p>'


def test_columns_of_numbers_go_to_the_right() -> None:
    made = table(("a", "b", "c", "d"), [("1,000", "2x3", "98.6 % [97.0, 99.1]", "–")], label="t")
    assert made.count('class="n"') == 2 * 3
    assert "<td>2x3</td>" in made


def test_dots_on_one_spot_are_drawn_once() -> None:
    pytest.importorskip("matplotlib")
    from dna_fast.report_svg import apart

    x, y = np.array([0.0, 0.0001, 1.0, 0.5]), np.array([0.0, 0.0, 1.0, 0.5])
    assert apart(x, y).tolist() == [0, 2, 3]
    assert apart(np.array([3.0, 3.0]), np.array([1.0, 1.0])).tolist() == [0]
    assert apart(np.empty(0), np.empty(0)).tolist() == []
