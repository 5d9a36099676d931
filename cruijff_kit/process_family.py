"""The processes that a command started, however deep, and how to end them.

Ending the command alone leaves what it put into sessions of its own, as torchrun does with its workers.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MARK = "CRUIJFF_KIT_COMMAND"  # in the environment of each of them
POLL_S = 0.05
KILL_S = 10.0  # a process in an uninterruptible sleep does not die sooner than its disk answers


def exit_when_told() -> None:
    """SIGTERM ends this process as sys.exit does, with what it has to clean up, unless something else was made of it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@contextmanager
def held_back(signum: int) -> Iterator[None]:
    """Keeps a signal waiting, for us until this is over and for what is started meanwhile as long as it lives."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Family:
    """Those that carry `mark`; start the command with `environment` in its own."""

    def __init__(self, mark: str | None = None) -> None:
        self.environment = {MARK: mark or uuid.uuid4().hex}

    def alive(self) -> list[Any]:
        """The processes that live; also the children of one whose environment cannot be read."""
        import psutil

        found: dict[int, Any] = {}
        for process in psutil.process_iter():
            try:
                ours = process.pid != os.getpid() and process.environ().get(MARK) == self.environment[MARK]
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
                    found.update((child.pid, child) for child in process.children(recursive=True))
            except psutil.Error:  # ended meanwhile, or another user's
                continue
        return list(found.values())

    def end(self, grace_s: float) -> None:
        """Terminates them, and kills what is left after `grace_s`, or at once if that is 0 or we are interrupted."""
        try:
            self._signal("terminate", grace_s)
        finally:
            self._signal("kill", KILL_S)

    def _signal(self, name: str, seconds: float) -> None:
        import psutil

        deadline, sent = time.monotonic() + seconds, set()
        while time.monotonic() < deadline and (alive := self.alive()):
            for process in alive:
                if process not in sent:
                    sent.add(process)
                    try:
                        getattr(process, name)()
                    except psutil.Error:  # ended meanwhile
                        continue
            time.sleep(POLL_S)
