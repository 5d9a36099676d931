"""The process that submits is killed by SIGKILL, anywhere: the next run leaves every point trained once and evaluated once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.slurm.killed_client import Moment
from tests.slurm.private_slurm import PrivateSlurm
from tests.slurm.staged_app import StagedApp

NOTHING_IS_SENT = [
    Moment("os.mkdir", "/slurm/2", 1),  # the launch's folder is not there yet
    Moment("os.rename", "launch.json", 1),  # nothing is written down
    Moment("open", "configs.pkl", 1),
    Moment("open", "1_eval/array.pkl", 1),
    Moment("subprocess.Popen", "'--parsable'", 1),  # before the first sbatch
]
SOMETHING_IS_SENT = [
    Moment("sbatch", "before", 1),  # that goes on as an orphan
    Moment("sbatch", "after", 1),  # before its answer is read
    Moment("os.rename", "launch.json", 2),  # before its answer is written down
    Moment("subprocess.Popen", "'--parsable'", 2),  # between the two calls
    Moment("sbatch", "before", 2),
    Moment("sbatch", "after", 2),
    Moment("os.rename", "launch.json", 3),
    Moment("os.rename", "launch.json", 4),  # all is accepted, and said
]
MOMENTS = [*NOTHING_IS_SENT, *SOMETHING_IS_SENT]
POINTS = ["x=1,2"]
ONCE = [("eval", 1), ("eval", 2), ("train", 1), ("train", 2)]


def kill(app: StagedApp, moment: Moment) -> None:
    killed = app.start(*POINTS, env=moment.environment(app.folder / "kill", app.variables))
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, f"{moment}: {said}"


def run_again(app: StagedApp) -> None:
    done = app.run(*POINTS)
    assert done.returncode == 0, done.stderr


def apps(slurm: PrivateSlurm, folder: Path, moments: list[Moment]) -> dict[Moment, StagedApp]:
    return {moment: StagedApp(folder / str(number), slurm.environment) for number, moment in enumerate(moments)}


@pytest.fixture(scope="module")
def while_queued(slurm: PrivateSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Moment, StagedApp]]:
    """What was sent waits for GPUs while the client is killed and runs again."""
    made = apps(slurm, tmp_path_factory.mktemp("queued"), MOMENTS)
    busy = slurm.submit("--nodes=2", "--gpus-per-node=2", "--output=/dev/null", "--wrap", "sleep 600")
    slurm.wait_for(busy, "RUNNING")

    def kill_and_run_again(moment: Moment) -> None:
        kill(made[moment], moment)
        run_again(made[moment])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(kill_and_run_again, made))
    slurm.run("scancel", busy)
    slurm.wait_until_idle()
    yield made


@pytest.fixture(scope="module")
def when_ended(slurm: PrivateSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Moment, StagedApp]]:
    """What was sent has ended when the client runs again. Where nothing was, this is as while jobs queue."""
    made = apps(slurm, tmp_path_factory.mktemp("ended"), SOMETHING_IS_SENT)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(kill, made.values(), made))
        slurm.wait_until_idle()
        list(pool.map(run_again, made.values()))
    slurm.wait_until_idle()
    yield made


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_killed_while_its_jobs_queue(while_queued: dict[Moment, StagedApp], moment: Moment) -> None:
    assert while_queued[moment].did(event="start") == ONCE


@pytest.mark.parametrize("moment", SOMETHING_IS_SENT, ids=str)
def test_killed_before_its_jobs_end(when_ended: dict[Moment, StagedApp], moment: Moment) -> None:
    assert when_ended[moment].did(event="start") == ONCE
