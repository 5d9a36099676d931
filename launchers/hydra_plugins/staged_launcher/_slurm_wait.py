"""Following the jobs of a launch to their end, through dropped terminals and controllers that are down."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from submitit.core.utils import UncompletedJobError

from cruijff_kit import slurm
from cruijff_kit.launches import NEVER, Slot

from ._display import PlainDisplay
from ._slurm_results import result_of
from ._works import Part, State, Work, end

# A result may show here some seconds after its task left Slurm's queue: network file systems are slow to tell.
GONE_S = 15.0
QUEUE_EVERY_S = 5.0


class Follower:
    """Watches the tasks that run the parts of works; `slots` holds each part's by the id of its object.

    It `drops` what waits for ever where Slurm does not do so by itself.
    """

    def __init__(self, works: Sequence[Work], slots: Mapping[int, Slot], poll_s: float, drops: bool) -> None:
        self._works, self._slots, self._poll_s, self._drops = works, slots, poll_s, drops
        self._dropped: Set[Slot] = set()
        self._queue: Dict[Tuple[int, Optional[int]], Any] = {}
        self._asked_s = float("-inf")
        self._gone: Dict[int, float] = {}
        self._silent = False

    def follow(self, display: PlainDisplay) -> None:
        """Return when every part is over; the states, results and reasons are in the works."""
        with display:
            while True:
                self._look(display)
                if all(work.over for work in self._works):
                    return
                display.tick()
                time.sleep(self._poll_s)

    def _look(self, display: PlainDisplay) -> None:
        if time.monotonic() - self._asked_s >= max(self._poll_s, QUEUE_EVERY_S if self._asked_s > 0 else 0):
            self._ask()
        for work in self._works:
            for part in work.parts.values():
                if part.state in (State.WAITING, State.RUNNING) and id(part) in self._slots:
                    self._look_at(work, part, self._slots[id(part)], display)
        if self._drops:
            self._drop_stuck()

    def _drop_stuck(self) -> None:
        """At once, and not at the end: another work may wait until these are over."""
        parts = [part for work in self._works for part in work.parts.values() if part.state is State.NOT_RUN]
        stuck = {self._slots[id(part)] for part in parts if id(part) in self._slots} - self._dropped
        with contextlib.suppress(slurm.SlurmError):  # the next look, or the next run, does it
            slurm.cancel(sorted(map(str, stuck)))
            self._dropped |= stuck

    def _ask(self) -> None:
        try:
            self._queue = {(task.job, task.index): task for task in slurm.queue()}
        except slurm.SlurmError as error:  # the controller may be away for a while; the jobs run on
            if not self._silent:
                print(f"waiting on: {error}", file=sys.stderr, flush=True)
            self._silent = True
            self._gone.clear()
        else:
            self._asked_s, self._silent = time.monotonic(), False

    def _look_at(self, work: Work, part: Part, slot: Slot, display: PlainDisplay) -> None:
        how = result_of(slot) if slot.has_ended else None
        task = self._queue.get((slot.job, slot.index))
        if how and _may_begin_again(task, how) and task.state != "COMPLETING" and not self._asked_just_now():
            self._ask()  # it has ended since, or is to start again
            task = self._queue.get((slot.job, slot.index))
        if how and not _may_begin_again(task, how):
            self._end(work, part, how, display)
        elif task is None and not self._silent:
            self._miss(work, part, slot, display)
        elif task is not None:
            self._gone.pop(id(part), None)
            self._see(work, part, slot, task, display)

    def _asked_just_now(self) -> bool:
        return self._silent or time.monotonic() - self._asked_s < self._poll_s

    def _see(self, work: Work, part: Part, slot: Slot, task: Any, display: PlainDisplay) -> None:
        if task.state == "RUNNING" and part.state is State.WAITING:
            part.state, part.started_s, part.log = State.RUNNING, time.monotonic(), slot.log
            display.started(work, part, None)
        elif task.state == "PENDING":
            part.state = State.WAITING  # it may have been requeued
            if task.reason == NEVER and not any(other.state is State.WAITING for other in _needed(work, part)):
                part.state, part.why = State.NOT_RUN, "what it waits for has failed"

    def _miss(self, work: Work, part: Part, slot: Slot, display: PlainDisplay) -> None:
        """A task that Slurm has no more and that left no result: wait for a slow file system, then call it dead."""
        if any(need.state in (State.WAITING, State.RUNNING) for need in _needed(work, part)):
            self._gone.pop(id(part), None)  # Slurm may know before us that what it waits for has failed
            return
        since = self._gone.setdefault(id(part), time.monotonic())
        if time.monotonic() - since < GONE_S:
            return
        why = _why_gone(slot)
        died = (None, UncompletedJobError(f"{why}; see {slot.log}"), why)
        self._end(work, part, result_of(slot) or died, display)

    def _end(self, work: Work, part: Part, how: Tuple[Any, Any, str], display: PlainDisplay) -> None:
        part.started_s = part.started_s or time.monotonic()
        part.log = self._slots[id(part)].log
        part.result, part.error, part.why = how
        part.ended_s = time.monotonic()
        display.ended(work, part, end(work, part))


def _may_begin_again(task: Any, how: Tuple[Any, Any, str]) -> bool:
    """Whether what a task has left may be that of an earlier start.

    A job that `scontrol requeue` ends is told to end like one that is cancelled, and fails: only when
    Slurm has it no more is that how it ended.
    """
    return task is not None and (task.state == "PENDING" or how[1] is not None)


def _why_gone(slot: Slot) -> str:
    try:
        found = slurm.ended([slot.job]).get((slot.job, slot.index))
    except slurm.SlurmError:  # it only says why
        found = None
    if found and found.state != "FAILED":
        return f"Slurm ended it: {found.state}"
    if not slot.log.exists():
        return "it never started: cancelled in Slurm's queue?"
    return "its process died without a result (killed, or out of memory?)"


def _needed(work: Work, part: Part) -> List[Part]:
    return [work.parts[need] for need in part.stage.needs]


@contextlib.contextmanager
def outliving_the_terminal(log: Path) -> Iterator[None]:
    """Go on without the terminal when it is closed; what would be shown there goes to `log` from then on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hung_up(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError:  # a full disk ends no wait
            descriptor = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(descriptor, stream.fileno())

    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGHUP) is hung_up:  # else the terminal is gone, and what is still to be said goes to the log
            signal.signal(signal.SIGHUP, before)
