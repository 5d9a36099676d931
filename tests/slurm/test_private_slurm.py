"""The Slurm that the other tests stand on: that it is a real one, that it fails when told to, and that it leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.configuration import Settings
from tests.slurm.daemons import SlurmMissing
from cruijff_kit.failure import telling
from tests.slurm.private_slurm import PrivateSlurm, wait_until

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """One whose daemons are killed, beside the shared ones."""
    with PrivateSlurm(tmp_path_factory.mktemp("own"), Settings(slurmd_timeout_s=5, message_timeout_s=3, over_memory_kill=True)) as slurm:
        yield slurm


def processes_of(folder: Path) -> dict[int, str]:
    """Every process whose command line or environment names the folder, and its name."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in known:
                found[int(process.name)] = (process / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is another user's
    return found


def node_of(slurm: PrivateSlurm, job: str) -> str:
    return slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()


def test_two_nodes_offer_four_gpus_in_three_partitions(slurm: PrivateSlurm) -> None:
    assert slurm.run("sinfo", "--noheader", "--format=%P %D %G %l").splitlines() == [
        "main* 2 gpu:2 1:00:00",
        "gpu 2 gpu:2 1:00:00",
        "short 2 gpu:2 1:00",
    ]


def test_four_elements_of_an_array_hold_a_gpu_each_at_the_same_time(slurm: PrivateSlurm, tmp_path: Path) -> None:
    script = f'touch {tmp_path}/$SLURM_ARRAY_TASK_ID; while [ "$(ls {tmp_path} | grep -c "^[0-3]$")" -lt 4 ]; do sleep 0.05; done'
    script += '; echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"'
    array = slurm.submit("--array=0-3", "--gres=gpu:1", f"--output={tmp_path}/log_%a", "--wrap", script)
    slurm.wait_for(array, "COMPLETED")
    held = sorted((tmp_path / f"log_{index}").read_text() for index in range(4))
    assert held == ["node0 0\n", "node0 1\n", "node1 0\n", "node1 1\n"]


def test_an_element_starts_after_its_twin_and_is_dropped_when_the_twin_fails(slurm: PrivateSlurm, tmp_path: Path) -> None:
    first = slurm.submit("--array=0-1", "--output=/dev/null", "--wrap", "exit $((7 * SLURM_ARRAY_TASK_ID))")
    dependent = ["--kill-on-invalid-dep=yes", f"--dependency=aftercorr:{first}"]
    second = slurm.submit("--array=0-1", *dependent, f"--output={tmp_path}/%a", "--wrap", "echo started")
    slurm.wait_for(second, "COMPLETED", "CANCELLED")
    assert slurm.states(second) == {"0": "COMPLETED", "1": "CANCELLED"}
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_accounting_knows_how_a_job_ended(slurm: PrivateSlurm) -> None:
    job = slurm.submit("--output=/dev/null", "--wrap", "exit 7")
    slurm.wait_for(job, "FAILED")

    def accounted() -> str:
        return slurm.run("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode").strip()

    wait_until(lambda: accounted() == "FAILED|7:0", 10, f"sacct says FAILED|7:0 of job {job}")


def test_without_accounting_sacct_is_refused(slurm_without_accounting: PrivateSlurm) -> None:
    job = slurm_without_accounting.submit("--output=/dev/null", "--wrap", "exit 7")
    slurm_without_accounting.wait_for(job, "FAILED")
    with pytest.raises(AssertionError, match="Slurm accounting storage is disabled"):
        slurm_without_accounting.run("sacct", f"--jobs={job}")


def test_a_time_over_the_partitions_limit_is_refused(slurm: PrivateSlurm) -> None:
    with pytest.raises(AssertionError, match="Requested time limit is invalid"):
        slurm.submit("--partition=short", "--time=2", "--wrap", "true")


def test_calls_of_sbatch_are_counted_with_their_arguments(slurm: PrivateSlurm, tmp_path: Path) -> None:
    counted = slurm.counting(tmp_path / "counted")
    assert counted.submissions == []
    calls = [["--parsable", "--output=/dev/null", "--wrap", "echo 'a b'\ntrue"], ["--wrap", "", "--partition=none"]]
    ends = [subprocess.run(["sbatch", *call], env={**os.environ, **counted.environment}, capture_output=True) for call in calls]
    assert counted.submissions == calls
    assert [end.returncode for end in ends] == [0, 1]
    slurm.wait_for(ends[0].stdout.decode().strip(), "COMPLETED")


def test_a_controller_that_was_killed_knows_what_it_saved(own_slurm: PrivateSlurm) -> None:
    job = own_slurm.submit("--output=/dev/null", "--wrap", "sleep 1")
    own_slurm.wait_until_saved()
    own_slurm.kill_controller()
    with pytest.raises(AssertionError, match="is DOWN"):
        own_slurm.run("scontrol", "ping")
    own_slurm.start_controller()
    own_slurm.wait_for(job, "COMPLETED")


def test_the_job_of_a_node_that_was_killed_runs_again_beside_its_first_copy(own_slurm: PrivateSlurm, tmp_path: Path) -> None:
    job = own_slurm.submit(f"--output={tmp_path}/log_%j", "--wrap", f"echo $$ >>{tmp_path}/copies; exec sleep 60")
    copies = tmp_path / "copies"
    wait_until(copies.exists, 10, "the job runs")
    node = node_of(own_slurm, job)
    own_slurm.kill_node(node)
    wait_until(lambda: len(copies.read_text().split()) == 2, 60, "the job runs again")
    assert node_of(own_slurm, job) != node
    assert all(Path("/proc", process).exists() for process in copies.read_text().split())
    own_slurm.start_node(node)
    own_slurm.run("scancel", job)
    wait_until(own_slurm.nodes_are_idle, 20, f"{node} is back")


def test_a_node_that_lost_power_takes_its_job_with_it_without_a_word(own_slurm: PrivateSlurm, tmp_path: Path) -> None:
    script = f"srun sh -c 'echo $$ >{tmp_path}/process; exec sleep 60'"
    job = own_slurm.submit("--no-requeue", f"--output={tmp_path}/log", "--wrap", script)
    wait_until(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text(), 10, "the job runs")
    node = node_of(own_slurm, job)
    own_slurm.lose_node(node)
    process = Path("/proc", (tmp_path / "process").read_text().strip(), "stat")
    wait_until(lambda: not process.exists() or process.read_text().rpartition(")")[2].split()[0] == "Z", 10, "it is dead, taken note of or not")
    own_slurm.wait_for(job, "NODE_FAIL", timeout_s=60)
    assert telling((tmp_path / "log").read_text()) is None  # at most srun says that it ends
    own_slurm.start_node(node)
    wait_until(own_slurm.nodes_are_idle, 20, f"{node} is back")


def test_a_step_that_holds_more_than_its_jobs_memory_is_killed_and_the_log_says_why(own_slurm: PrivateSlurm, tmp_path: Path) -> None:
    """Without cgroups the state is FAILED, not OUT_OF_MEMORY: only the log tells."""
    held = f"{sys.executable} -c 'import time; held = bytes(range(256)) * 1_000_000; time.sleep(60)'"
    job = own_slurm.submit("--mem=100M", f"--output={tmp_path}/log", "--wrap", f"srun {held}")
    own_slurm.wait_for(job, "FAILED")
    log = (tmp_path / "log").read_text()
    assert re.search(rf"^slurmstepd-node\d: error: StepId={job}\.0 exceeded memory limit \(\d+ > 104857600\), being killed$", log, re.MULTILINE)
    assert re.search(r"^srun: error: node\d: task 0: Killed$", log, re.MULTILINE)


def test_nothing_is_left_after_it_is_stopped(tmp_path: Path) -> None:
    with PrivateSlurm(tmp_path / "slurm", Settings(accounting=True)) as slurm:
        job = slurm.submit("--output=/dev/null", "--wrap", "trap '' TERM; setsid sleep 61 & wait")
        slurm.wait_for(job, "RUNNING")
        slurm.kill_node(node_of(slurm, job))
        running = set(processes_of(tmp_path).values())
        assert running >= {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"}
    assert processes_of(tmp_path) == {}
    kept = {"slurm.conf", "cgroup.conf", "gres.conf", "slurmdbd.conf", "log"}
    assert {path.name for path in (tmp_path / "slurm").iterdir()} == kept
    assert not slurm.place.state.exists()


def test_nothing_is_left_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.slurm.private_slurm import PrivateSlurm; "
        "slurm = PrivateSlurm(Path(sys.argv[1])); slurm.start(); "
        "slurm.submit('--output=/dev/null', '--wrap', 'sleep 62'); print('started', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "started\n"
    assert "slurmctld" in processes_of(tmp_path).values()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    wait_until(lambda: processes_of(tmp_path) == {}, 10, "all of its processes have ended")


def test_two_of_them_know_nothing_of_each_other(slurm: PrivateSlurm, slurm_without_accounting: PrivateSlurm) -> None:
    held = slurm.submit("--hold", "--output=/dev/null", "--job-name=held", "--wrap", "true")
    assert "held" in slurm.run("squeue", "--noheader", "--format=%j").split()
    assert "held" not in slurm_without_accounting.run("squeue", "--noheader", "--format=%j").split()
    slurm.run("scancel", held)


def test_a_program_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurmctld").touch(mode=0o755)
    (tmp_path / "slurmd").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmMissing) as error:
        PrivateSlurm(tmp_path / "slurm").start()
    assert str(error.value) == (
        "these tests run on a real Slurm, and sbatch is not installed\n"
        "`make slurm` installs it when it is root, and says what to install when it is not"
    )
