"""Faults in what the user wrote: one Problem each, reported all together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

MAX_SHOWN = 500  # problems in the text of an error
MAX_SHOWN_LETTERS = 2_000  # of what one of them is

COMMAND_LINE = "command line"  # the `file` of a Problem with an override


def printable(text: str) -> str:
    """`text` as a terminal may show it: every control character, line breaks too, is written out."""
    return text if text.isprintable() else "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


@dataclass(frozen=True)
class Problem:
    """One fault: where it stands, what it is, and how to mend it.

    Args:
        key, path: the same place, as it is shown and part by part.
    """

    file: str
    what: str
    key: str = ""
    line: int | None = None
    fix: str | None = None
    level: str = "error"
    path: tuple[str | int, ...] = field(default=(), compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """What --json shows."""
        return {key: value for key, value in asdict(self).items() if key != "path"}

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        head = f"{place}  {self.key}" if self.key else place
        said = self.what if len(self.what) <= MAX_SHOWN_LETTERS else f"{self.what[:MAX_SHOWN_LETTERS]}…"
        what = said if self.level == "error" else f"{self.level}: {said}"
        body = [*what.splitlines(), *(self.fix or "").splitlines()]
        return "\n".join(printable(line) for line in [head, *(f"  {line}" for line in body)])


@dataclass(frozen=True)
class Fault:
    """What is wrong with one composed config, and the parameter that would mend it.

    Args:
        reads: other torchtune keys that it depends on.
    """

    name: str
    what: str
    fix: str | None = None
    level: str = "error"
    reads: tuple[str, ...] = ()


class CruijffKitError(Exception):
    """A fault of the user's, whose text is the whole message: exit code 1, no traceback."""

    def as_dicts(self) -> list[dict[str, Any]]:
        """The faults that it is made of, as --json shows them."""
        return [Problem("", str(self)).as_dict()]


class Interrupted:
    """Marks an exception that ends a stage from outside: a signal, and no fault of its own."""


class OnlyShown(Exception):
    """What would be done was shown, and nothing more was asked for."""


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

    def as_dicts(self) -> list[dict[str, Any]]:
        return [problem.as_dict() for problem in self.problems]


def strictly(problems: Iterable[Problem]) -> list[Problem]:
    """`problems` with each warning an error."""
    return [replace(problem, level="error") if problem.level == "warning" else problem for problem in problems]


def closest(name: str, names: Iterable[str], cutoff: int = 60) -> str | None:
    """`did you mean 'lora_rank'?`, or None if nothing is near: alike in less than `cutoff` of 100."""
    from rapidfuzz import fuzz, process

    match = process.extractOne(name, list(names), scorer=fuzz.ratio, score_cutoff=cutoff)
    return f"did you mean '{match[0]}'?" if match else None
