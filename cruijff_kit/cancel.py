"""`cruijff-kit cancel`: ends what an experiment has in Slurm or runs on this machine, and nothing else."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from cruijff_kit import ownership, paths, records, slurm, sweep_jobs, workspace
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.launches import NEVER
from cruijff_kit.paths import Layout
from cruijff_kit.records import Record
from cruijff_kit.selection import some
from cruijff_kit.slurm_output import Task, ranges
from cruijff_kit.sweep_state import identities, no_such_run

CHUNK = 500  # jobs in one call of scancel


def cancel(folder: Path, runs: Sequence[str] = ()) -> list[str]:
    """Cancels every stage of these runs, or of all; returns a line for each that was queued or running.

    What waits for ever for a stage that failed is cleared too. What does others together with these runs is left alone.

    Raises:
        CruijffKitError: there is no such run, or Slurm did not answer.
    """
    layout, known = identities(folder)
    for run in runs:
        if run not in known:
            raise no_such_run(run, known)
    jobs, aim = sweep_jobs.look(layout), _Aim(set(runs or known), not runs, f"cruijff-kit cancel {shlex.quote(str(folder))}")
    lines = _interrupt_here(layout, aim, {str(each.slot) for each in jobs.sent} | set(jobs.runs_of))
    if jobs.fault is not None:
        raise CruijffKitError("\n".join([*lines, jobs.fault, "what Slurm has of this experiment was not cancelled"]))
    own = sorted(((run, stage, task) for run, stage, task in jobs.own if run in aim.runs), key=_place)
    left = {task: aim.spares(f"job {task}", jobs.runs_of[str(task)]) for _, _, task in own}
    # evaluations first: one that waits for trainings, however they end, must not begin because these are over
    first = dict.fromkeys(task for _, _, task in sorted(own, key=lambda each: each[1] != "eval") if not left[task])
    for words in _names(first):
        slurm.cancel(words)
    for run, stage, task in own:
        if task.state == "PENDING" and not left[task]:  # no process of its own will say so, and the accounting may not know
            _note(layout, run, stage, known[run], task)
    return lines + [f"{run} {stage}: {left[task] or _was(task)}" for run, stage, task in own]


@dataclass(frozen=True)
class _Aim:
    """What is to be cancelled.

    Args:
        whole: whether that is all of the experiment.
        command: the one that cancels all of it.
    """

    runs: Set[str]
    whole: bool
    command: str

    def spares(self, name: str, runs: Sequence[str]) -> str | None:
        """Why a job or process is left alone, if it is: it does all of `runs`."""
        if self.whole or self.runs.issuperset(runs):
            return None
        return f"left alone: {name} evaluates {some(runs)} together: {self.command} ends it"


def _place(own: tuple[str, str, Task]) -> tuple[str, int, int]:
    """Where it stands in what is said: squeue lists what it likes first."""
    run, stage, task = own
    return run, sweep_jobs.STAGES.index(stage), task.job


def _was(task: Task) -> str:
    if task.reason == NEVER:
        return f"job {task} cleared: it waited for ever"
    return f"job {task} cancelled, it was {task.state.lower()}"


def _names(tasks: Iterable[Task]) -> list[list[str]]:
    """What scancel is told: `12_[0-3,7]`, some at a time."""
    by_job: dict[int, list[int]] = defaultdict(list)
    plain = []
    for task in tasks:
        if task.index is None:
            plain.append(str(task))
        else:
            by_job[task.job].append(task.index)
    chunks = [(job, indices[start : start + CHUNK]) for job, indices in by_job.items() for start in range(0, len(indices), CHUNK)]
    return [*([plain] if plain else []), *([f"{job}_[{ranges(indices)}]"] for job, indices in chunks)]


def _note(layout: Layout, run: str, stage: str, identity: str, task: Task) -> None:
    path, now = layout.record(stage, run), time.time()
    before = records.read(path)
    if before is not None and before.config == identity and before.state in (records.DONE, records.RUNNING):
        return  # of another time than this job's, which is the one that counts
    if before is None or before.config != identity or before.job != str(task):
        before = Record(run, stage, identity, records.CANCELLED, 0, now, socket.gethostname(), os.getpid(), job=str(task))
    records.write(path, replace(before, state=records.CANCELLED, ended_s=now, reason="cancelled before it ran"))


def _interrupt_here(layout: Layout, aim: _Aim, sent: Collection[str]) -> list[str]:
    """Ends stages that are not in Slurm, as Ctrl-C would; of a whole experiment first what would start the next ones.

    Args:
        sent: the names of all tasks that Slurm has or had: scancel ends those.
    """
    owners = [(run, stage, owner) for run in sorted(aim.runs) for stage in sweep_jobs.STAGES if (owner := _owner(layout, stage, run))]
    owners = [each for each in owners if each[2].job not in sent]
    here = [owner for _, _, owner in owners if owner.host == socket.gethostname()]
    commands = {owner.launcher for owner in here if owner.launcher and ownership.is_started_by(owner.pid, owner.launcher)} if aim.whole else set()
    lines = [f"process {pid} interrupted: the command that started them" for pid in sorted(commands) if _interrupt(pid)]
    for run, stage, owner in owners:
        if owner.host != socket.gethostname():
            lines.append(f"{run} {stage}: left alone: it is done by {owner}, which no launch sent")
        elif spared := aim.spares(f"process {owner.pid}", owner.runs):
            lines.append(f"{run} {stage}: {spared}")
        elif ownership.began_s(owner.pid) == owner.began_s and _interrupt(owner.pid):
            lines.append(f"{run} {stage}: process {owner.pid} interrupted")
    return lines


def _owner(layout: Layout, stage: str, run: str) -> ownership.Owner | None:
    held = paths.held(layout.folder, stage, run)
    owner = ownership.read(held / ownership.FILE) if workspace.is_held(held) else None
    return owner if owner is not None and not owner.ended else None


def _interrupt(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGINT)
    except (ProcessLookupError, PermissionError):  # over by now, or another user's
        return False
    return True
