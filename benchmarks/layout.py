"""Parts of the page: what a section is, and how tables and figures are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Section:
    """What one benchmark puts on the page.

    Args:
        title: its heading.
        lines: Markdown below it.
        measured: target's key -> figure, for those of benchmarks/targets.py that it decides.
    """

    title: str
    lines: list[str]
    measured: dict[str, float] = field(default_factory=dict)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> list[str]:
    """A Markdown table; the first columns hold text, all others are aligned to the right."""
    line = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return ["| " + " | ".join(row) + " |" for row in (head, line, *rows)]


def ms(seconds: float | None) -> str:
    """Milliseconds, three digits; a dash where there is no time."""
    return "–" if seconds is None else three_digits(seconds * 1e3)


def times(ratio: float | None) -> str:
    """A ratio."""
    return "–" if ratio is None else f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.2f}x"


def percent(share: float | None) -> str:
    """A share."""
    return "–" if share is None else f"{100 * share:.0f} %"


def three_digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"
