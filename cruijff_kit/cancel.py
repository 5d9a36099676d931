"""`cruijff-kit cancel`: ends what an experiment has in Slurm or runs on this machine, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cruijff_kit import ownership, paths, records, slurm, sweep_jobs, workspace
from cruijff_kit.errors import CruijffKitError, closest
from cruijff_kit.launches import NEVER
from cruijff_kit.paths import Layout
from cruijff_kit.records import Record
from cruijff_kit.slurm_output import Task, ranges
from cruijff_kit.sweep_jobs import SweepJobs
from cruijff_kit.sweep_state import identities

CHUNK = 500  # jobs in one call of scancel


def cancel(folder: Path, runs: Sequence[str] = ()) -> list[str]:
    """Cancels every stage of these runs, or of all; returns a line for each that was queued or running.

    What waits for ever for a stage that failed is cleared too.

    Raises:
        CruijffKitError: there is no such run, or Slurm did not answer.
    """
    layout, known = identities(folder)
    for run in runs:
        if run not in known:
            raise CruijffKitError(f"there is no run '{run}'" + (f": {hint}" if (hint := closest(run, known)) else ""))
    wanted = set(runs or known)
    lines = _interrupt_here(layout, wanted)
    jobs = sweep_jobs.look(layout)
    if jobs.fault is not None:
        raise CruijffKitError("\n".join([*lines, jobs.fault, "what Slurm has of this experiment was not cancelled"]))
    own = sorted(((run, stage, task) for run, stage, task in jobs.own if run in wanted), key=_place)
    for words in _names(task for _, _, task in own):
        slurm.cancel(words)
    for run, stage, task in own:
        if task.state == "PENDING":  # no process of its own will say so, and the accounting may not know
            _note(layout, run, stage, known[run], task, jobs)
    return lines + [f"{run} {stage}: {_was(task)}" for run, stage, task in own]


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


def _note(layout: Layout, run: str, stage: str, identity: str, task: Task, jobs: SweepJobs) -> None:
    path, now = layout.record(stage, run), time.time()
    before = records.read(path)
    if before is None or before.config != identity or before.job != str(task):
        before = Record(run, stage, identity, records.CANCELLED, 0, now, socket.gethostname(), os.getpid(), job=str(task))
    records.write(path, replace(before, state=records.CANCELLED, ended_s=now, reason="cancelled before it ran"))


def _interrupt_here(layout: Layout, runs: Collection[str]) -> list[str]:
    """Ends stages on this machine that Slurm did not start, as Ctrl-C would."""
    lines = []
    for run in sorted(runs):
        for stage in sweep_jobs.STAGES:
            held = paths.held(layout.folder, stage, run)
            owner = ownership.read(held / ownership.FILE) if workspace.is_held(held) else None
            if owner is not None and owner.host == socket.gethostname() and owner.job is None and not owner.ended:
                os.kill(owner.pid, signal.SIGINT)
                lines.append(f"{run} {stage}: process {owner.pid} interrupted")
    return lines
