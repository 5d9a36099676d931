"""Text of a user's or a model's, as a terminal may show it: nothing in it is a control sequence."""

from __future__ import annotations


def visible(text: str) -> str:
    """`text` with its line breaks marked and kept, and every other control character written out."""
    return "".join("↵\n" if char == "\n" else char if char.isprintable() else _escaped(char) for char in text)


def one_line(text: str, length: int) -> str:
    """The first `length` characters of `text` on one line, with … where there are more."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return "".join(char if char.isprintable() else _escaped(char) for char in cut)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
