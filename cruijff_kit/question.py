"""Questions on the terminal: one before anything happens that cannot be undone, and those for what has no good default."""

from __future__ import annotations

import sys

from cruijff_kit.errors import CruijffKitError


def is_answered() -> bool:
    """Whether somebody sits at a terminal."""
    return bool(sys.stdin and sys.stdin.isatty())


def confirm(question: str, unattended: str, refused: str) -> None:
    """Asks `question` on the terminal.

    Raises:
        CruijffKitError: there is no terminal, which the text `unattended` says, or the answer is no: `refused`.
    """
    if not is_answered():
        raise CruijffKitError(unattended)
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise CruijffKitError(refused)


def ask(question: str, default: str | None = None) -> str:
    """The answer to `question`, asked again until there is one; an empty line is the default.

    Raises:
        CruijffKitError: the input ended.
    """
    while True:
        print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
        try:
            answer = input().strip() or default
        except EOFError:
            print(file=sys.stderr)
            raise CruijffKitError("the input ended before every question was answered: nothing was written") from None
        if answer:
            return answer
