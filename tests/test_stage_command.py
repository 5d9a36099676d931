"""A stage's command and what it starts: signals reach whom they are for, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from cruijff_kit import stage_command
from cruijff_kit.errors import CruijffKitError

WORKER = "import os, time, pathlib\npathlib.Path('worker').write_text(str(os.getpid()))\ntime.sleep(600)"
PARENT = f"""
import signal, subprocess, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {WORKER!r}], start_new_session=True)
time.sleep(600)
"""


class Warned(Exception):
    """What a handler raises."""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def worker(folder: Path) -> int:
    while not (folder / "worker").exists() or not (folder / "worker").read_text():
        time.sleep(0.02)
    return int((folder / "worker").read_text())


def test_the_warning_of_a_time_limit_does_not_end_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGUSR2)\nprint('still here', flush=True)"
    stage_command.run([sys.executable, "-c", program], tmp_path)
    assert capfd.readouterr().out == "still here\n"
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize(("resists", "seconds"), [(False, 3), (True, 8)])
def test_what_a_handler_raises_travels_on_once_all_are_ended(tmp_path: Path, resists: bool, seconds: int) -> None:
    def handler(*_: object) -> None:
        raise Warned

    def warn() -> None:
        worker(tmp_path)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        threading.Thread(target=warn).start()
        begun = time.monotonic()
        with pytest.raises(Warned):
            stage_command.run([sys.executable, "-c", PARENT, *(["resist"] if resists else [])], tmp_path)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert not is_running(worker(tmp_path))
    assert time.monotonic() - begun < seconds


def test_what_a_failed_command_leaves_behind_does_not_keep_us(tmp_path: Path) -> None:
    program = PARENT.replace("time.sleep(600)\n", "time.sleep(1)\nprint('out of memory', file=sys.stderr)\nsys.exit(7)\n")
    with pytest.raises(CruijffKitError) as failed:
        stage_command.run([sys.executable, "-c", program], tmp_path)
    assert str(failed.value) == f"{sys.executable} exited with 7: out of memory"
    assert not is_running(worker(tmp_path))
