"""The processes that a launch has started, however deep, and how to stop them.

submitit's own cancel signals one process per job (submitit 1.5, local/local.py), and neither that
process's children nor what those put in sessions of their own, as torchrun does with its workers.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterable, NamedTuple, Set, Tuple

MARK = "STAGED_LAUNCHER_ID"  # in the environment of every process of a launch
STEPS = ((signal.SIGINT, 3.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))  # signal, then seconds to go
POLL_S = 0.05


class Process(NamedTuple):
    """What tells where a process belongs; `start` tells it from a later one of the same number."""

    parent: int
    group: int
    start: str
    marked: bool


def stop(mark: str, jobs: Iterable[int]) -> None:
    """End every process of the launch: interrupt, then terminate, then kill.

    `jobs` are processes known to belong to it. A second interrupt on the way kills at once.
    """
    family = Family(mark, jobs)
    try:
        for signum, grace_s in STEPS:
            if family.signalled(signum, grace_s):
                return
    except BaseException:
        family.signalled(*STEPS[-1])
        raise


class Family:
    """The processes of a launch. One that was seen stays in it when its parent is gone."""

    def __init__(self, mark: str, jobs: Iterable[int]) -> None:
        self._mark = mark
        table = process_table(mark)
        self._seen: Set[Tuple[int, str]] = {(pid, table[pid].start) for pid in jobs if pid in table}

    def alive(self) -> Set[int]:
        table = process_table(self._mark)
        seeds = {pid for pid, process in table.items() if (pid, process.start) in self._seen}
        family = descendants(table, seeds, outside=os.getpid())
        self._seen |= {(pid, table[pid].start) for pid in family}
        return family

    def signalled(self, signum: int, grace_s: float) -> bool:
        """Send a signal to all that live, and to those they fork meanwhile; True when all end in time."""
        deadline, sent = time.monotonic() + grace_s, set()
        while True:
            alive = self.alive()
            if not alive or time.monotonic() > deadline:
                return not alive
            for pid in alive if signum == signal.SIGKILL else alive - sent:
                _send(pid, signum)
            sent |= alive
            time.sleep(POLL_S)


def descendants(table: Dict[int, Process], seeds: Set[int], outside: int) -> Set[int]:
    """The marked processes, the seeds, their children, and whoever shares a session with one of them.

    `outside` is the launcher itself, whose session the first process of each job shares.
    """
    family = seeds | {pid for pid, process in table.items() if process.marked}
    own_group = table[outside].group if outside in table else None
    grown = True
    while grown:
        groups = {table[pid].group for pid in family} - {own_group}
        more = {pid for pid, process in table.items() if process.parent in family or process.group in groups}
        grown = not more <= family
        family |= more
    return family - {outside}


def process_table(mark: str) -> Dict[int, Process]:
    """Every living process by its number."""
    return _linux_table(f"{MARK}={mark}".encode()) if Path("/proc/self/stat").exists() else _ps_table()


def _linux_table(mark: bytes) -> Dict[int, Process]:
    table = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # proc(5): after the name in brackets come state, ppid, pgrp, session, and 22nd in all starttime
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            marked = mark in _environ(folder).split(b"\0")
        except OSError:  # ended meanwhile
            continue
        if fields[0] not in "ZX":
            table[int(folder.name)] = Process(int(fields[1]), int(fields[3]), fields[19], marked)
    return table


def _environ(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except PermissionError:  # another user's
        return b""


def _ps_table() -> Dict[int, Process]:
    """Without /proc, as on macOS: no environment to read, so descent and process groups alone."""
    command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    rows = [line.split(maxsplit=4) for line in subprocess.check_output(command, text=True).splitlines()]
    return {
        int(pid): Process(int(parent), int(group), start, False)
        for pid, parent, group, state, start in rows
        if not state.startswith("Z")
    }


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass
