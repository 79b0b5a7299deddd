"""The picture of a search: drawn whatever the search looks like, and right where it can be read off."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="plots need the report extra")
from matplotlib import rcParams  # noqa: E402
from matplotlib.image import imread  # noqa: E402

from dna_fast import report  # noqa: E402
from dna_fast.report import Point, SearchPlot, plot_search  # noqa: E402

RNG = np.random.default_rng(0)
PLOT = SearchPlot(
    title="toy: every architecture",
    front_macs=[100_000_000, 300_000_000, 200_000_000],
    front_loss=[3.0, 1.0, 2.0],
    winner=Point("winner", 200_000_000, 2.0),
    baselines=(Point("random", 190_000_000, 3.5), Point("largest", 900_000_000, 1.5)),
    cloud_macs=RNG.integers(100_000_000, 500_000_000, 50),
    cloud_loss=RNG.uniform(2, 4, 50),
    budget_macs=250_000_000,
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, for looking into."""
    seen, make = [], report._figure

    def remembering() -> tuple[Any, Any]:
        figure, canvas = make()
        seen.append(figure)
        return figure, canvas

    monkeypatch.setattr(report, "_figure", remembering)
    return seen


def drawn(figures: list[Any], tmp_path: Path, plot: SearchPlot) -> Any:
    plot_search(tmp_path / "front.png", plot)
    return figures[-1].axes[0]


def test_the_file_is_a_png_of_readme_width_and_repeatable(tmp_path: Path) -> None:
    plot_search(tmp_path / "a" / "front.png", PLOT)
    plot_search(tmp_path / "b" / "front.png", PLOT)
    assert imread(tmp_path / "a" / "front.png").shape[:2] == (560, 1000)
    assert (tmp_path / "a" / "front.png").read_bytes() == (tmp_path / "b" / "front.png").read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["front.png"]


def test_global_state_of_matplotlib_stays(tmp_path: Path) -> None:
    before, pyplot = dict(rcParams), "matplotlib.pyplot" in sys.modules
    plot_search(tmp_path / "front.png", PLOT)
    assert dict(rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_the_front_is_a_staircase_in_order_of_macs(figures: list[Any], tmp_path: Path) -> None:
    stairs = drawn(figures, tmp_path, PLOT).lines[0]
    assert stairs.get_drawstyle() == "steps-post"
    assert stairs.get_xdata().tolist() == [1e8, 2e8, 3e8]
    assert stairs.get_ydata().tolist() == [3.0, 2.0, 1.0]


def test_everything_is_named_and_inside_the_axes(figures: list[Any], tmp_path: Path) -> None:
    axes = drawn(figures, tmp_path, PLOT)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "50 random architectures",
        "exact Pareto front, 3 points",
        "winner\n200 M, 2",
        "random\n190 M, 3.5",
        "largest\n900 M, 1.5",
        "budget, 250 M",
    ]
    assert axes.get_xlim()[0] < 100e6
    assert axes.get_xlim()[1] > 900e6
    assert axes.get_ylim()[0] < 1.0
    assert "relative_l1" in axes.get_ylabel()


def test_the_legend_keeps_clear_of_a_long_title_and_of_the_border(figures: list[Any], tmp_path: Path) -> None:
    plot = replace(
        PLOT, title="a title of far more words than anybody would want to read above a picture, and still some"
    )
    axes = drawn(figures, tmp_path, plot)
    legend, title = axes.get_legend().get_window_extent(), axes.figure._suptitle.get_window_extent()
    assert legend.y1 < title.y0
    assert max(legend.x1, title.x1) < 1000


@pytest.mark.parametrize("budget", [None, 50_000_000, 5_000_000_000], ids=["none", "below-all", "above-all"])
def test_budgets_anywhere_are_drawn(figures: list[Any], tmp_path: Path, budget: int | None) -> None:
    axes = drawn(figures, tmp_path, replace(PLOT, budget_macs=budget))
    low, high = axes.get_xlim()
    assert budget is None or low <= budget <= high


def test_one_point_and_negative_ratings_make_a_picture(tmp_path: Path) -> None:
    plot = SearchPlot("one", [5], [-1.0], Point("winner", 5, -1.0))
    plot_search(tmp_path / "front.png", plot)
    assert (tmp_path / "front.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("macs", "unit_of", "words"),
    [
        (5, None, "5"),
        (1_234, None, "1.234 k"),
        (333_500_000, None, "333.5 M"),
        (2e9, None, "2 G"),
        (8e5, 1.6e6, "0.8 M"),
    ],
)
def test_macs_read_well(macs: float, unit_of: float | None, words: str) -> None:
    assert report.in_units(macs, unit_of=unit_of) == words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"front_macs": [], "front_loss": []}, "front must have at least one point"),
        ({"front_loss": [1.0]}, r"front macs and losses must be 1-D and of one length, got shapes \(3,\) and \(1,\)"),
        ({"cloud_loss": np.full(50, np.nan)}, "cloud macs and losses must be finite"),
    ],
    ids=["empty-front", "lengths", "nan"],
)
def test_plots_that_cannot_be_drawn_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLOT, **change)


def test_missing_matplotlib_is_saidin_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r"pip install 'dna_fast\[report\]'"):
        plot_search(tmp_path / "front.png", PLOT)
