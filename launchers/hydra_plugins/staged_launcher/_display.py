"""How a launch is going, on stderr: a live table on a terminal, plain lines anywhere else.

Both displays are told what `started` and `ended`, get a `tick` while jobs run, and are left with the
`with` block.
"""

import sys
import time
from typing import Any, List, Sequence

from ._log_tail import current_line
from ._works import Part, State, Work

LIVE_EVERY_S = 0.5
HEARTBEAT_EVERY_S = 30.0
NAME_WIDTH = 40  # of a terminal's columns; what a job says takes what the others leave


def make_display(works: Sequence[Work], hooks: Any) -> "PlainDisplay":
    """The display that suits stderr."""
    return (LiveDisplay if sys.stderr.isatty() else PlainDisplay)(works, hooks)


def label(work: Work, part: Part) -> str:
    return f"{work.name} {part.stage.name}" if part.stage.name else work.name


def duration(seconds: float) -> str:
    """`7 s`, `3 m 20 s`, `2 h 05 m`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {rest:02} s" if minutes else f"{rest} s"


def elapsed(part: Part) -> str:
    return duration((part.ended_s or time.monotonic()) - part.started_s)


def ending(work: Work, part: Part) -> str:
    """How a stage ended, in a line."""
    if part.state is State.FAILED:
        return f"{label(work, part)}: failed after {elapsed(part)}: {part.why}"
    return f"{label(work, part)}: done in {elapsed(part)}"


class PlainDisplay:
    """A line when a stage starts or ends, and now and then what each job says."""

    def __init__(self, works: Sequence[Work], hooks: Any) -> None:
        self.works, self.hooks = works, hooks
        self._begun = self._last = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def started(self, work: Work, part: Part, gpu: Any) -> None:
        self._say(f"{label(work, part)}: started" + (f" on GPU {gpu}" if gpu is not None else ""))

    def ended(self, work: Work, part: Part, barred: List[Part]) -> None:
        self._say(ending(work, part))
        for other in barred:
            self._say(f"{label(work, other)}: not run, {other.why}")

    def tick(self) -> None:
        if time.monotonic() - self._last < HEARTBEAT_EVERY_S:
            return
        self._last = time.monotonic()
        for work, part in running(self.works):
            line = current_line(part.log, self.hooks) or "running"
            self._say(f"{label(work, part)}: {line} ({elapsed(part)})")

    def summary(self) -> str:
        """`3 of 8 points done, 1 failed, 4 m 10 s`; counts points, and not the extras beside them."""
        total = sum(len(work.points) for work in self.works)
        done = sum(len(work.points) for work in self.works if work.over and not work.failed)
        failed = sum(len(work.points) for work in self.works if work.failed)
        broken = f", {failed} failed" if failed else ""
        return f"{done} of {total} points done{broken}, {duration(time.monotonic() - self._begun)}"

    def _say(self, line: str) -> None:
        done = sum(len(work.points) for work in self.works if work.over)
        total = sum(len(work.points) for work in self.works)
        print(f"[{done}/{total}] {line}", file=sys.stderr, flush=True)


class LiveDisplay(PlainDisplay):
    """A table of the running jobs, redrawn in place; failures stay above it."""

    def __init__(self, works: Sequence[Work], hooks: Any) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(works, hooks)
        self._said: dict = {}
        self._console = Console(stderr=True)
        # no thread of rich's own: signals and forks stay simple, and tick comes often enough
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.stop()
        self._print(self.summary())

    def started(self, work: Work, part: Part, gpu: Any) -> None:
        self._draw()

    def ended(self, work: Work, part: Part, barred: List[Part]) -> None:
        self._said.pop(id(part), None)
        if part.state is State.FAILED:
            self._print(ending(work, part))
        self._draw()

    def tick(self) -> None:
        if time.monotonic() - self._last >= LIVE_EVERY_S:
            self._draw()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        self._last = time.monotonic()
        table = Table.grid(padding=(0, 2), expand=True)
        for max_width, ratio in ((NAME_WIDTH, None), (None, None), (None, None), (None, 1)):
            table.add_column(no_wrap=True, overflow="ellipsis", max_width=max_width, ratio=ratio)
        for work, part in running(self.works):
            line = current_line(part.log, self.hooks) or self._said.get(id(part), "")
            self._said[id(part)] = line
            cells = (work.name, part.stage.name or "", elapsed(part), line)
            table.add_row(*(Text(cell) for cell in cells))
        self._live.update(Group(Text(self.summary(), style="bold"), table), refresh=True)


def running(works: Sequence[Work]) -> List[tuple]:
    """The stages that run now, each with its work."""
    return [(work, part) for work in works for part in work.parts.values() if part.state is State.RUNNING]
