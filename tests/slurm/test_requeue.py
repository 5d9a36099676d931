"""Jobs that Slurm starts again, or that ask for it; and jobs of several processes."""

from __future__ import annotations

import subprocess

from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.staged_app import StagedApp
from tests.slurm.test_waiting import CANCELLED, WAIT, table, wait_for_starts

REQUEUES = ["scontrol", "requeue"]
LITTLE_TIME = ["scancel", "--signal=USR2"]  # to the processes of srun, as sbatch's --signal does
PREEMPTED = ["scancel", "--signal=TERM"]  # as preemption with a grace time does
CANCELS = ["scancel"]
WHY_ENDED = "Ended: another process of this job has failed: RuntimeError: the second had no luck"


def disturb(slurm: PrivateSlurm, app: StagedApp, how: list[list[str]], *words: str) -> subprocess.CompletedProcess[str]:
    """Trainings of as many points, each of which is disturbed in its way once all have started."""
    points = ",".join(map(str, range(len(how))))
    waiting = app.start(f"x={points}", "stages=[train]", *words, WAIT)
    begun = {line["x"]: f"{line['job']}_{line['index']}" for line in wait_for_starts(app, len(how))}
    for x, command in enumerate(how):
        slurm.run(*command, begun[x])
    stdout, stderr = waiting.communicate(timeout=120)
    return subprocess.CompletedProcess(waiting.args, waiting.returncode, stdout, stderr)


def log(app: StagedApp, index: int) -> str:
    (path,) = (app.folder / "slurm").glob(f"*/*_train/*_{index}_0_log.out")
    return path.read_text()


def test_what_is_requeued_or_preempted_or_out_of_time_runs_again_and_what_is_cancelled_does_not(slurm: PrivateSlurm, app: StagedApp) -> None:
    ways = [REQUEUES, LITTLE_TIME, PREEMPTED, CANCELS]
    done = disturb(slurm, app, ways, "seconds=60", "seconds_again=0", "+cluster.train.max_num_timeout=1")
    (failed,) = table(done.stdout)
    assert failed[:3] == ["x=3", "train", "failed"] and failed[3] in CANCELLED
    assert done.returncode == 1 and done.stderr.splitlines()[-3] == "1 of 4 points failed"
    assert app.did() == [("train", 0), ("train", 1), ("train", 2)]
    assert sorted((line["x"], line["restarts"]) for line in app.events(event="start")) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert "requeueing" not in log(app, 0)
    for index in (1, 2):
        assert f"_{index} (restart 1 of 1)\n" in log(app, index)


def test_what_has_been_restarted_often_enough_goes_on_to_its_end_or_fails(slurm: PrivateSlurm, app: StagedApp) -> None:
    done = disturb(slurm, app, [REQUEUES, LITTLE_TIME, PREEMPTED], "seconds=12", "+cluster.train.max_num_timeout=0")
    assert table(done.stdout) == [
        ["x=0", "train", "failed", "RestartedTooOften: Slurm has restarted this job 1 times: max_num_timeout is 0"],
        ["x=2", "train", "failed", "RestartedTooOften: preempted after 0 restarts: max_num_timeout is 0"],
    ]
    assert app.did() == [("train", 1)]
    assert "little time is left, and after 0 restarts there is no other: going on to the end\n" in log(app, 1)


def test_of_two_processes_both_run_and_a_failure_of_either_is_the_jobs(slurm: PrivateSlurm, app: StagedApp) -> None:
    two = ["+cluster.train.nodes=2", "cluster.train.gpus_per_node=0", "+cluster.train.max_num_timeout=1"]
    done = app.run("x=1,2", *two, "seconds=8", "stages=[train]", "fail='second 2 train'", WAIT)
    assert done.returncode == 1
    assert table(done.stdout) == [["x=2", "train", "failed", WHY_ENDED]]
    events = app.events(event="start")
    assert sorted((line["x"], line["process"]) for line in events) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert sorted(line["process"] for line in app.events() if line["x"] == 1) == [0, 1]
    (job,) = {line["job"] for line in events}
    wait_until(lambda: set(slurm.states(job).values()) == {"COMPLETED", "FAILED"}, 30, "one has failed in Slurm's eyes too")
