"""The doctor, and the calls that it and the launcher make, against a real Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cruijff_kit import slurm as calls
from cruijff_kit.doctor import examine
from cruijff_kit.doctor_report import Check
from cruijff_kit.slurm import SlurmError
from cruijff_kit.slurm_output import Ended, Task
from tests.slurm.configuration import Settings
from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.test_doctor import checks, profile
from tests.test_generate import tiny


@pytest.fixture
def here(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> PrivateSlurm:
    """The Slurm with accounting, and the one that this process's own calls mean."""
    return meant(slurm, monkeypatch)


def meant(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> PrivateSlurm:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return slurm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRUIJFF_KIT_CONF", str(tmp_path / "conf"))
    return tiny(tmp_path / "experiment")


@pytest.fixture
def all_nodes_taken(here: PrivateSlurm, tmp_path: Path) -> Iterator[None]:
    job = here.submit("--exclusive", "--nodes=2", f"--output={tmp_path}/log", "--wrap=sleep 600")
    here.wait_for(job, "RUNNING")
    yield
    calls.cancel([job])
    here.wait_for(job, "CANCELLED")


def test_everything_is_well_on_a_cluster_that_is(here, folder):
    found = checks(folder)
    assert {check.state for check in found.values()} <= {"ok", "warning"}, found
    assert found["slurm"].what.startswith("Slurm ") and found["slurm"].what.endswith(" is UP")
    assert found["accounting"].state == "ok"
    assert "to start at" in found["train stage"].what
    assert found["node python"].state == found["node folder"].state == found["node weights"].state == "ok"
    assert found["node GPUs"].what.endswith(": 1 asked for, 1 given")


def test_the_node_is_looked_at_with_the_options_of_the_training(here, folder):
    profile(folder, "train: {partition: short, nodes: 2, gpus_per_node: 2, cpus_per_task: 2, timeout_min: 1}")
    found = [check.what for check in examine(folder, "site", 5, print) if check.name == "node GPUs"]
    assert sorted(found) == ["node0: 2 asked for, 2 given", "node1: 2 asked for, 2 given"]


def test_the_command_exits_with_1_and_says_what_slurm_said(here, folder, cruijff):
    profile(folder, "train: {partition: nope}\neval: {gpus_per_node: 9}")
    done = cruijff("doctor", folder, "--cluster", "site")
    assert done.returncode == 1, done.stderr
    assert (
        "failed   train stage  sbatch: error: invalid partition specified: nope\n"
        "                      allocation failure: Invalid partition name specified\n"
        "                      → asked for: --partition=nope\n"
        "                        the cluster profile says so, and sinfo shows what there is\n"
        "failed   eval stage   sbatch: error: allocation failure: Requested node configuration is not available\n"
        "                      → asked for: --gpus-per-node=9\n"
        "                        the cluster profile says so, and sinfo shows what there is\n"
    ) in done.stdout


def test_a_full_cluster_is_a_warning(all_nodes_taken, folder):
    found = checks(folder, wait_s=1)["node"]
    assert (found.state, found.what.splitlines()[0]) == ("warning", "not checked: no node was free within 1 s")
    assert calls.queue()[0].state == "RUNNING", "the one that takes the nodes; the doctor's is gone"
    assert len(calls.queue()) == 1


def test_without_accounting_the_doctor_says_so(slurm_without_accounting, folder, monkeypatch):
    meant(slurm_without_accounting, monkeypatch)
    assert checks(folder, wait_s=0)["accounting"].state == "warning"
    assert calls.ended([1]) == {}


def test_a_controller_that_is_down_is_one_message_at_once(tmp_path, folder, monkeypatch):
    with PrivateSlurm(tmp_path / "slurm", Settings()) as slurm:
        meant(slurm, monkeypatch)
        slurm.kill_controller()
        found = checks(folder)
        host = slurm.place.slurm_conf.read_text().partition("SlurmctldHost=")[2].partition("(")[0]
        assert found["slurm"] == Check(
            "slurm",
            "failed",
            f"Slurm does not answer: Slurmctld(primary) at {host} is DOWN",
            "try on the cluster's login node; if it is one, ask who runs the cluster",
        )
        with pytest.raises(SlurmError, match=r"^Slurm does not answer \(squeue took more than 1 s\): "):
            calls.call(["squeue"], timeout_s=1)


def test_slurm_missing_is_one_message(here, folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    said = "sbatch was not found: is this a login node of the cluster? Slurm's programs must be on PATH"
    assert checks(folder)["slurm"].what == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--partition=nope"], "srun: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified"),
        (["--gpus-per-node=9"], "srun: error: allocation failure: Requested node configuration is not available"),
        (["--mem=900G"], "srun: error: allocation failure: Requested node configuration is not available"),
        (["--time=99999"], "srun: error: allocation failure: Requested time limit is invalid (missing or exceeds some limit)"),
        (["--gres=foo:1"], "srun: error: Invalid generic resource (gres) specification\nallocation failure: No error"),
    ],
)
def test_a_trial_catches_what_could_never_start(here, options, said):
    with pytest.raises(SlurmError) as caught:
        calls.test_only(options)
    assert str(caught.value) == said


def test_a_trial_starts_nothing(here):
    calls.test_only(["--gpus-per-node=2", "--time=30"])
    assert calls.queue() == []


def test_an_array_is_followed_from_the_queue_to_the_accounting(here, tmp_path):
    """One task ends well, one fails, two run and the last of them is requeued, whose id is the array's own."""
    comment = "a|b\nc"
    program = "case $SLURM_ARRAY_TASK_ID in 0) exit 0;; 3) exit 7;; *) sleep 600;; esac"
    words = (f"--output={tmp_path}/%a", f"--comment={comment}", "--requeue", "--array=0,3,5,9", f"--wrap={program}")
    job = int(here.submit(*words))
    wait_until(lambda: [(task.index, task.state) for task in queued()] == [(5, "RUNNING"), (9, "RUNNING")], 20, "5 and 9 run")
    fifth, ninth = queued()
    assert fifth.comment == ninth.comment == comment
    assert ninth.id == job
    calls.requeue(str(ninth.id))
    wait_until(lambda: calls.state(str(job)) == "PENDING", 20, "task 9 waits again")
    assert calls.state(str(fifth.id)) == calls.state(f"{job}_5") == "RUNNING"
    calls.cancel([f"{job}_0", str(job), "999999"])
    wait_until(lambda: queued() == [], 20, "the queue is empty")
    assert calls.state(f"{job}_5") is None
    assert calls.state("999999") is None
    expected = {(job, 0): Ended("COMPLETED", "0:0"), (job, 3): Ended("FAILED", "7:0"), (job, 5): Ended("CANCELLED", "0:0", by=os.getuid())}
    wait_until(lambda: expected.items() <= calls.ended([job]).items(), 20, "the accounting knows it")


def queued() -> list[Task]:
    return sorted(calls.queue(), key=lambda task: task.index)


# The last are more ranges than fit into the 64 letters that Slurm shows by default.
MANY_RANGES = ",".join(f"{number}-{number + 1}" for number in range(0, 400, 4))


@pytest.mark.parametrize(("indices", "count"), [("0-200:2", 101), ("0-999", 1000), (MANY_RANGES, 200)], ids=["spaced", "full", "ranges"])
def test_every_task_that_waits_is_listed(here, indices, count):
    job = here.submit("--hold", "--output=/dev/null", f"--array={indices}", "--wrap=true")
    tasks = calls.queue()
    calls.cancel([job])
    assert len({task.index for task in tasks}) == len(tasks) == count


def test_a_range_is_read_where_the_accounting_has_one(here):
    first = here.submit("--output=/dev/null", "--wrap=sleep 600")
    many = int(here.submit("--output=/dev/null", f"--dependency=afterok:{first}", "--array=0-8", "--wrap=true"))
    wait_until(lambda: "[0-8]" in here.run("sacct", "--noheader", "-X", f"--jobs={many}", "--format=JobID"), 20, "the accounting has it")
    assert calls.ended([many]) == {}
    calls.cancel([str(many), first])
    wait_until(lambda: len(calls.ended([many])) == 9, 20, "the accounting knows all")
    assert {how.state for how in calls.ended([many]).values()} == {"CANCELLED"}


def test_an_array_beyond_the_cluster_is_refused(here):
    with pytest.raises(SlurmError, match=r"^sbatch: error: allocation failure: Invalid job array specification$"):
        calls.test_script("#!/bin/bash\ntrue\n", ["--array=0-1001"])
    assert calls.limits().max_array_size == 1001
