"""cruijff_kit.slurm against a real Slurm: what it knows of jobs that wait, have started again, or are over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cruijff_kit import slurm as client
from cruijff_kit.slurm_output import Ended, Task
from tests.slurm.private_slurm import PrivateSlurm, wait_until


def job_of(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Submitted to that Slurm, which the client programs of this process mean from now on."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return int(slurm.submit("--output=/dev/null", *words))


def live(job: int) -> list[Task]:
    return sorted((task for task in client.jobs().live if task.job == job), key=lambda task: task.index or 0)


def ended(job: int) -> dict[int | None, Ended]:
    return {index: how for (each, index), how in client.jobs().ended.items() if each == job}


def test_tasks_that_are_cancelled_while_they_wait_with_others_are_forgotten_and_the_rest_is_not(slurm, tmp_path, monkeypatch):
    script = tmp_path / "a b|c" / "my script.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\ntrue\n")
    job = job_of(slurm, monkeypatch, "--hold", "--array=0-7%2", "--comment=two\nlines", script, "one", "two three")
    slurm.run("scancel", f"{job}_3", f"{job}_5")
    (task, *_) = tasks = live(job)
    assert [each.index for each in tasks] == [0, 1, 2, 4, 6, 7]
    assert task == Task(job, 0, "PENDING", "JobHeldUser", "two\nlines", "my script.sh", job, f"{script} one two three")
    slurm.run("scancel", str(job))
    assert ended(job) == dict.fromkeys((0, 1, 2, 4, 6, 7), Ended("CANCELLED", "0:0", reason="JobHeldUser"))
    mine = {(job, index): Ended("CANCELLED", "0:0", by=os.getuid()) for index in (0, 1, 2, 4, 6, 7)}
    wait_until(lambda: client.ended([job]) == mine, 20, f"the accounting knows the same: {client.ended([job])}")


@pytest.mark.parametrize("where", ["slurm", "slurm_without_accounting"])
def test_how_a_job_ended_is_known_at_once_with_its_exit_code(where, request, monkeypatch):
    slurm = request.getfixturevalue(where)
    job = job_of(slurm, monkeypatch, "--array=0-2", "--wrap", "exit $((SLURM_ARRAY_TASK_ID * 7))")
    slurm.wait_for(str(job), "COMPLETED", "FAILED")
    failed = {index: Ended("FAILED", f"{index * 7}:0", reason="NonZeroExitCode") for index in (1, 2)}
    assert ended(job) == {0: Ended("COMPLETED", "0:0", reason="None"), **failed}


def test_a_job_that_was_requeued_lives_and_says_how_often_it_was_started_again(slurm, tmp_path, monkeypatch):
    job = job_of(slurm, monkeypatch, "--wrap", f"echo $$ >> {tmp_path}/starts; exec sleep 60")
    wait_until((tmp_path / "starts").exists, 20, "it runs")
    assert [(task.state, task.restarts, task.command) for task in live(job)] == [("RUNNING", 0, "")]
    client.requeue(str(job))
    seen: list[tuple[str, int]] = []

    def runs_again() -> bool:
        seen.extend((task.state, task.restarts) for task in live(job))
        assert ended(job) == {} and client.ended([job]) == {}
        return seen[-1] == ("RUNNING", 1)

    wait_until(runs_again, 60, "it runs again")
    assert len((tmp_path / "starts").read_text().split()) == 2 and ("PENDING", 1) in seen
    slurm.run("scancel", str(job))


def test_what_is_cancelled_because_its_training_failed_says_so(slurm, monkeypatch):
    first = job_of(slurm, monkeypatch, "--array=0-1", "--wrap", "exit $SLURM_ARRAY_TASK_ID")
    second = job_of(slurm, monkeypatch, "--array=0-1", f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes", "--wrap", "true")
    slurm.wait_for(str(second), "COMPLETED", "CANCELLED")
    assert ended(second) == {0: Ended("COMPLETED", "0:0", reason="None"), 1: Ended("CANCELLED", "0:0", reason="DependencyNeverSatisfied")}
    wait_until(lambda: len(client.ended([second])) == 2, 20, "the accounting knows")
    assert client.ended([second])[second, 1] == Ended("CANCELLED", "0:0", by=None)  # where a user does it, sacct names them
