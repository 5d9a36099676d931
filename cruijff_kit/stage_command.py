"""Running a stage's command, with its output where ours goes and its last words kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cruijff_kit.errors import CruijffKitError

KEPT_BYTES = 8_000


def run(command: Sequence[str], folder: Path) -> None:
    """Runs `command` in `folder`.

    Raises:
        CruijffKitError: it did not exit with 0; the text ends in the last line of its stderr.
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as process:
        try:
            tail = _forward(process)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise CruijffKitError(f"{command[0]} exited with {process.returncode}: {last_line(tail)}")


def _forward(process: subprocess.Popen[bytes]) -> str:
    """Copies the process's stderr to ours as it comes, and returns its end."""
    assert process.stderr
    tail = b""
    while block := os.read(process.stderr.fileno(), 65536):
        sys.stderr.buffer.write(block)
        sys.stderr.buffer.flush()
        tail = (tail + block)[-KEPT_BYTES:]
    return tail.decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that says something; a progress bar's \\r starts a new one."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
