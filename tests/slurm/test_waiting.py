"""`hydra.launcher.wait=true`: what comes back, and what a wait outlives: Ctrl-C, its terminal, its controller, and jobs that die."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.slurm.configuration import Settings
from tests.slurm.conftest import started
from tests.slurm.private_slurm import PrivateSlurm, wait_until
from tests.slurm.staged_app import StagedApp

WAIT = "hydra.launcher.wait=true"
# the first where it had the time to say so, before it was killed
CANCELLED = (
    "Ended: cancelled, or out of time: Slurm told it to end (SIGTERM)",
    "Slurm ended it: CANCELLED",
    "its process died without a result (killed, or out of memory?)",
)


@pytest.fixture
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    yield from started(Settings(), tmp_path_factory)


def wait_for_starts(app: StagedApp, count: int) -> list[dict]:
    wait_until(lambda: len(app.events(event="start")) == count, 60, f"{count} stages have started")
    return app.events(event="start")


def table(stdout: str) -> list[list[str]]:
    """The rows of the table of failures, of each point's name only its x."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in stdout.splitlines() if line.startswith("│")]
    return [[name.split()[0], *cells] for name, *cells in rows]


def test_the_values_of_all_points_come_back_to_a_sweeper_that_asks_for_them(app: StagedApp) -> None:
    choose = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3", "hydra.sweeper.sampler.seed=1"]
    done = app.run(*choose, "x=choice(1,2)", "score=true", "stages=[train]", WAIT)
    assert done.returncode == 0, done.stderr
    found = (app.folder / "out" / "optimization_results.yaml").read_text()
    assert found == "name: optuna\nbest_params:\n  x: 2\nbest_value: 0.0\n"
    assert app.did() == [("train", 1), ("train", 2)]


def test_a_failed_point_is_in_the_table_and_the_exit_code(app: StagedApp) -> None:
    done = app.run("x=1,2,3", "fail='raise 2 train'", WAIT)
    assert done.returncode == 1
    assert table(done.stdout) == [["x=2", "train", "failed", "RuntimeError: out of luck"], ["x=2", "eval", "not run", "needs train"]]
    assert done.stderr.splitlines()[-3] == "1 of 3 points failed"
    assert app.did() == [("eval", 1), ("eval", 3), ("train", 1), ("train", 3)]


def test_after_ctrl_c_the_same_command_waits_for_the_same_jobs(app: StagedApp) -> None:
    words = ["x=1,2", "seconds=4", WAIT]
    interrupted = app.start(*words)
    begun = wait_for_starts(app, 2)
    interrupted.send_signal(signal.SIGINT)
    stdout, stderr = interrupted.communicate(timeout=30)
    jobs = re.findall(r"^job (\d+): 2 (train|eval)", stdout, re.MULTILINE)
    assert [stage for _, stage in jobs] == ["train", "eval"] and {line["job"] for line in begun} == {jobs[0][0]}
    train, evaluation = (job for job, _ in jobs)
    assert f"\nthe jobs go on: {train} {evaluation}\nthe same command waits for them again; scancel {train} {evaluation} ends them\n" in stderr
    assert interrupted.returncode == -signal.SIGINT
    again = app.run(*words)
    assert again.returncode == 0, again.stderr
    assert f"job {evaluation}: 2 eval, sent before\n" in again.stdout
    assert app.did(event="start") == [("eval", 1), ("eval", 2), ("train", 1), ("train", 2)]


def drain(descriptor: int) -> None:
    """Take what is shown on a terminal, which would stop when it is full."""
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass


def test_it_goes_on_when_its_terminal_is_closed(app: StagedApp) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(app.folder)
        command = app.command("x=1,2", "seconds=4", "fail='raise 2 eval'", WAIT)
        os.execvpe(command[0], command, app.variables)
    reader = threading.Thread(target=drain, args=(os.dup(terminal),), daemon=True)
    shell = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    assert "s" in shell.stdout  # leads the session of that terminal
    reader.start()
    wait_for_starts(app, 2)
    os.kill(pid, signal.SIGHUP)  # as the shell of a terminal passes it on
    os.kill(pid, signal.SIGHUP)  # and the kernel
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    (log,) = (app.folder / "slurm").glob("*/wait.log")
    assert ["x=2", "eval", "failed", "RuntimeError: out of luck"] in table(log.read_text().replace("┃", "│"))
    assert "1 of 2 points failed" in log.read_text()
    assert app.did() == [("eval", 1), ("train", 1), ("train", 2)]


def test_a_controller_that_is_killed_and_comes_back_is_waited_for(breakable: PrivateSlurm, tmp_path: Path) -> None:
    app = StagedApp(tmp_path / "app", breakable.environment)
    waiting = app.start("x=1,2", "seconds=6", WAIT)
    wait_for_starts(app, 2)
    breakable.wait_until_saved()
    breakable.kill_controller()
    said: list[str] = []
    for line in waiting.stderr:
        said.append(line)
        if line.startswith("waiting on: "):
            break
    assert said[-1].startswith("waiting on: Slurm does not answer (squeue")
    breakable.start_controller()
    _, rest = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, rest
    assert app.did(event="start") == [("eval", 1), ("eval", 2), ("train", 1), ("train", 2)]


def lose_jobs(slurm: PrivateSlurm, folder: Path) -> tuple[StagedApp, subprocess.Popen[str], str]:
    """Of three points, two trainings of which are killed by the kernel and by the user, and what is said of them on stdout."""
    app = StagedApp(folder, slurm.environment)
    waiting = app.start("x=1,2,3", "seconds=60", WAIT, "+cluster.train.array_parallelism=2")
    begun = {line["x"]: line for line in wait_for_starts(app, 2)}
    job = begun[1]["job"]
    slurm.run("scancel", f"{job}_2")  # that has not started
    os.kill(begun[1]["pid"], signal.SIGKILL)
    slurm.run("scancel", f"{job}_{begun[2]['index']}")
    stdout, _ = waiting.communicate(timeout=120)
    return app, waiting, stdout


def test_jobs_that_die_without_a_result_are_noticed_and_named(
    slurm: PrivateSlurm, slurm_without_accounting: PrivateSlurm, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        pair = list(pool.map(lose_jobs, (slurm, slurm_without_accounting), (tmp_path / "with", tmp_path / "without")))
    for app, waiting, stdout in pair:
        assert waiting.returncode == 1
        rows = {(row[0], row[1]): row[2:] for row in table(stdout)}
        assert rows.pop(("x=1", "train")) == ["failed", "its process died without a result (killed, or out of memory?)"]
        state, why = rows.pop(("x=2", "train"))
        assert state == "failed" and why in CANCELLED
        state, why = rows.pop(("x=3", "train"))
        assert state == "failed" and why in ("Slurm ended it: CANCELLED", "it never started: cancelled in Slurm's queue?")
        assert rows == {(f"x={x}", "eval"): ["not run", "needs train"] for x in (1, 2, 3)}
        assert app.did(event="start") == [("train", 1), ("train", 2)] and app.did() == []
