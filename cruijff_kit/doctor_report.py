"""One check of the doctor's, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cruijff_kit.errors import printable

STATE_WIDTH, NAME_WIDTH = 9, 13


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Args:
        state: `ok`, `warning` or `failed`.
        what: what was found: one line or several.
        fix: how to mend it, if it is not ok.
    """

    name: str
    state: str
    what: str
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What --json shows."""
        return asdict(self)

    def __str__(self) -> str:
        """A row of the table; what has several lines goes on below, and the fix stands last."""
        lines = [*self.what.splitlines(), *(f"→ {line}" if not at else f"  {line}" for at, line in enumerate((self.fix or "").splitlines()))]
        heads = [f"{self.state:<{STATE_WIDTH}}{self.name:<{NAME_WIDTH}}", *[" " * (STATE_WIDTH + NAME_WIDTH)] * (len(lines) - 1)]
        return "\n".join(f"{head}{printable(line)}" for head, line in zip(heads, lines))
