"""The closing table: what failed, what did not run because of it, why, and where the logs are."""

import sys
from typing import List, Sequence

from ._display import label
from ._works import State, Work

WHY_CHARS = 300


def print_failures(works: Sequence[Work]) -> None:
    """Print the table on stdout when anything failed; nothing otherwise."""
    rows = [
        (work, part)
        for work in works
        for part in work.parts.values()
        if part.state in (State.FAILED, State.NOT_RUN)
    ]
    if rows:
        _print_table(rows)
        _print_logs(rows)


def _print_table(rows: List[tuple]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # a file or a pipe has no width to fold to
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000)
    table = Table("point", "stage", "state", "why")
    for work, part in rows:
        cells = (work.name, part.stage.name or "", part.state.value, _shortened(part.why))
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)


def _print_logs(rows: List[tuple]) -> None:
    """Beneath the table, where no column cuts them: a path is there to be copied."""
    logged = [(work, part) for work, part in rows if part.log is not None]
    print("\nlogs:")
    for work, part in logged:
        print(f"  {label(work, part)}\n    {part.log}")
    print(flush=True)


def _shortened(text: str) -> str:
    return text if len(text) <= WHY_CHARS else text[: WHY_CHARS - 1] + "…"
