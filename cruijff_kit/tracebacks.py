"""The exceptions whose tracebacks lie in a log, as Python prints them and as torch and multiprocessing pass them on.

Says what was raised and from what, and not which of several exceptions counts: failure does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DURING = "During handling of the above exception, another exception occurred:"
FROM = "The above exception was the direct cause of the following exception:"
MESSAGE_LINES = 12  # of a message that is looked at

_HEADER = "Traceback (most recent call last)"  # also behind "Original ", "Exception Group ", or a bar that was left standing
_RANK = re.compile(r"^\[(?:rank|default)(\d+)\]: ?")
_GROUP = re.compile(r"^(?:\s+[|+])+ ?")  # the margin of an ExceptionGroup's members
_RAISED = re.compile(r"^(?P<name>[A-Za-z_][\w.<>]*)(?:: (?P<message>.*)|:?$)")
# printed and passed over: a failing __del__, a handler of logging
_IGNORED = re.compile(r"^(?:Exception ignored in|--- Logging error ---)")


@dataclass(frozen=True)
class Raised:
    """An exception: its name without its module, and its message line by line.

    Args:
        link: DURING or FROM, how it comes of the one before it in its chain; empty for the first.
    """

    name: str
    message: tuple[str, ...]
    link: str = ""

    def __str__(self) -> str:
        """In one line: `ValueError: what it says`."""
        return f"{self.name}: {self.message[0]}" if self.message[0] else self.name


def chains(lines: Sequence[str]) -> list[list[Raised]]:
    """What was raised, in the order in which it was printed; each with all that it came of before it.

    The lines of several ranks may be mixed.
    """
    ranks: dict[str, list[str]] = {}
    for line in lines:
        match = _RANK.match(line)
        own = _GROUP.sub("", line[match.end() if match else 0 :])
        ranks.setdefault(match[1] if match else "", []).extend([own] if own.strip() else [])
    # torchrun, and all that is around it, has no rank and speaks last
    return [chain for rank in sorted(ranks, key=lambda rank: (rank == "", rank)) for chain in _chains(ranks[rank])]


def _chains(lines: Sequence[str]) -> Iterator[list[Raised]]:
    """The chains of one process."""
    starts = [i for i, line in enumerate(lines) if _HEADER in line]
    chain: list[Raised] = []
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        before = lines[start - 1].strip() if start else ""
        if before not in (DURING, FROM):
            yield from [chain] if chain else []
            chain = []
        raised = None if _IGNORED.match(before) else _raised(lines[start + 1 : end], before if chain else "")
        chain += [raised] if raised else []
    yield from [chain] if chain else []


def _raised(lines: Sequence[str], link: str) -> Raised | None:
    """The exception below the frames of a traceback; None if the log ends before it."""
    for i, line in enumerate(lines):
        match = _RAISED.match(line)
        if match:
            message = (match["message"] or "").strip()
            further = [line.strip() for line in lines[i + 1 : i + MESSAGE_LINES]]
            if line.endswith(":") and further:  # it only announces what comes
                message = f"{message} {further[0]}".strip()
            return Raised(match["name"].split(".")[-1], (message, *further), link)
    return None
