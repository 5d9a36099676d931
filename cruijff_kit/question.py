"""A question that is asked before anything happens that cannot be undone."""

from __future__ import annotations

import sys

from cruijff_kit.errors import CruijffKitError


def confirm(question: str, unattended: str, refused: str) -> None:
    """Asks `question` on the terminal.

    Raises:
        CruijffKitError: there is no terminal, which the text `unattended` says, or the answer is no: `refused`.
    """
    if not sys.stdin or not sys.stdin.isatty():
        raise CruijffKitError(unattended)
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise CruijffKitError(refused)
