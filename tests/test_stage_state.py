"""How far a stage is, from whatever tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cruijff_kit.launches import Slot
from cruijff_kit.records import Record
from cruijff_kit.slurm_output import Ended, Task
from cruijff_kit.stage_state import StageState, Witnesses, judge

SLOT = Slot("/nowhere", 12, 3)
TOKEN = "token"


def record(state: str, job: str | None = "12_3", **values: object) -> Record:
    known = {"attempt": 1, "started_s": 1000.0, "host": "node1", "pid": 7, "ended_s": None if state == "running" else 1060.0}
    return Record("run_003", "train", "abc", state, job=job, **{**known, **values})


def task(state: str, reason: str = "None") -> Task:
    return Task(12, 3, state, reason, TOKEN, "sweep-train")


def seen(**values: object) -> Witnesses:
    return Witnesses(**{"slot": SLOT, "sent_s": 900.0, **values})


def told(found: StageState) -> tuple[str, str, str]:
    return found.state, found.kind, found.why


# what is seen, whether its results are whole: state, kind, why
CASES = {
    "nothing was done": (Witnesses(), False, ("waiting", "", "")),
    "trained by hand": (Witnesses(), True, ("done", "", "")),
    "it waits for a node": (seen(task=task("PENDING", "Resources")), False, ("queued", "", "")),
    "it waits for something odd": (seen(task=task("PENDING", "QOSMaxJobsPerUserLimit")), False, ("queued", "", "QOSMaxJobsPerUserLimit")),
    "it waits for its training": (seen(task=task("PENDING", "Dependency")), False, ("waiting", "", "for its training")),
    "it waits for ever": (
        seen(task=task("PENDING", "DependencyNeverSatisfied")), False,
        ("waiting", "stuck", "its training has failed: Slurm keeps it waiting for ever"),
    ),
    "it runs": (seen(task=task("RUNNING"), record=record("running")), False, ("running", "", "")),
    "it was preempted, and waits again": (seen(task=task("PENDING", "BeginTime"), record=record("interrupted")), False, ("queued", "", "BeginTime")),
    "it is done, and Slurm cleans up": (seen(task=task("COMPLETING"), record=record("done")), True, ("done", "", "")),
    "it runs here": (Witnesses(held=True, record=record("running", job=None)), False, ("running", "", "")),
    "it is evaluated by hand": (Witnesses(held=True), False, ("running", "", "")),
    "it failed": (seen(record=record("failed", reason="tune exited with 1: ValueError: no luck")), False, ("failed", "error", "tune exited with 1: ValueError: no luck")),
    "it failed, and Slurm says so": (
        seen(record=record("failed", reason="tune exited with 1: ValueError: no luck"), ended=Ended("FAILED", "1:0")), False,
        ("failed", "error", "tune exited with 1: ValueError: no luck"),
    ),
    "out of memory on the GPU": (
        seen(record=record("failed", kind="memory", reason="tune exited with 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")), False,
        ("failed", "memory", "tune exited with 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ),
    "Slurm's memory limit": (seen(record=record("running"), ended=Ended("OUT_OF_MEMORY", "0:125")), False, ("failed", "memory", "out of memory: Slurm ended it")),
    "its time was over": (seen(record=record("interrupted"), ended=Ended("TIMEOUT", "0:0")), False, ("failed", "time", "time limit: Slurm ended it")),
    "its node was lost": (seen(record=record("running"), ended=Ended("NODE_FAIL", "0:0")), False, ("failed", "node", "node failure")),
    "scancel": (seen(record=record("interrupted"), ended=Ended("CANCELLED", "0:0", by=1000)), False, ("cancelled", "cancelled", "cancelled by user 1000")),
    "cancel, while it waited": (
        seen(record=record("cancelled", reason="cancelled before it ran")), False, ("cancelled", "cancelled", "cancelled before it ran"),
    ),
    "scancel, while it waited with others": (
        seen(), False, ("cancelled", "cancelled", "Slurm has it no more, and it never began: cancelled in the queue"),
    ),
    "told to end, and nobody knows by whom": (
        seen(record=record("interrupted", reason="Slurm told it to end (SIGTERM)")), False, ("cancelled", "cancelled", "Slurm told it to end (SIGTERM)"),
    ),
    "it vanished": (seen(record=record("running")), False, ("lost", "", "Slurm has job 12_3 no more, and it left no result")),
    "its process vanished": (
        Witnesses(record=record("running", job=None)), False, ("lost", "", "its process ended without a word: killed, or the machine was restarted"),
    ),
    "it runs on another machine": (
        Witnesses(record=record("running", job=None), here=False), False, ("running", "", "as it last said: node1 cannot be seen from here"),
    ),
    "it could not be launched": (
        seen(ended=Ended("FAILED", "0:53", reason="JobLaunchFailure")), False,
        ("failed", "error", "Slurm says FAILED (exit code 0:53, JobLaunchFailure), and it left no result"),
    ),
    "it completed, and left nothing": (
        seen(record=record("running"), ended=Ended("COMPLETED", "0:0")), False, ("failed", "error", "Slurm says COMPLETED (exit code 0:0), and it left no result"),
    ),
    "Slurm is down, and it ran": (seen(record=record("running"), slurm=False), False, ("running", "", "as it last said: Slurm cannot be asked")),
    "Slurm is down, and it waited": (seen(slurm=False), False, ("queued", "", "as it was sent: Slurm cannot be asked")),
    "Slurm is down, and it had failed": (
        seen(record=record("failed", reason="no luck"), slurm=False), False, ("failed", "error", "no luck"),
    ),
    "a later job than that of the record is gone": (
        seen(record=record("failed", job="11_3", reason="no luck", started_s=800.0)), False,
        ("cancelled", "cancelled", "Slurm has it no more, and it never began: cancelled in the queue"),
    ),
    "tried here after Slurm": (seen(record=record("failed", job=None, reason="no luck")), False, ("failed", "error", "no luck")),
    "finished all the same": (seen(record=record("running"), ended=Ended("NODE_FAIL", "0:0")), True, ("done", "", "")),
    "its results were changed since": (Witnesses(record=record("done")), False, ("waiting", "", "its weights changed")),
}  # fmt: skip


@pytest.mark.parametrize(("witnesses", "finished", "expected"), CASES.values(), ids=CASES)
def test_the_state_is_what_the_witnesses_say(witnesses: Witnesses, finished: bool, expected: tuple[str, str, str]) -> None:
    assert told(judge(witnesses, lambda: finished, lambda: "its weights changed")) == expected


LOGS = {
    "slurmstepd-node0: error: *** JOB 3 ON node0 CANCELLED AT 2026-11-24T18:25:47 DUE TO TIME LIMIT ***": ("failed", "time"),
    "slurmstepd-node1: error: *** JOB 5 ON node1 CANCELLED AT 2026-11-24T18:25:47 ***": ("cancelled", "cancelled"),
    "slurmstepd-node0: error: StepId=2.0 exceeded memory limit (1096024064 > 1073741824), being killed": ("failed", "memory"),
    "slurmstepd: error: *** STEP 5.0 ON node0 CANCELLED AT 2026-11-24T12:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***": ("failed", "node"),
}


@pytest.mark.parametrize(("line", "expected"), LOGS.items())
def test_where_slurm_has_forgotten_the_log_tells(tmp_path: Path, line: str, expected: tuple[str, str]) -> None:
    (tmp_path / "log.out").write_text(f"1|3|Loss: 2.5:  60%|███ | 3/5 [00:01<00:00]{line}\n")
    found = judge(Witnesses(record=record("running", log=str(tmp_path / "log.out")), slot=SLOT), lambda: False)
    assert (found.state, found.kind) == expected


def test_it_says_which_job_which_attempt_and_how_long() -> None:
    found = judge(seen(record=record("failed", reason="no luck", attempt=2, log="/x/log.out")), lambda: False)
    assert (found.job, found.attempt, found.seconds, found.log) == ("12_3", 2, 60.0, Path("/x/log.out"))
    queued = judge(seen(task=task("PENDING"), record=record("interrupted")), lambda: False)
    assert (queued.job, queued.seconds) == ("12_3", None)


def test_what_is_due_although_it_was_done_has_no_job_until_it_is_sent() -> None:
    """Else it would be left alone for the job that did it before."""
    found = judge(seen(record=record("done")), lambda: False, lambda: "another task: not evaluated")
    assert (*told(found), found.job) == ("waiting", "", "another task: not evaluated", None)
    queued = judge(seen(task=task("PENDING", "Dependency")), lambda: False)
    assert (queued.state, queued.job) == ("waiting", "12_3")
