"""Text of a user's, a model's or an exception's, as a terminal may show it: nothing in it is a control sequence."""

from __future__ import annotations

import textwrap

from cruijff_kit.errors import printable


def visible(text: str) -> str:
    """`text` with its line breaks marked and kept, and every other control character written out."""
    return "↵\n".join(map(printable, text.split("\n")))


def one_line(text: str, length: int) -> str:
    """The first `length` characters of `text` on one line, with … where there are more."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return printable(cut)


def message(error: BaseException) -> str:
    """What the exception says, on one line."""
    return one_line(" ".join(str(error).split()) or type(error).__name__, 400)


def said(error: BaseException) -> str:
    """The exception's kind, and the first thing that it says, on one line."""
    first, *others = str(error).strip().splitlines() or [""]
    first = " ".join([first.strip(), *others[:1]]) if first.rstrip().endswith(":") else first
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__, 400)


def rest(error: BaseException) -> str | None:
    """What the exception says beyond its first line."""
    lines = textwrap.dedent("\n".join(str(error).strip().splitlines()[1:6])).splitlines()
    return "\n".join(one_line(line, 200) for line in lines) or None
