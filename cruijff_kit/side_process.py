"""A module of this package as a process of its own beside ours, which leaves its answer in a JSON file.

What it imports, prints, starts or breaks is no matter of ours. It is ended where it hangs, and never outlives us.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cruijff_kit.stage_command import last_line

KEPT_BYTES = 8_000


class NoAnswer(Exception):
    """The process ended without an answer; the text says how."""


class SideProcess:
    """A running `python -m MODULE WORD… RESULT`, which writes the file RESULT, whole or not at all.

    The Hub is not asked unless HF_HUB_OFFLINE=0 says so.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, module: str, *words: object, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cruijff-kit-aside-")
        self._result, self._output = Path(self._folder.name, "result.json"), Path(self._folder.name, "output.log")
        self._lock = threading.Lock()
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                # -P: what lies where this was started must not be imported in place of a library
                [sys.executable, "-P", "-m", module, *map(str, words), str(self._result)],
                cwd=folder,
                env={"HF_HUB_OFFLINE": "1", **os.environ, **(environment or {})},
                stdin=subprocess.PIPE,  # closed when we are gone: see end_with_parent
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,  # so that what it starts can be ended with it
            )

    def answer(self, limit_s: float) -> Any:
        """What it wrote, once it has ended.

        Raises:
            NoAnswer: it wrote nothing.
            subprocess.TimeoutExpired: it did not end within `limit_s`, and was ended.
        """
        try:
            code = self._process.wait(limit_s)
            if self._result.exists():
                return json.loads(self._result.read_text(encoding="utf-8"))
            said = last_line(self._output.read_bytes()[-KEPT_BYTES:].decode(errors="replace"))
            raise NoAnswer(f"its process ended with exit code {code}: {said}")
        finally:
            self.end()

    def end(self) -> None:
        """Ends the process and all that it started, if it has not ended itself."""
        with self._lock:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            assert self._process.stdin
            self._process.stdin.close()
            self._folder.cleanup()


def end_with_parent() -> None:
    """Makes this process, and what it starts, end when the one that started it as a SideProcess is gone, however that ended."""
    if os.getsid(0) != os.getpid():
        return  # typed by hand: nobody waits for it
    lifeline = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_end_at_the_end_of, args=(lifeline,), daemon=True).start()


def _end_at_the_end_of(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when the other end is closed
    os.killpg(0, signal.SIGKILL)
