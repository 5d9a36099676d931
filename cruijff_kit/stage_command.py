"""Running a stage's command, with its output where ours goes and its last words kept."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.failure import telling
from cruijff_kit.ownership import TakenOver
from cruijff_kit.process_family import MARK, Family, held_back

KEPT_BYTES = 8_000
LOOK_EVERY_S = 1.0
GRACE_S = 3.0  # for the command to clean up, before it is killed


class CommandFailed(CruijffKitError):
    """A command ended otherwise than with 0: `exit_code` is below 0 for the signal that killed it; `kind` as in failure.Failure."""

    def __init__(self, program: str, exit_code: int, said: str) -> None:
        told = telling(said)
        how = f"exited with {exit_code}: {told.line if told else last_line(said)}"
        super().__init__(f"{program} {how if exit_code > 0 else f'was killed by {_signal_name(-exit_code)}{_guess(-exit_code)}'}")
        self.exit_code, self.kind = exit_code, told.kind if told else "error"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _guess(number: int) -> str:
    return " (out of memory?)" if number == signal.SIGKILL else ""


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    look: Callable[[], None] | None = None,
) -> None:
    """Runs `command` in `folder`; when that is interrupted, all that it started is ended first.

    Args:
        environment: what the command has beside ours.
        look: called again and again meanwhile; what it raises ends the command, and TakenOver kills it at once.

    Raises:
        CommandFailed: it did not exit with 0; the text ends in the telling line of its stderr.
    """
    family = Family((environment or {}).get(MARK))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    whole = {**os.environ, "PATH": path, **(environment or {}), **family.environment}
    process = None
    try:
        # Slurm sends the warning of a time limit to every process of a step: it is for us to act on, and would kill the command
        with held_back(signal.SIGUSR2):
            process = subprocess.Popen(command, cwd=folder, env=whole, stderr=subprocess.PIPE)
        tail = _follow(process, look or (lambda: None))
    except BaseException as error:  # of a signal's handler too, which may raise anywhere here
        family.end(0 if isinstance(error, TakenOver) else GRACE_S)
        if process is not None:
            process.poll()  # else it stays a zombie
        raise
    if process.returncode != 0:
        family.end(GRACE_S)
        if look is not None:
            look()  # it may have noticed before us that the folder is another's
        raise CommandFailed(command[0], process.returncode, tail)


def _follow(process: subprocess.Popen[bytes], look: Callable[[], None]) -> str:
    """Waits for the process; copies its stderr to ours as it comes, and returns the end of that."""
    assert process.stderr
    tail, looked = b"", 0.0
    with process.stderr as stderr, selectors.DefaultSelector() as selector:
        selector.register(stderr, selectors.EVENT_READ)
        while selector.get_map() or process.poll() is None:
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                look()
            if not selector.get_map():
                time.sleep(LOOK_EVERY_S / 10)
            elif selector.select(LOOK_EVERY_S):
                block = os.read(stderr.fileno(), 65536)
                if not block:
                    selector.unregister(stderr)
                sys.stderr.buffer.write(block)
                sys.stderr.buffer.flush()
                tail = (tail + block)[-KEPT_BYTES:]
            elif process.poll():  # it failed, and what it left behind keeps its stderr open
                break
    return tail.decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that says something; a progress bar's \\r starts a new one."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
