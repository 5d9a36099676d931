"""Faults in what the user wrote: one Problem each, reported all together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_SHOWN = 500  # problems in the text of an error
MAX_SHOWN_LETTERS = 2_000  # of what one of them is

COMMAND_LINE = "command line"  # the `file` of a Problem with an override


@dataclass(frozen=True)
class Problem:
    """One fault: where it stands, what it is, and how to mend it."""

    file: str
    what: str
    key: str = ""
    line: int | None = None
    fix: str | None = None
    level: str = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        head = f"{place}  {self.key}" if self.key else place
        said = self.what if len(self.what) <= MAX_SHOWN_LETTERS else f"{self.what[:MAX_SHOWN_LETTERS]}…"
        what = said if self.level == "error" else f"{self.level}: {said}"
        body = [what, *(self.fix or "").splitlines()]
        return "\n".join([head, *(f"  {line}" for line in body)])


class CruijffKitError(Exception):
    """A fault of the user's, whose text is the whole message: exit code 1, no traceback."""


class ExperimentError(CruijffKitError):
    """Everything that is wrong with an experiment.

    Args:
        problems: every fault that was found, warnings included.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        more = len(self.problems) - MAX_SHOWN
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]] + ([f"and {more:,} more"] if more > 0 else [])
        super().__init__("\n".join(shown))


def closest(name: str, names: Iterable[str]) -> str | None:
    """`did you mean 'lora_rank'?`, or None if nothing is near."""
    from rapidfuzz import fuzz, process

    match = process.extractOne(name, list(names), scorer=fuzz.ratio, score_cutoff=60)
    return f"did you mean '{match[0]}'?" if match else None
