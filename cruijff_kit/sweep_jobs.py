"""Which jobs of Slurm's are an experiment's, and which stage of which run each is of.

From the experiment's own launches, and from the arrays in scripts/ that a user submitted by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cruijff_kit import slurm
from cruijff_kit.launches import Launch, SentArray, Slot, UnreadableLaunch, job_of, launch_folders
from cruijff_kit.paths import Layout, run_number
from cruijff_kit.slurm_output import Ended, Jobs, Task

SLURM_S = 15.0  # for an answer: status has other witnesses
STAGES = ("train", "eval")


@dataclass(frozen=True)
class Sent:
    """What a task of an array that a launch sent does for one run.

    Args:
        identity: of the run, or `base`.
        sent_s: when, in seconds since the epoch.
        key: what the launch called this work: a line for each run that the task is for.
    """

    run: str
    stage: str
    identity: str
    slot: Slot
    sent_s: float
    key: str
    array: SentArray

    @property
    def is_shared(self) -> bool:
        """Whether the task is for other runs too, one after the other."""
        return "\n" in self.key


@dataclass
class SweepJobs:
    """What Slurm knows of an experiment.

    Args:
        sent: all that launches sent, the latest first.
        own: the tasks of the experiment that wait or run, with run and stage, once for each run; those of scripts/ too.
        ended: how tasks ended, by job and index.
        fault: why Slurm could not be asked, if it could not.
        unreadable: launches of which nobody can tell what they sent.
    """

    sent: list[Sent]
    own: list[tuple[str, str, Task]] = field(default_factory=list)
    ended: dict[tuple[int, int | None], Ended] = field(default_factory=dict)
    fault: str | None = None
    unreadable: list[str] = field(default_factory=list)

    @cached_property
    def runs_of(self) -> dict[str, list[str]]:
        """Which runs each of these tasks is for, by Slurm's name of it."""
        runs: dict[str, list[str]] = {}
        for run, _, task in sorted(self.own, key=lambda each: each[0]):
            runs.setdefault(str(task), []).append(run)
        return runs

    @cached_property
    def live(self) -> dict[tuple[str, str], Task]:
        """Of each run and stage the task that is furthest, or else the latest of those that are for other runs too: they may have done with it."""
        furthest = sorted(self.own, key=lambda each: (0, each[2].job) if self.is_shared(each[2]) else (1, each[2].state != "PENDING"))
        return {(run, stage): task for run, stage, task in furthest}

    def is_shared(self, task: Task) -> bool:
        """Whether a task is for several runs, one after the other."""
        return len(self.runs_of.get(str(task), ())) > 1

    def latest(self) -> dict[tuple[str, str, str], Sent]:
        """By run, stage and identity the task that has the say: one that lives, or else the latest."""
        found: dict[tuple[str, str, str], Sent] = {}
        for each in self.sent:
            key = (each.run, each.stage, each.identity)
            if key not in found or self.is_live(each) and not self.is_live(found[key]):
                found[key] = each
        return found

    def is_live(self, sent: Sent) -> bool:
        task = self.live.get((sent.run, sent.stage))
        return task is not None and (task.job, task.index) == (sent.slot.job, sent.slot.index)

    def ask_how_ended(self, sent: Iterable[Sent]) -> None:
        """Asks the accounting, in one call, how these tasks ended: the controller forgets them soon."""
        unknown = {each.slot.job for each in sent if (each.slot.job, each.slot.index) not in self.ended}
        if unknown and self.fault is None:
            try:
                self.ended = {**slurm.ended(unknown, SLURM_S), **self.ended}
            except slurm.SlurmError as error:
                self.fault = str(error)


def look(layout: Layout) -> SweepJobs:
    """What the launches say, and in one call what squeue says of it."""
    launches, unreadable = _launches(layout.launches)
    jobs, fault = Jobs([], {}), None
    try:
        jobs = slurm.jobs(SLURM_S) if launches or slurm.is_here() else jobs
    except slurm.SlurmError as error:
        fault = str(error) if launches else None
    sent = [each for launch in launches for each in _sent(launch, jobs.live)]
    own = [*_by_hand(layout, jobs.live), *_of_launches(sent, jobs.live)]
    return SweepJobs(sent, own, jobs.ended, fault, unreadable)


def _launches(folder: Path) -> tuple[list[Launch], list[str]]:
    launches, unreadable = [], []
    for each in launch_folders(folder) if folder.is_dir() else ():
        try:
            launch = Launch.load(each)
        except UnreadableLaunch as error:
            unreadable.append(str(error))
        else:
            launches += [launch] if launch else []
    return launches, unreadable


def _sent(launch: Launch, live: list[Task]) -> Iterator[Sent]:
    for array in launch.records:
        array.job = array.job or job_of(array, live)
        for index, key in array.tasks.items() if array.job is not None else ():
            for line in key.splitlines():
                run, identity, *_ = [*line.split(), ""]
                yield Sent(run, array.stage or "", identity if run != "base" else run, array.slot(index), launch.sent_s, key, array)


def _of_launches(sent: list[Sent], live: list[Task]) -> Iterator[tuple[str, str, Task]]:
    places: dict[tuple[int, int | None], list[Sent]] = defaultdict(list)
    for each in sent:
        places[each.slot.job, each.slot.index].append(each)
    for task in live:
        for each in places.get((task.job, task.index), ()):
            if each.array.is_task(task):
                yield each.run, each.stage, task


def _by_hand(layout: Layout, live: list[Task]) -> Iterator[tuple[str, str, Task]]:
    """The tasks of `sbatch scripts/train_sweep.sh`: the index is the run's number; a job without any evaluates all runs."""
    named = (path.stem.removeprefix("train_") for path in layout.configs.glob("train_*.yaml"))
    names = {run_number(f"run_{number}"): f"run_{number}" for number in named if number.isdigit()}
    for stage in STAGES:
        for task in live:
            runs = list(names.values()) if task.index is None and stage == "eval" else [names[task.index]] if task.index in names else []
            if runs and _is_script(task, layout.script(stage)):
                yield from ((run, stage, task) for run in runs)


def _is_script(task: Task, script: Path) -> bool:
    """Whether the task is of this very file, under whatever name; a command's words after the script do not count."""
    try:
        return task.command.startswith(f"{script} ") or Path(task.command).samefile(script)
    except OSError:
        return False
