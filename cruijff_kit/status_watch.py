"""`status --watch`: the table redrawn in place; where there is no terminal, a line for each change."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit.status import ORDER, Row, is_under_way, now, lines, print_status, rows, summary
from cruijff_kit.sweep_state import SweepState, look

if TYPE_CHECKING:
    from rich.console import Console

AROUND_THE_TABLE = 6  # lines of a screen


def watch(folder: Path, console: Console, every_s: float) -> None:
    """Shows how the runs go until none is queued or running; then the whole table."""
    if console.is_terminal:
        _redraw(folder, console, every_s)
    else:
        _tell(folder, console, every_s)
    print_status(folder, console)


def _redraw(folder: Path, console: Console, every_s: float) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        for state in _looks(folder, every_s):
            live.update(_screen(state, console.width, console.height), refresh=True)


def _looks(folder: Path, every_s: float) -> Iterator[SweepState]:
    while True:
        began = time.monotonic()
        state = look(folder)
        yield state
        if not is_under_way(state.runs):
            return
        time.sleep(max(every_s - (time.monotonic() - began), every_s / 2))


def _screen(state: SweepState, width: int, height: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    every = rows(state)
    shown = _most_telling(every, max(1, height - AROUND_THE_TABLE - len(state.notes)))
    left = len(every) - len(shown)
    above = (Text(line, no_wrap=True, overflow="ellipsis") for line in (f"{now()}  {summary(state, every)}", *state.notes, ""))
    more = [Text(f"and {left} more")] if left else []
    return Group(*above, *lines(shown, width, one_line=True), *more)


def _most_telling(every: Sequence[Row], count: int) -> list[Row]:
    """So many rows, in the order of the sweep: those that run and those that failed before all others."""
    if len(every) <= count:
        return list(every)
    ranked = sorted(range(len(every)), key=lambda number: _rank(every[number]))
    return [every[number] for number in sorted(ranked[:count])]


def _rank(row: Row) -> int:
    states = [state.state for state in row.run.stages.values()]
    return min((ORDER.index(state) for state in states if state in ORDER), default=len(ORDER))


def _tell(folder: Path, console: Console, every_s: float) -> None:
    known: dict[tuple[str, str], str] = {}
    for state in _looks(folder, every_s):
        for run in state.runs:
            for stage, now_is in run.stages.items():
                before = known.get((run.run, stage))
                if before is not None and before != now_is.state:
                    why = f": {now_is.why.splitlines()[0]}" if now_is.why else ""
                    console.print(f"{now()} {run.run} {stage}: {before} → {now_is.state}{why}", markup=False, highlight=False, soft_wrap=True)
                known[run.run, stage] = now_is.state
