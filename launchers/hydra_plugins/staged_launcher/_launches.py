"""The launches of a folder on disk: what each sends to Slurm, and what of it is still there.

A launch writes down what it is about to send before it sends it, and each job id as soon as Slurm gives
it. One that was killed anywhere between is completed by the next: it finds the jobs by a token in
their comment, or by the files that they left.
"""

import contextlib
import fcntl
import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from cruijff_kit import atomic

from ._slurm_arrays import Array, Slot

Key = Tuple[Optional[str], str]  # a stage, and what tells its work from any other

NEVER = "DependencyNeverSatisfied"


@dataclass
class Record:
    """One array of a launch as it is on disk; `tasks` holds the key of each index."""

    folder: Path
    stage: Optional[str]
    token: str
    job: Optional[int]
    tasks: Dict[int, str]


class Launch:
    """A launch's folder and its launch.json."""

    def __init__(self, folder: Path, records: List[Record], accepted: bool = False, closed: bool = False) -> None:
        self.folder, self.records, self.accepted, self.closed = folder, records, accepted, closed

    def save(self) -> None:
        """Write launch.json whole."""
        arrays = [
            {"name": r.folder.name, "stage": r.stage, "token": r.token, "job": r.job, "tasks": r.tasks}
            for r in self.records
        ]
        values = {"accepted": self.accepted, "closed": self.closed, "arrays": arrays}
        atomic.write_json(self.folder / "launch.json", values)

    @classmethod
    def load(cls, folder: Path) -> Optional["Launch"]:
        """The launch in a folder; None where it was killed before it had written down anything."""
        try:
            values = json.loads((folder / "launch.json").read_text())
        except FileNotFoundError:
            return None
        records = [
            Record(folder / a["name"], a["stage"], a["token"], a["job"], {int(i): key for i, key in a["tasks"].items()})
            for a in values["arrays"]
        ]
        return cls(folder, records, values["accepted"], values["closed"])


def new_launch(folder: Path) -> Launch:
    """An empty launch in a new folder below `folder`."""
    path = folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{uuid.uuid4().hex[:6]}"
    path.mkdir(parents=True)
    return Launch(path, [])


def record(launch: Launch, array: Array, keys: Mapping[int, str]) -> Record:
    """Add an array that is about to be sent."""
    made = Record(launch.folder / array.name, array.stage.name, uuid.uuid4().hex, None, dict(keys))
    launch.records.append(made)
    return made


def open_launches(folder: Path) -> List[Launch]:
    """The launches of which something may still be in Slurm, the latest first."""
    paths = sorted((path for path in folder.glob("*_*") if path.is_dir()), reverse=True)
    loaded = [launch for launch in map(Launch.load, paths) if launch is not None]
    return [launch for launch in loaded if not launch.closed]


@dataclass
class Found:
    """What earlier launches sent: tasks that Slurm still has, those that succeeded though their launch
    was never finished, and those that wait for ever."""

    live: Dict[Key, Slot]
    done: Dict[Key, Slot]
    stuck: List[Slot]


def find(launches: Sequence[Launch], queue: Sequence[Any]) -> Found:
    """What is left of these launches; `queue` are cruijff_kit.slurm.Tasks."""
    tasks = {(task.job, task.index): task for task in queue}
    found = Found({}, {}, [])
    for launch in launches:
        for array in launch.records:
            array.job = array.job or _job_of(array, queue)
            for index, text in array.tasks.items():
                if array.job is not None:
                    slot = Slot(str(array.folder), array.job, index)
                    _sort_in(found, (array.stage, text), slot, tasks.get((array.job, index)), launch.accepted)
    return found


def _sort_in(found: Found, key: Key, slot: Slot, task: Any, accepted: bool) -> None:
    if task is not None and task.reason == NEVER:
        found.stuck.append(slot)
    elif key in found.live or key in found.done:
        return
    elif task is not None and not (task.state == "COMPLETING" and result_path(slot).exists()):
        found.live[key] = slot
    elif not accepted and succeeded(slot):
        found.done[key] = slot


def _job_of(array: Record, queue: Sequence[Any]) -> Optional[int]:
    """The job of an array that was sent by a client that died before it wrote down the id."""
    listed = [task.job for task in queue if array.token in task.comment]
    named = (re.match(r"(\d+)_\d+_", path.name) for path in array.folder.glob("*_*"))
    return next(iter([*listed, *(int(match[1]) for match in named if match)]), None)


def handle(slot: Slot) -> Any:
    """submitit's job of a slot."""
    import submitit

    return submitit.SlurmJob(folder=slot.folder, job_id=f"{slot.job}_{slot.index}")


def result_path(slot: Slot) -> Path:
    """Where a task leaves its result when it ends, well or not (submitit 1.5, JobPaths)."""
    return Path(slot.folder) / f"{slot.job}_{slot.index}_0_result.pkl"


def succeeded(slot: Slot) -> bool:
    """Whether the task left a result, and no error."""
    from ._outcomes import outcome

    return result_path(slot).exists() and outcome(handle(slot))[1] is None


def close_old(launches: Sequence[Launch], queue: Sequence[Any]) -> None:
    """Mark what the launch that was just accepted has taken over, and what Slurm has no task of any more."""
    there = {task.job for task in queue}
    for launch in launches:
        closed = not any(array.job in there for array in launch.records)
        if not launch.accepted or closed:
            launch.accepted, launch.closed = True, closed
            launch.save()


@contextlib.contextmanager
def submission_lock(folder: Path) -> Iterator[int]:
    """Hold the folder against other launches; yields a descriptor that sbatch is to inherit.

    A client that is killed leaves its sbatch behind: the lock is free when that has ended too, and what
    it sent is in Slurm's queue by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
