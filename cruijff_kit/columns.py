"""Rows as lines of a terminal. rich's own Table takes a millisecond a row: seconds for a sweep of thousands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

GAP = 2
LEAST = 16  # columns of the one that gives way


def console() -> Console:
    """stdout, as wide as its terminal; a pipe has no edge to wrap at."""
    from rich.console import Console

    made = Console()
    if not made.is_terminal:
        made.width = 1000
    return made


def render(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, flexible: int, right: Sequence[int] = (), one_line: bool = False,
    styles: Mapping[str, str] | None = None,
) -> Iterator[Text]:
    """The heading, a rule, and a line or more for each row.

    Args:
        width: in columns of the terminal.
        flexible: the column that takes what the others leave: it is folded, or with `one_line` cut off.
        right: columns that are flush right.
        styles: of cells that hold just such a word.
    """  # fmt: skip
    from rich.cells import cell_len
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    others = sum(widths) - widths[flexible] + GAP * (len(widths) - 1)
    widths[flexible] = min(widths[flexible], max(LEAST, width - others))
    cut: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"} if one_line else {}
    yield Text(_line(headings, widths, right).rstrip(), style="bold", **cut)
    yield Text("─" * min(width, sum(widths) + GAP * (len(widths) - 1)))
    for row in rows:
        first, *rest = _pieces(row[flexible], widths[flexible], one_line)
        cells = [*row[:flexible], first, *row[flexible + 1 :]]
        line = Text(_line(cells, widths, right).rstrip(), **cut)
        _stylize(line, cells, widths, styles or {})
        yield line
        indent = sum(widths[:flexible]) + GAP * flexible
        yield from (Text(" " * indent + piece) for piece in rest)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    from rich.cells import cell_len

    blanks = [" " * (size - cell_len(cell)) for cell, size in zip(cells, widths, strict=True)]
    sized = (blank + cell if place in right else cell + blank for place, (cell, blank) in enumerate(zip(cells, blanks, strict=True)))
    return (" " * GAP).join(sized)


def _pieces(text: str, width: int, one_line: bool) -> list[str]:
    if len(text) <= width:
        return [text]
    return [text[: width - 1] + "…"] if one_line else textwrap.wrap(text, width)


def _stylize(line: Text, cells: Sequence[str], widths: Sequence[int], styles: Mapping[str, str]) -> None:
    start = 0
    for cell, size in zip(cells, widths, strict=True):
        if cell in styles:
            line.stylize(styles[cell], start, start + len(cell))
        start += size + GAP
