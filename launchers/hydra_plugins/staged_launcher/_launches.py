"""The launches of a folder on disk: what each sends to Slurm, and what of it is still there.

A launch writes down what it is about to send before it sends it, and each job id as soon as Slurm gives
it. One that was killed anywhere between is completed by the next: it finds the jobs by a token in
their comment, or by the files that they left.
"""

import contextlib
import fcntl
import json
import re
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import AbstractSet, Any, Dict, Iterator, List, Mapping, Optional, Sequence

from cruijff_kit import atomic, slurm

from ._slurm_arrays import Array, Key
from ._slurm_results import Slot, has_ended

NEVER = "DependencyNeverSatisfied"


@dataclass
class Record:
    """One array of a launch as it is on disk; `tasks` holds the key of each index."""

    folder: Path
    stage: Optional[str]
    token: str
    job: Optional[int]
    processes: int
    tasks: Dict[int, str]

    def slot(self, index: int) -> Slot:
        """The task at an index, once Slurm has accepted the array."""
        return Slot(str(self.folder), self.job, index, self.processes)


class Launch:
    """A launch's folder and its launch.json.

    It is `delivered` when the command that made it has done what it was asked for: to have Slurm
    accept it and say so, or to wait for its results. It is `closed` when Slurm has nothing more of it
    besides: who asks for the same again then wants it done again.
    """

    def __init__(self, folder: Path, records: List[Record], delivered: bool = False, closed: bool = False) -> None:
        self.folder, self.records, self.delivered, self.closed = folder, records, delivered, closed

    def save(self) -> None:
        """Write launch.json whole."""
        arrays = [
            {"name": r.folder.name, "stage": r.stage, "token": r.token, "job": r.job, "processes": r.processes, "tasks": r.tasks}
            for r in self.records
        ]
        values = {"delivered": self.delivered, "closed": self.closed, "arrays": arrays}
        atomic.write_json(self.folder / "launch.json", values)

    @classmethod
    def load(cls, folder: Path) -> Optional["Launch"]:
        """The launch in a folder; None where it was killed before it had written down anything."""
        try:
            values = json.loads((folder / "launch.json").read_text())
        except FileNotFoundError:
            return None
        records = [
            Record(
                folder / a["name"], a["stage"], a["token"], a["job"], a["processes"],
                {int(index): key for index, key in a["tasks"].items()},
            )
            for a in values["arrays"]
        ]  # fmt: skip
        return cls(folder, records, values["delivered"], values["closed"])


def new_launch(folder: Path) -> Launch:
    """An empty launch in a new folder below `folder`, whose name sorts after those of earlier ones."""
    now = time.time_ns()
    moment = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now // 10**9))
    path = folder / f"{moment}.{now % 10**9:09}_{uuid.uuid4().hex[:6]}"
    path.mkdir(parents=True)
    return Launch(path, [])


def record(launch: Launch, array: Array, keys: Mapping[int, str], processes: int) -> Record:
    """Add an array that is about to be sent."""
    made = Record(launch.folder / array.name, array.stage.name, uuid.uuid4().hex, None, processes, dict(keys))
    launch.records.append(made)
    return made


def open_launches(folder: Path) -> List[Launch]:
    """The launches that are not closed, the latest first."""
    paths = sorted((path for path in folder.glob("*_*") if path.is_dir()), reverse=True)
    loaded = [launch for launch in map(Launch.load, paths) if launch is not None]
    return [launch for launch in loaded if not launch.closed]


@dataclass
class Found:
    """What earlier launches sent: tasks that Slurm still has; those that it has no more, well ended or not,
    of launches that are not over; and those that wait for ever."""

    live: Dict[Key, Slot] = field(default_factory=dict)
    over: Dict[Key, Slot] = field(default_factory=dict)
    stuck: List[Slot] = field(default_factory=list)


def find(launches: Sequence[Launch], queue: Sequence[Any]) -> Found:
    """What is left of these launches, the latest first; `queue` are cruijff_kit.slurm.Tasks."""
    tasks = {(task.job, task.index): task for task in queue}
    found = Found()
    for launch in launches:
        for array in launch.records:
            array.job = array.job or _job_of(array, queue)
        for array in launch.records:
            for index, text in array.tasks.items() if array.job is not None else ():
                _sort_in(found, (array.stage, text), array.slot(index), tasks.get((array.job, index)))
    return found


def _sort_in(found: Found, key: Key, slot: Slot, task: Any) -> None:
    """A later launch has the say over an earlier one, except where that one's task lives."""
    if task is not None and task.reason == NEVER:
        found.stuck.append(slot)
    elif task is not None and not (task.state == "COMPLETING" and has_ended(slot)):
        found.live.setdefault(key, slot)
        return
    found.over.setdefault(key, slot)


def _job_of(array: Record, queue: Sequence[Any]) -> Optional[int]:
    """The job of an array that was sent by a client that died before it wrote down the id."""
    listed = [task.job for task in queue if array.token in task.comment]
    named = (re.match(r"(\d+)_\d+_", path.name) for path in array.folder.glob("*_*"))
    return next(iter([*listed, *(int(match[1]) for match in named if match)]), None)


def _in_queue(launch: Launch, jobs: Any) -> bool:
    return any(array.job in jobs for array in launch.records)


def close_old(launches: Sequence[Launch], queue: Sequence[Any]) -> List[Launch]:
    """Close the launches that were delivered and of which Slurm has nothing more; returns the others."""
    there = {task.job for task in queue}
    others = []
    for launch in launches:
        if launch.delivered and not _in_queue(launch, there):
            launch.closed = True
            launch.save()
        else:
            others.append(launch)
    return others


def deliver(launches: Sequence[Launch], keys: AbstractSet[Key]) -> None:
    """Note that a command has done what was asked for with all of these stages, and so with each launch that has no other."""
    for launch in launches:
        of_launch = {(array.stage, text) for array in launch.records for text in array.tasks.values()}
        if not launch.delivered and of_launch <= keys:
            launch.delivered = True
            launch.save()


def reopen(launches: Sequence[Launch], jobs: AbstractSet[int]) -> None:
    """Note of earlier launches that the results of these jobs are waited for now: until then they are not delivered."""
    for launch in launches:
        if launch.delivered and _in_queue(launch, jobs):
            launch.delivered = False
            launch.save()


def take_back(launch: Launch) -> str:
    """Cancel what Slurm has accepted of a launch, also where its answer did not come; says what came of that."""
    try:
        queue = slurm.queue()
        jobs = {str(array.job or _job_of(array, queue) or "") for array in launch.records} - {""}
        slurm.cancel(sorted(jobs))
    except slurm.SlurmError:
        return "some of it may have been submitted: the same command again, when Slurm answers, completes it"
    return "nothing was submitted"


@contextlib.contextmanager
def submission_lock(folder: Path) -> Iterator[int]:
    """Hold the folder against other launches; yields a descriptor that sbatch is to inherit.

    A client that is killed leaves its sbatch behind: the lock is free when that has ended too, and what
    it sent is in Slurm's queue by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another command submits from {folder}: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
