"""Time and memory against the number of architectures, from bench_search.py's committed result.

`python -m benchmarks.plot_search` writes docs/images/search_sizes.png.
"""

from __future__ import annotations

from benchmarks.results import Result, latest
from benchmarks.worker import ROOT

PATH = ROOT / "docs" / "images" / "search_sizes.png"
NAMES = {"dna_fast": "dna_fast", "highs": "HiGHS", "cp_sat": "CP-SAT"}


def series(result: Result) -> dict[str, list[tuple[int, float, float, float]]]:
    """Opponent -> (exponent of the number of architectures, seconds, peak memory in MB, gap), ascending."""
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for race in result.races:
        if "exponent" not in race.facts:
            continue
        for entry in race.entries:
            fields = entry.fields
            point = (race.facts["exponent"], entry.median_s, fields["peak_bytes"] / 1e6, fields["gap"])
            found.setdefault(fields["opponent"], []).append(point)
    return {name: sorted(points) for name, points in found.items()}


def draw(found: dict[str, list[tuple[int, float, float, float]]]) -> None:
    """Writes the picture; hollow points are runs that ended at their time limit with a gap.

    Raises:
        ValueError: nothing to draw.
    """
    if not found:
        raise ValueError("plot_search: the result holds no sizes; run bench_search.py")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for panel, (column, label) in enumerate(((1, "seconds"), (2, "memory beyond the problem's own, MB")), start=1):
        axes = figure.add_subplot(1, 2, panel)
        for number, (name, points) in enumerate(found.items()):
            colour = f"C{number}"
            xs, ys = [p[0] for p in points], [max(p[column], 1e-4) for p in points]
            axes.plot(xs, ys, color=colour, label=NAMES.get(name, name))
            for x, y, gap in zip(xs, ys, (p[3] for p in points), strict=True):
                axes.plot(x, y, "o", color=colour, fillstyle="none" if gap > 0 else "full")
        axes.set_yscale("log")
        axes.set_xlabel("architectures, power of ten")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.legend()
    with open(PATH, "wb") as file:
        canvas.print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call]


def main() -> None:
    """Draws the newest result of bench_search.py."""
    (result,) = [r for r in latest() if r.what == "search"]
    draw(series(result))


if __name__ == "__main__":
    main()
