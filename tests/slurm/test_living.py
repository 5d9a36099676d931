"""`status`, `cancel` and what `run --multirun` finds missing, on real Slurms with real trainings that fail in every way."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.configuration import Settings
from tests.slurm.conftest import started
from tests.slurm.disturbed_sweep import Fates, batch_sweep, send, trained
from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.test_sweep import SLURM, Sweep
from tests.tiny_experiment import specification

FATES = Fates(out_of_time=0, cancelled_running=1, node_lost=4, cancelled_waiting=6, out_of_memory=7)
WELL = ["run_002", "run_003", "run_005"]
BADLY = [0, 1, 4, 6, 7]
ALL_FAIL = Fates(out_of_time=0, cancelled_running=1, node_lost=2, cancelled_waiting=3, out_of_memory=4)
NO_GPU = [f"cluster.{stage}.gpus_per_node=0" for stage in ("train", "eval")]
WAITS = [f"cluster.{stage}.partition=gpu" for stage in ("train", "eval")]  # which is closed
BREAKABLE = {"slurmd_timeout_s": 5, "message_timeout_s": 3, "over_memory_kill": True, "min_job_age_s": 3600}

TIME = ("failed", "time", "time limit: Slurm ended it")
NODE = ("failed", "node", "node failure")
CANCELLED = ("cancelled", "cancelled", "cancelled")
NEVER_BEGAN = ("cancelled", "cancelled", "Slurm has it no more, and it never began: cancelled in the queue")
BY_ME = ("cancelled", "cancelled", f"cancelled by user {os.getuid()}")
MEMORY = ("failed", "memory", f"exceeded memory limit of {2**30}")
DONE = ("done", "", "")
# of ALL_FAIL, where neither controller nor accounting can be asked
OF_LOGS = [
    ("failed", "time", "CANCELLED DUE TO TIME LIMIT"),
    ("cancelled", "cancelled", "CANCELLED"),
    ("running", "", "as it last said: Slurm cannot be asked"),
    ("queued", "", "as it was sent: Slurm cannot be asked"),
    MEMORY,
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """With accounting; its partition `gpu` is closed, so that what is sent there waits."""
    for slurm in started(Settings(accounting=True, **BREAKABLE), tmp_path_factory):
        slurm.run("scontrol", "update", "PartitionName=gpu", "State=DOWN")
        yield slurm


@pytest.fixture(scope="module")
def bare_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """Without accounting."""
    yield from started(Settings(**BREAKABLE), tmp_path_factory)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, bare_slurm: PrivateSlurm) -> Sweep:
    """Five trainings without accounting, each of which fails in its way; one will when its time is over."""
    sweep = batch_sweep(tmp_path_factory.mktemp("bare") / "a sweep", tiny_model, bare_slurm, ALL_FAIL, points=5)
    send(sweep, ALL_FAIL, "stages=[train]")
    return sweep


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, slurm: PrivateSlurm, bare: Sweep) -> Sweep:
    """Eight points with accounting, of which three go well. Begun with the other, so that the time limits pass at once."""
    sweep = batch_sweep(tmp_path_factory.mktemp("failing") / "a sweep", tiny_model, slurm, FATES, points=8)
    send(sweep, FATES)
    return sweep


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, slurm: PrivateSlurm) -> Sweep:
    """Two points that wait in the queue, sent by two commands at the same moment."""
    sweep = Sweep(tmp_path_factory.mktemp("waiting") / "a sweep", slurm, specification(tiny_model))
    command = [Path(sys.executable).with_name("cruijff-kit"), "run", sweep.folder, "--multirun", SLURM, *WAITS]
    both = [
        subprocess.Popen(command, env={**os.environ, **slurm.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    return sweep


def stages(sweep: Sweep, **environment: str) -> dict[str, dict[str, dict]]:
    """What `status --json` says of each stage, by run."""
    done = sweep.command("status", sweep.folder, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return {run["run"]: run["stages"] for run in json.loads(done.stdout)["runs"]}


def said(stage: dict) -> tuple[str, str, str]:
    """State, kind and why; without the times and figures of what Slurm writes into logs."""
    why = re.sub(r"(?:JOB|STEP) \S+ ON node\d CANCELLED AT \S+", "CANCELLED", stage["why"])
    why = re.sub(r"StepId=\S+ exceeded memory limit \(\d+ > (\d+)\), being killed", r"exceeded memory limit of \1", why)
    return stage["state"], stage["kind"], why


def sent_for(launch: dict, stage: str) -> list[str]:
    """The runs of which a launch sent the stage."""
    return sorted(key.split()[0] for array in launch["arrays"] if array["stage"] == stage for key in array["tasks"].values())


def arrays(sweep: Sweep) -> tuple[int, int]:
    """The jobs of the latest launch that trains and evaluates."""
    jobs = {array["stage"]: array["job"] for array in sweep.launches[-1]["arrays"]}
    return jobs["train"], jobs["eval"]


def test_two_commands_at_the_same_moment_send_each_training_once(waiting: Sweep, failing: Sweep) -> None:
    tasks = Counter((array["stage"], key) for launch in waiting.launches for array in launch["arrays"] for key in array["tasks"].values())
    assert set(tasks.values()) == {1} and len(tasks) == 4
    assert {run: (at["train"]["state"], at["eval"]["state"]) for run, at in stages(waiting).items()} == dict.fromkeys(
        ["run_000", "run_001"], ("queued", "waiting")
    )


def test_cancel_ends_what_it_is_told_to_and_nothing_of_a_copy_or_of_another(
    waiting: Sweep, tmp_path: Path, tiny_model: Path, slurm: PrivateSlurm
) -> None:
    sweep = Sweep(tmp_path / "another", slurm, specification(tiny_model))
    assert sweep.run(*WAITS).returncode == 0
    train, evaluate = arrays(sweep)
    shutil.copytree(sweep.folder, tmp_path / "a copy", symlinks=True)
    nothing = sweep.command("cancel", tmp_path / "a copy")
    assert (nothing.returncode, nothing.stdout) == (0, "nothing of this experiment is queued or running\n"), nothing.stderr

    one = sweep.command("cancel", sweep.folder, "run_001")
    assert one.stdout.splitlines() == [
        f"run_001 train: job {train}_1 cancelled, it was pending", f"run_001 eval: job {evaluate}_1 cancelled, it was pending"
    ]  # fmt: skip
    assert [slurm.states(str(job))["0"] for job in (train, evaluate)] == ["PENDING"] * 2
    found = stages(sweep)
    assert said(found["run_001"]["train"]) == ("cancelled", "cancelled", "cancelled before it ran")
    assert (found["run_000"]["train"]["state"], found["run_000"]["eval"]["state"]) == ("queued", "waiting")

    rest = sweep.command("cancel", sweep.folder)
    assert rest.stdout.splitlines() == [
        f"run_000 train: job {train}_0 cancelled, it was pending", f"run_000 eval: job {evaluate}_0 cancelled, it was pending"
    ]  # fmt: skip
    assert [slurm.states(str(job)) for job in arrays(waiting)] == [{"0": "PENDING", "1": "PENDING"}] * 2


def test_cancel_clears_the_evaluations_that_wait_for_ever(waiting: Sweep, slurm: PrivateSlurm) -> None:
    assert waiting.command("cancel", waiting.folder).returncode == 0
    sent = waiting.run("hydra.launcher.kill_on_invalid_dep=false", "cluster.train.setup=['exit 7']", *NO_GPU)
    assert sent.returncode == 0, sent.stderr
    train, evaluate = arrays(waiting)
    slurm.wait_for(str(train), "FAILED")
    stuck = lambda: slurm.run("squeue", "--noheader", "--array", f"--jobs={evaluate}", "--format=%r").split()  # noqa: E731
    wait_until(lambda: stuck() == ["DependencyNeverSatisfied"] * 2, 30, "the evaluations wait for ever")
    assert said(stages(waiting)["run_001"]["eval"]) == ("waiting", "stuck", "its training has failed: Slurm keeps it waiting for ever")
    cleared = waiting.command("cancel", waiting.folder)
    assert cleared.stdout.splitlines() == [f"run_00{n} eval: job {evaluate}_{n} cleared: it waited for ever" for n in range(2)]
    assert slurm.run("squeue", "--noheader", f"--jobs={evaluate}") == ""


def test_what_was_submitted_by_hand_is_seen_and_cancelled(waiting: Sweep, slurm: PrivateSlurm, tmp_path: Path) -> None:
    """Those cancelled before are no more than what it says of them; a copy of the folder has none of these jobs."""
    job = slurm.submit("--array=0-1%1", f"--output={tmp_path}/%a.log", waiting.folder / "scripts" / "train_sweep.sh")
    wait_until(lambda: slurm.states(job).get("0") == "RUNNING", 60, "the first runs")
    found = stages(waiting)
    assert [(found[run]["train"]["state"], found[run]["train"]["job"]) for run in found] == [("running", f"{job}_0"), ("queued", f"{job}_1")]
    shutil.copytree(waiting.folder, tmp_path / "a copy", symlinks=True)
    assert waiting.command("cancel", tmp_path / "a copy").stdout == "nothing of this experiment is queued or running\n"
    done = waiting.command("cancel", waiting.folder)
    assert done.stdout.splitlines() == [f"run_000 train: job {job}_0 cancelled, it was running", f"run_001 train: job {job}_1 cancelled, it was pending"]
    wait_until(lambda: slurm.run("squeue", "--noheader", f"--jobs={job}") == "", 30, "they are over")
    assert {at["train"]["state"] for at in stages(waiting).values()} <= {"waiting", "cancelled", "failed"}


def test_each_failure_is_named_and_one_command_completes_exactly_those(failing: Sweep) -> None:
    failing.wait()
    assert [said(at["train"]) for at in stages(failing).values()] == [TIME, CANCELLED, DONE, DONE, NODE, DONE, NEVER_BEGAN, MEMORY]
    failing.slurm.forget()
    found = stages(failing)
    assert [said(at["train"]) for at in found.values()] == [TIME, BY_ME, DONE, DONE, NODE, DONE, NEVER_BEGAN, MEMORY]
    waits = ("waiting", "", "its training has not ended well")
    assert [said(at["eval"]) for at in found.values()] == [waits, waits, DONE, DONE, waits, DONE, waits, waits]
    (job, _), bad = arrays(failing), [f"run_00{number}" for number in BADLY]
    assert [found[run]["train"]["job"] for run in bad] == [f"{job}_{number}" for number in BADLY]

    before = trained(failing, WELL)
    more = [*NO_GPU, "cluster.train.mem_gb=8", "cluster.train.timeout_min=10"]
    shown = failing.run(*more, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: " ".join(line.split()[2:]) for line in shown.stdout.splitlines() if line.strip().startswith("run_")}
    assert rows == {
        **dict.fromkeys(WELL, "nothing done done"),
        "run_000": "train, eval failed: time limit: Slurm ended it capitalize: not evaluated",
        "run_001": f"train, eval cancelled: {BY_ME[2]} capitalize: not evaluated",
        "run_004": "train, eval failed: node failure capitalize: not evaluated",
        "run_006": f"train, eval cancelled: {NEVER_BEGAN[2]} capitalize: not evaluated",
        "run_007": f"train, eval failed: {found['run_007']['train']['why']} capitalize: not evaluated",
    }
    assert len(failing.launches) == 1

    sent = failing.run(*more)
    assert sent.returncode == 0, sent.stderr
    assert len(failing.launches) == 2
    assert [sent_for(failing.launches[1], stage) for stage in ("train", "eval")] == [bad, bad]
    failing.wait()
    found = stages(failing)
    assert {said(stage) for at in found.values() for stage in at.values()} == {DONE}
    assert [at["train"]["attempt"] for at in found.values()] == [2, 2, 1, 1, 2, 1, 1, 2]  # the seventh had never begun
    assert [at["eval"]["attempt"] for at in found.values()] == [1] * 8
    assert trained(failing, WELL) == before


def test_status_asks_squeue_once_and_sacct_at_most_once(failing: Sweep, waiting: Sweep, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for name in ("squeue", "sacct", "scontrol", "sinfo"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} >>{shlex.quote(str(calls))}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    for sweep, expected in ((failing, ["squeue"]), (waiting, ["squeue", "sacct"])):  # of what is done, nobody asks how it ended
        calls.unlink(missing_ok=True)
        stages(sweep, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        assert calls.read_text().split() == expected


def test_without_accounting_each_failure_is_named_as_long_as_somebody_knows(bare: Sweep, bare_slurm: PrivateSlurm, tmp_path: Path) -> None:
    bare.wait()
    assert [said(at["train"]) for at in stages(bare).values()] == [TIME, CANCELLED, NODE, NEVER_BEGAN, MEMORY]
    bare_slurm.forget()
    (job,) = (array["job"] for array in bare.launches[0]["arrays"])
    lost = ("lost", "", f"Slurm has job {job}_2 no more, and it left no result")
    assert [said(at["train"]) for at in stages(bare).values()] == [*OF_LOGS[:2], lost, NEVER_BEGAN, MEMORY]

    asked = "Slurm could not be asked, so this is from records and files alone: "
    (tmp_path / "bin").mkdir()
    nowhere = bare.command("status", bare.folder, "--json", PATH=str(tmp_path / "bin"))
    bare_slurm.kill_controller()
    down = bare.command("status", bare.folder, "--json")
    for done, why in ((nowhere, "squeue was not found"), (down, "Slurm does not answer (squeue")):
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)
        (note,) = values["notes"]
        assert note.startswith(f"{asked}{why}")
        assert [said(run["stages"]["train"]) for run in values["runs"]] == OF_LOGS
