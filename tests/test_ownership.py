"""Two live copies of one training: only one writes its folder. Other nodes are played by what they would write there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cruijff_kit import atomic, ownership, stage_command
from cruijff_kit.ownership import FILE, Owner, Pace, TakenOver, owned
from cruijff_kit.process_family import Family

ROOT = Path(__file__).parents[1]
PACE = Pace(every_s=0.05, looks=10)
ELSEWHERE = Owner(job="7_3", restart=0, host="node9", pid=4242, token="theirs")


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def slurm(monkeypatch: pytest.MonkeyPatch, restart: int) -> None:
    """Makes this process task 3 of array 7, as Slurm starts it."""
    values = {"SLURM_JOB_ID": "10", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": str(restart)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def write(folder: Path, owner: Owner) -> None:
    atomic.write_json(folder / FILE, asdict(owner))


def name(folder: Path) -> Owner:
    owner = ownership.read(folder / FILE)
    assert owner is not None
    return owner


@contextmanager
def alive(folder: Path) -> Iterator[threading.Event]:
    """An owner on another node: it touches the file while that names it; the event stops it."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.is_set() and name(folder).token == ELSEWHERE.token:
            os.utime(folder / FILE)
            time.sleep(0.02)

    write(folder, ELSEWHERE)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield stopped
    finally:
        stopped.set()
        thread.join()


def test_an_owner_stands_in_the_file_and_says_when_it_let_go(tmp_path: Path) -> None:
    with owned(tmp_path, PACE) as held:
        assert name(tmp_path) == held.me
        assert not held.me.ended
        assert sorted(json.loads((tmp_path / FILE).read_text())) == ["began_s", "ended", "host", "job", "launcher", "pid", "restart", "runs", "token"]
    assert name(tmp_path) == replace(held.me, ended=True)


def test_what_was_let_go_and_what_died_on_this_node_is_taken_at_once(tmp_path: Path) -> None:
    slow = Pace(every_s=60)
    with owned(tmp_path, slow) as first:
        pass
    write(tmp_path, first.me)  # as if killed
    with owned(tmp_path, slow) as second:
        assert name(tmp_path).token == second.me.token != first.me.token


def test_an_owner_is_seen_to_live_whatever_it_does(tmp_path: Path) -> None:
    with owned(tmp_path, PACE):
        before = (tmp_path / FILE).stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / FILE).stat().st_mtime_ns > before
    after = (tmp_path / FILE).stat().st_mtime_ns
    time.sleep(0.3)
    assert (tmp_path / FILE).stat().st_mtime_ns == after


def test_a_live_owner_on_another_node_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alive(tmp_path) as stopped:
        threading.Timer(1.0, stopped.set).start()
        begun = time.monotonic()
        with owned(tmp_path, PACE) as held:
            assert time.monotonic() - begun > 1.0
            assert name(tmp_path) == held.me
    assert capsys.readouterr().err == "waiting: this is being done by process 4242 on node9, job 7_3, restart 0\n"


def test_another_job_never_takes_from_a_live_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, restart=5)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    with alive(tmp_path):
        newcomer = threading.Thread(target=lambda: owned(tmp_path, PACE).__enter__(), daemon=True)
        newcomer.start()
        newcomer.join(1.5)
        assert newcomer.is_alive()
        assert name(tmp_path) == ELSEWHERE
    newcomer.join(5)


def test_the_same_job_started_again_takes_over_from_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm(monkeypatch, restart=1)
    with alive(tmp_path):
        begun = time.monotonic()
        with owned(tmp_path, PACE) as held:
            assert time.monotonic() - begun > PACE.every_s * PACE.looks  # the other has seen it
            assert name(tmp_path) == held.me
            assert (held.me.job, held.me.restart) == ("7_3", 1)
    assert capsys.readouterr().err == "taking over from process 4242 on node9, job 7_3, restart 0\n"


def test_from_a_copy_that_let_go_nothing_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm(monkeypatch, restart=1)
    write(tmp_path, replace(ELSEWHERE, ended=True))
    with owned(tmp_path, Pace(every_s=60)):
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("restart", [0, 1])
def test_an_older_copy_of_a_job_does_not_take_over_from_a_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: int) -> None:
    slurm(monkeypatch, restart)
    assert not Owner.here().succeeds(replace(ELSEWHERE, restart=1))
    assert not Owner.here().succeeds(replace(ELSEWHERE, job=None))
    assert Owner.here().succeeds(ELSEWHERE) == (restart == 1)


def test_the_command_of_an_owner_that_lost_its_folder_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    write_on = "import os, time, pathlib\nwhile True: pathlib.Path('written').write_text(str(time.time())); time.sleep(0.01)"
    parent = f"import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsubprocess.Popen([sys.executable, '-c', {write_on!r}], start_new_session=True)\ntime.sleep(600)"
    with owned(tmp_path / "hold", PACE) as held:
        threading.Timer(2.0, write, (tmp_path / "hold", ELSEWHERE)).start()
        with pytest.raises(TakenOver) as stopped:
            stage_command.run([sys.executable, "-c", parent], tmp_path, held.environment, held.check)
        last = (tmp_path / "written").read_text()
        time.sleep(0.3)
        assert (tmp_path / "written").read_text() == last
    assert str(stopped.value) == "stopped: this run was taken over by process 4242 on node9, job 7_3, restart 0"
    assert name(tmp_path / "hold") == ELSEWHERE  # it did not let go of what is another's


def test_a_recipe_of_an_owner_that_lost_its_folder_does_not_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ownership.check_environment()  # started by hand
    with owned(tmp_path / "with spaces", PACE) as held:
        for variable, value in held.environment.items():
            monkeypatch.setenv(variable, value)
        ownership.check_environment()
        write(tmp_path / "with spaces", ELSEWHERE)
        with pytest.raises(TakenOver):
            ownership.check_environment()


def test_what_a_killed_owner_started_here_is_ended_by_the_next(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom cruijff_kit import ownership, stage_command\n"
        "with ownership.owned(Path(sys.argv[1])) as held:\n"
        "    stage_command.run(['sleep', '600'], Path(sys.argv[1]), held.environment, held.check)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / FILE).exists() or not Family(name(tmp_path).token).alive():
        time.sleep(0.05)
    first.kill()
    first.wait()
    family = Family(name(tmp_path).token)
    assert len(family.alive()) == 1
    with owned(tmp_path, PACE):
        assert family.alive() == []


def test_the_newcomer_on_this_node_waits_for_the_lock(tmp_path: Path) -> None:
    with owned(tmp_path, PACE) as held:
        newcomer = threading.Thread(target=lambda: owned(tmp_path, PACE).__enter__(), daemon=True)
        newcomer.start()
        time.sleep(0.5)
        assert name(tmp_path) == held.me
    newcomer.join(5)
    assert not newcomer.is_alive()
