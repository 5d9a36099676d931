"""How far a stage of a run is, from all that tells of it: files first, then its record, its process, and Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cruijff_kit import log_follow, records
from cruijff_kit.failure import Failure, telling
from cruijff_kit.launches import NEVER, Slot
from cruijff_kit.records import Record
from cruijff_kit.slurm_output import Ended, Task

WAITING, QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST = "waiting", "queued", "running", "done", "failed", "cancelled", "lost"

STUCK = "stuck"
OVER_BADLY = (FAILED, CANCELLED, LOST)
LIVE = (QUEUED, RUNNING)

# How Slurm says that it ended a job, and what we say; what it does not say better than the job itself is not here.
BY_SLURM = {
    "TIMEOUT": (FAILED, "time", "time limit: Slurm ended it"),
    "DEADLINE": (FAILED, "time", "deadline: Slurm ended it"),
    "OUT_OF_MEMORY": (FAILED, "memory", "out of memory: Slurm ended it"),
    "NODE_FAIL": (FAILED, "node", "node failure"),
    "BOOT_FAIL": (FAILED, "node", "node failure: it did not start"),
    "PREEMPTED": (FAILED, "preempted", "preempted, and not started again"),
    "CANCELLED": (CANCELLED, "cancelled", "cancelled"),
    "REVOKED": (CANCELLED, "cancelled", "cancelled: its cluster let it go"),
}
BY_LOG = {"cancelled": CANCELLED}  # FAILED for all other kinds


@dataclass(frozen=True)
class Witnesses:
    """What tells of one stage of a run.

    Args:
        record: the one of this very run; None if there is none, or it is another's.
        slot: the latest task that was sent to Slurm for it, at `sent_s`.
        task: what squeue has of it; None if nothing.
        key: what the launch that sent the slot's task called it.
        ended: how Slurm says that the slot's task ended.
        held: whether a process on this machine is at it.
        here: whether the record was made on this machine.
        slurm: whether Slurm could be asked.
        shared: whether its task is for other runs too, one after the other.
    """

    record: Record | None = None
    slot: Slot | None = None
    sent_s: float = 0.0
    task: Task | None = None
    key: str | None = None
    ended: Ended | None = None
    held: bool = False
    here: bool = True
    slurm: bool = True
    shared: bool = False

    @property
    def awaited(self) -> Task | None:
        """The task, unless it has done with this run: it is about to end, or goes on with others."""
        return None if self._is_of_task(records.DONE, *([records.FAILED] if self.shared else [])) else self.task

    @property
    def has_its_turn(self) -> bool:
        """Whether the task, where it runs, is at this run, as far as anybody can tell: one that no launch sent may keep no record."""
        return not self.shared or str(self.task) != str(self.slot) or self._is_of_task(records.RUNNING)

    def _is_of_task(self, *states: str) -> bool:
        record = self.recorded
        return record is not None and record.job == str(self.task) and record.state in states

    @property
    def recorded(self) -> Record | None:
        """The record, unless the slot's task came later and left none."""
        record, slot = self.record, self.slot
        if record is None or slot is None or record.job == str(slot):
            return record
        return record if record.started_s > self.sent_s else None

    @property
    def log(self) -> Path | None:
        """Where its output is."""
        recorded = self.recorded
        if recorded is not None and recorded.log:
            return Path(recorded.log)
        return self.slot.log if self.slot and (recorded is None or recorded.job == str(self.slot)) else None


@dataclass(frozen=True)
class StageState:
    """How far it is.

    Args:
        state: waiting, queued, running, done, failed, cancelled or lost.
        why: for a failure its first telling line; what it waits for; what is odd about it.
        kind: of a failure: memory, time, node, cancelled, preempted, error; `stuck` of what waits for ever.
        job: Slurm's id, as scancel takes it.
        key: what our launch called it that has sent the task that Slurm has of it.
        in_slurm: whether Slurm has it, queued or running.
        attempt: how many times it was started.
        started_s: seconds since the epoch; so is `ended_s`.
    """

    state: str
    why: str = ""
    kind: str = ""
    job: str | None = None
    key: str | None = None
    in_slurm: bool = False
    log: Path | None = None
    attempt: int = 0
    started_s: float | None = None
    ended_s: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it runs, or is going to."""
        return self.state in LIVE or self.in_slurm and self.kind != STUCK

    @property
    def seconds(self) -> float | None:
        """How long it ran, or runs; None where nobody noted its end."""
        if self.started_s is None or self.ended_s is None and self.state != RUNNING:
            return None
        return max(0.0, (self.ended_s or time.time()) - self.started_s)


def judge(seen: Witnesses, finished: Callable[[], bool], lacks: Callable[[], str] = lambda: "") -> StageState:
    """How far the stage is.

    Args:
        finished: whether its results are whole and of this run.
        lacks: what they lack, for one whose record says that it is done.
    """
    awaited = None if seen.shared and finished() else seen.awaited
    found = _judge(seen, awaited, finished, lacks)
    record, slot = seen.recorded, seen.slot
    task = seen.task or (slot if record is None or record.job == str(slot) else record.job)
    if found.state == WAITING:
        task = awaited  # an older job is over: what waits without one is to be sent
    known = replace(found, log=seen.log, job=str(task) if task else None, in_slurm=awaited is not None, key=seen.key if awaited else None)
    if record is None or record.attempt == 0 or known.state in (WAITING, QUEUED):
        return known
    return replace(known, attempt=record.attempt, started_s=record.started_s, ended_s=record.ended_s if known.state != RUNNING else None)


def _judge(seen: Witnesses, awaited: Task | None, finished: Callable[[], bool], lacks: Callable[[], str]) -> StageState:
    record = seen.recorded
    if awaited is not None:
        return _in_queue(awaited, seen)
    if seen.held:
        return StageState(RUNNING)
    if finished():
        return StageState(DONE)
    if record is None and seen.slot is None:
        return StageState(WAITING)
    if record is not None and record.state == records.DONE:
        return StageState(WAITING, lacks())
    return _over(seen)


def _in_queue(task: Task, seen: Witnesses) -> StageState:
    if task.state == "PENDING" and task.reason == NEVER:
        return StageState(WAITING, "its training has failed: Slurm keeps it waiting for ever", STUCK)
    if task.state == "PENDING" and task.reason == "Dependency":
        return StageState(WAITING, "for the trainings of all that it is evaluated with" if seen.shared else "for its training")
    if task.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"):
        return StageState(QUEUED, task.reason if task.reason not in ("None", "Priority", "Resources") else "")
    if not seen.has_its_turn:
        return StageState(QUEUED, "its job has not come to it yet")
    if task.state in ("SUSPENDED", "STOPPED"):
        return StageState(RUNNING, task.state.lower())
    return StageState(RUNNING)


def _over(seen: Witnesses) -> StageState:
    """Of a stage that is not done, and that nobody is known to be at."""
    record, ended = seen.recorded, seen.ended
    if record is not None and record.state == records.CANCELLED:
        return StageState(CANCELLED, record.reason or "cancelled", "cancelled")
    if ended is not None and ended.state in BY_SLURM:
        return _by_slurm(ended)
    killed = record is not None and (record.exit_code or 0) < 0  # by whom, only the log tells
    if record is not None and record.state == records.FAILED and not killed:
        return StageState(FAILED, record.reason or "", record.kind or "error")
    said = telling(log_follow.tail(seen.log)) if seen.log else None
    if seen.shared and record is None and (said is None or said.kind == "error"):  # which may be another run's
        return _without_a_word(seen)
    if said is not None and (said.kind != "error" or record is None or record.state != records.INTERRUPTED):
        return _by_log(said)
    if record is not None and killed:
        return StageState(FAILED, record.reason or "", "error")
    if record is not None and record.state == records.INTERRUPTED:
        return StageState(CANCELLED, record.reason or "interrupted", "cancelled")
    return _without_a_word(seen)


def _by_slurm(ended: Ended) -> StageState:
    state, kind, why = BY_SLURM[ended.state]
    return StageState(state, f"{why} by user {ended.by}" if ended.by is not None else why, kind)


def _by_log(said: Failure) -> StageState:
    return StageState(BY_LOG.get(said.kind, FAILED), said.line, said.kind)


def _without_a_word(seen: Witnesses) -> StageState:
    record, slot = seen.recorded, seen.slot
    if seen.shared and record is None and slot is not None and seen.slurm and slot.log.exists():
        return StageState(FAILED, f"job {slot} is over and did not evaluate it: its log says why", "error")
    if seen.ended is not None:
        how = f"exit code {seen.ended.exit_code}" + (f", {seen.ended.reason}" if seen.ended.reason not in ("", "None") else "")
        return StageState(FAILED, f"Slurm says {seen.ended.state} ({how}), and it left no result", "error")
    if not seen.slurm and (record is None or record.job is not None):
        as_sent = StageState(QUEUED, "as it was sent: Slurm cannot be asked")
        return as_sent if record is None else StageState(RUNNING, "as it last said: Slurm cannot be asked")
    if record is not None and record.job is None and not seen.here:
        return StageState(RUNNING, f"as it last said: {record.host} cannot be seen from here")
    if slot is not None and record is None and not slot.log.exists():
        return StageState(CANCELLED, "Slurm has it no more, and it never began: cancelled in the queue", "cancelled")
    if slot is not None and (record is None or record.job == str(slot)):
        return StageState(LOST, f"Slurm has job {slot} no more, and it left no result")
    return StageState(LOST, "its process ended without a word: killed, or the machine was restarted")
