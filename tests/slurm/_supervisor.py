"""A program that starts daemons, and ends all that came of them as soon as its owner is gone.

It reads one request a line, in JSON, and answers each with one line: `{"start": {"words", "environment", "log"}}`
with the process's id, `{"kill": ID}` when that process is gone. When its input ends, because the owner closed it or
died, it kills everything below itself. It is the subreaper of what it starts: daemons that detach, and the jobs of
a slurmd that was killed, become its children and cannot escape.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def start(words: list[str], environment: dict[str, str], log: str) -> int:
    """The id of a new process of its own session, whose output is appended to `log`."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(words[0], words, environment, file_actions=files, setsid=True)


def reap(started: set[int]) -> None:
    """Takes note of every child that has ended, whether it was started here or fell to this process."""
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == 0:
            return
        started.discard(ended)


def kill(process: int, started: set[int]) -> None:
    if process in started:  # else it has ended, and its id may be another's
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        started.discard(process)


def children() -> list[int]:
    """The processes whose parent this one is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name before the last parenthesis may hold anything
            state_and_parent = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(state_and_parent[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def end_everything() -> None:
    """Kills the children, then those that became children by that, until there is none."""
    while True:
        for process in children():
            os.kill(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def serve() -> None:
    started: set[int] = set()
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.1)
        reap(started)
        if not readable:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        if "start" in request:
            process = start(**request["start"])
            started.add(process)
            print(process, flush=True)
        else:
            kill(request["kill"], started)
            print("ended", flush=True)


if __name__ == "__main__":
    become_subreaper()
    try:
        serve()
    finally:
        end_everything()
