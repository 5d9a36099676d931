"""A command on a terminal of a given size, and what its screen shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pyte


class Terminal:
    """A context manager: the command is killed if it still runs in the end."""

    def __init__(self, command: Sequence[str | Path], columns: int = 80, rows: int = 24, **options: object) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "linux", **options.pop("env", {})}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True, **options)
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, without the blank end of each line."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def everything(self) -> list[str]:
        """Likewise, with what has scrolled off above."""
        above = ["".join(line[column].data for column in range(self.screen.columns)).rstrip() for line in self.screen.history.top]
        return [*above, *self.lines]

    def wait_for(self, text: str, timeout_s: float = 30) -> list[str]:
        """The screen as soon as it shows `text`."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline and self._read(), f"never shown: {text}\n" + "\n".join(self.lines)
        return self.lines

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code of the command, and the whole of its output on the screen."""
        deadline = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < deadline, "\n".join(self.lines)
        return self.process.wait(timeout_s)

    def _read(self) -> bool:
        """Takes in what there is within a moment; False once the command has closed the terminal."""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            if not select.select([self.master], [], [], 0.2)[0]:
                return True
            self._stream.feed(os.read(self.master, 65536))
            return True
        return False
