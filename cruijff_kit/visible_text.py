"""Text of a user's, a model's or an exception's, as a terminal may show it: nothing in it is a control sequence."""

from __future__ import annotations


def visible(text: str) -> str:
    """`text` with its line breaks marked and kept, and every other control character written out."""
    return "".join("↵\n" if char == "\n" else char if char.isprintable() else _escaped(char) for char in text)


def one_line(text: str, length: int) -> str:
    """The first `length` characters of `text` on one line, with … where there are more."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return "".join(char if char.isprintable() else _escaped(char) for char in cut)


def said(error: BaseException) -> str:
    """The exception's kind, and the first thing that it says, on one line."""
    first, *others = str(error).strip().splitlines() or [""]
    first = " ".join([first.strip(), *others[:1]]) if first.rstrip().endswith(":") else first
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__, 400)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
