"""Pieces of HTML that cannot forget to escape: text is escaped unless it is `Html` already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


class Html(str):
    """Markup; everything else is text."""

    __slots__ = ()


# A number, maybe with a unit, an interval or what it is a part of; a dash where there is none.
_NUMBER = re.compile(r"–|[-−]?\d[\d,.]*(e[-+]?\d+)?( ?[%sGMk])?( of [\d,]+)?( \[[\d., ]+\])?")
LONG = 32  # characters, beyond which a cell may break into lines
VOID = ("br", "hr", "meta")


def text(value: object) -> Html:
    """A value as markup: `Html` as it is, all else escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one behind the other."""
    return Html(between.join(text(part) for part in parts))


def element(tag: str, *children: object, **attributes: str | None) -> Html:
    """An element. `class_` stands for class, `_` in other names for `-`; an attribute that is None is left out."""
    start = f"<{tag}"
    for key, value in attributes.items():
        if value is not None:
            start += f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
    return Html(f"{start}>" if tag in VOID else f"{start}>{joined(children)}</{tag}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, label: str, marked: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where the screen is narrow; the first cell of a row names it.

    Args:
        head: of every column; columns whose cells are all numbers are set to the right.
        rows: of cells, as many as `head`.
        label: what the table is, for those who cannot see it.
        marked: rows to bring out.
    """
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(_is_number(row[c]) for row in rows) for c in range(len(head))]
    css = ["n" if number else None for number in numeric]
    heads = joined(element("th", cell, scope="col", class_=c) for cell, c in zip(head, css, strict=True))
    lines = []
    for i, row in enumerate(rows):
        first = element("th", row[0], scope="row", class_=css[0])
        others = joined(
            element("td", cell, class_=c or ("long" if len(str(cell)) > LONG else None))
            for cell, c in zip(row[1:], css[1:], strict=True)
        )
        lines.append(element("tr", first, others, class_="marked" if i in marked else None))
    inner = element("table", element("thead", element("tr", heads)), element("tbody", *lines))
    return element("div", inner, class_="scroll", role="region", aria_label=label, tabindex="0")


def details(summary: object, *children: object) -> Html:
    """What is there for those who ask."""
    return element("details", element("summary", summary), *children)


def paragraph(*children: object, class_: str | None = None) -> Html:
    return element("p", *children, class_=class_)


def code(value: object) -> Html:
    return element("code", value)


def _is_number(cell: object) -> bool:
    return _NUMBER.fullmatch(str(cell)) is not None
