"""The launches of a folder on disk: what each sends to Slurm, and what of it is still there.

A launch writes down what it is about to send before it sends it, and each job id as soon as Slurm gives
it. One that was killed anywhere between is completed by the next: it finds the jobs by a token in
their comment, or by the files that they left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from cruijff_kit import atomic, slurm
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.slurm_output import Task

FILE = "launch.json"
SCRIPT = "submission.sh"
NEVER = "DependencyNeverSatisfied"

Key = tuple[str | None, str]  # a stage, and what tells its work from any other


@dataclass(frozen=True)
class Slot:
    """A task of an array that Slurm has accepted; srun starts so many `processes` of it."""

    folder: str
    job: int
    index: int
    processes: int = 1

    def __str__(self) -> str:
        """Slurm's name of it."""
        return f"{self.job}_{self.index}"

    @property
    def log(self) -> Path:
        """What its first process prints, and the script around all of them."""
        return Path(self.folder) / f"{self}_0_log.out"

    @property
    def result_files(self) -> list[Path]:
        """Where each process leaves its result when it ends (submitit 1.5, JobPaths)."""
        return [Path(self.folder) / f"{self}_{number}_result.pkl" for number in range(self.processes)]

    @property
    def has_ended(self) -> bool:
        """Whether every process has left a result, good or bad."""
        return all(path.exists() for path in self.result_files)


class UnreadableLaunch(CruijffKitError):
    """A launch's own file was cut off, or is of another version."""


@dataclass
class SentArray:
    """One array of a launch as it is on disk; `tasks` holds the key of each index."""

    folder: Path
    stage: str | None
    token: str
    job: int | None
    processes: int
    tasks: dict[int, str]

    def slot(self, index: int) -> Slot:
        """The task at an index, once Slurm has accepted the array."""
        return Slot(str(self.folder), self.job, index, self.processes)

    def is_task(self, task: Task) -> bool:
        """Whether a task of Slurm's is of this very array: ids come again, and a copied folder names the jobs of its original."""
        return self.token in task.comment and not _is_of_another_folder(Path(task.command), self.folder / SCRIPT)


def _is_of_another_folder(command: Path, script: Path) -> bool:
    """A folder that was moved has taken its script along; that of a copied one is still there, and another file."""
    try:
        return not command.samefile(script)
    except OSError:
        return False


class Launch:
    """A launch's folder and its launch.json.

    It is `delivered` when the command that made it has done what it was asked for: to have Slurm
    accept it and say so, or to wait for its results. It is `closed` when Slurm has nothing more of it
    besides: who asks for the same again then wants it done again. It was made at `sent_s`, in seconds since the epoch.
    """

    def __init__(self, folder: Path, records: list[SentArray], sent_s: float, delivered: bool = False, closed: bool = False) -> None:
        self.folder, self.records, self.sent_s, self.delivered, self.closed = folder, records, sent_s, delivered, closed

    def save(self) -> None:
        """Write launch.json whole."""
        arrays = [
            {"name": r.folder.name, "stage": r.stage, "token": r.token, "job": r.job, "processes": r.processes, "tasks": r.tasks}
            for r in self.records
        ]
        values = {"sent_s": self.sent_s, "delivered": self.delivered, "closed": self.closed, "arrays": arrays}
        atomic.write_json(self.folder / FILE, values)

    def add(self, name: str, stage: str | None, keys: Mapping[int, str], processes: int) -> SentArray:
        """Note an array that is about to be sent; `keys` are those of its indices."""
        made = SentArray(self.folder / name, stage, uuid.uuid4().hex, None, processes, dict(keys))
        self.records.append(made)
        return made

    @classmethod
    def load(cls, folder: Path) -> Launch | None:
        """The launch in a folder; None where it was killed before it had written down anything.

        Raises:
            UnreadableLaunch: what is there cannot be read.
        """
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            records = [
                SentArray(
                    folder / a["name"], a["stage"], a["token"], a["job"], a["processes"],
                    {int(index): key for index, key in a["tasks"].items()},
                )
                for a in values["arrays"]
            ]  # fmt: skip
            return cls(folder, records, values.get("sent_s", 0.0), values["delivered"], values["closed"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadableLaunch(
                f"{folder / FILE} cannot be read ({type(error).__name__}: {error}), and says which jobs were sent\n"
                "  once none of them is in Slurm's queue, move that folder away"
            ) from None


def new_launch(folder: Path) -> Launch:
    """An empty launch in a new folder below `folder`, whose name sorts after those of earlier ones."""
    now = time.time_ns()
    moment = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now // 10**9))
    path = folder / f"{moment}.{now % 10**9:09}_{uuid.uuid4().hex[:6]}"
    path.mkdir(parents=True)
    return Launch(path, [], now / 10**9)


def launch_folders(folder: Path) -> list[Path]:
    """The folders of all launches, the latest first."""
    return sorted((path for path in folder.glob("*_*") if path.is_dir()), reverse=True)


def open_launches(folder: Path) -> list[Launch]:
    """The launches that are not closed, the latest first."""
    loaded = [launch for launch in map(Launch.load, launch_folders(folder)) if launch is not None]
    return [launch for launch in loaded if not launch.closed]


@dataclass
class Found:
    """What earlier launches sent: tasks that Slurm still has; those that it has no more, well ended or not,
    of launches that are not over; and those that wait for ever."""

    live: dict[Key, Slot] = field(default_factory=dict)
    over: dict[Key, Slot] = field(default_factory=dict)
    stuck: list[Slot] = field(default_factory=list)


def find(launches: Sequence[Launch], queue: Sequence[Task]) -> Found:
    """What is left of these launches, the latest first; `queue` are cruijff_kit.slurm.Tasks."""
    tasks = {(task.job, task.index): task for task in queue}
    found = Found()
    for launch in launches:
        for array in launch.records:
            array.job = array.job or job_of(array, queue)
        for array in launch.records:
            for index, text in array.tasks.items() if array.job is not None else ():
                task = tasks.get((array.job, index))
                _sort_in(found, (array.stage, text), array.slot(index), task if task and array.is_task(task) else None)
    return found


def _sort_in(found: Found, key: Key, slot: Slot, task: Task | None) -> None:
    """A later launch has the say over an earlier one, except where that one's task lives."""
    if task is not None and task.reason == NEVER:
        found.stuck.append(slot)
    elif task is not None and not (task.state == "COMPLETING" and slot.has_ended):
        found.live.setdefault(key, slot)
        return
    found.over.setdefault(key, slot)


def job_of(array: SentArray, queue: Sequence[Task]) -> int | None:
    """The job of an array that was sent by a client that died before it wrote down the id."""
    listed = [task.job for task in queue if array.is_task(task)]
    named = (re.match(r"(\d+)_\d+_", path.name) for path in array.folder.glob("*_*"))
    return next(iter([*listed, *(int(match[1]) for match in named if match)]), None)


def _in_queue(launch: Launch, jobs: Set[int]) -> bool:
    return any(array.job in jobs for array in launch.records)


def _own(launches: Sequence[Launch], queue: Sequence[Task]) -> set[int]:
    """The jobs in the queue that these launches sent."""
    arrays = {array.job: array for launch in launches for array in launch.records}
    return {task.job for task in queue if task.job in arrays and arrays[task.job].is_task(task)}


def close_old(launches: Sequence[Launch], queue: Sequence[Task]) -> list[Launch]:
    """Close the launches that were delivered and of which Slurm has nothing more; returns the others."""
    there = _own(launches, queue)
    others = []
    for launch in launches:
        if launch.delivered and not _in_queue(launch, there):
            launch.closed = True
            launch.save()
        else:
            others.append(launch)
    return others


def deliver(launches: Sequence[Launch], keys: Set[Key]) -> None:
    """Note that a command has done what was asked for with all of these stages, and so with each launch that has no other."""
    for launch in launches:
        of_launch = {(array.stage, text) for array in launch.records for text in array.tasks.values()}
        if not launch.delivered and of_launch <= keys:
            launch.delivered = True
            launch.save()


def reopen(launches: Sequence[Launch], jobs: Set[int]) -> None:
    """Note of earlier launches that the results of these jobs are waited for now: until then they are not delivered."""
    for launch in launches:
        if launch.delivered and _in_queue(launch, jobs):
            launch.delivered = False
            launch.save()


def take_back(launch: Launch) -> str:
    """Cancel what Slurm has accepted of a launch, also where its answer did not come; says what came of that."""
    try:
        queue = slurm.queue()
        jobs = {str(array.job or job_of(array, queue) or "") for array in launch.records} - {""}
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
