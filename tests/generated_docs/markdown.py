"""Pieces of Markdown, as GitHub shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTICE = "<!-- Made from the code by `make docs`: edits here are lost. -->\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a `|` in a cell stays a letter."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def either(words: Iterable[str]) -> str:
    """`a`, `b` or `c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
