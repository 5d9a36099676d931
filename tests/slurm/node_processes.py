"""The processes of jobs on one node of a private Slurm, all of whose nodes are this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill_jobs(node: str, slurm_conf: Path) -> None:
    """Ends all that the jobs of a node run, as a power cut does: none of it tells anyone.

    Each slurmstepd dies before what it watches, or it would report to the controller how that ended.
    """
    marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={slurm_conf}".encode()}
    while found := {process for process in _processes() if marks <= _environment(process)}:
        parents = {_parent(process) for process in found} - found
        for process in [*(parent for parent in parents if _name(parent) == "slurmstepd"), *found]:
            _kill(process)


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(int(path.name)))


def _environment(process: int) -> set[bytes]:
    return set(_read(process, "environ").split(b"\0"))


def _name(process: int) -> str:
    return _read(process, "comm").decode().strip()


def _parent(process: int) -> int:
    """0 of a process that is over, or only waits to be taken note of."""
    state, parent, *_ = (_read(process, "stat").rpartition(b")")[2].split() or [b"Z", b"0"])  # the name before it may hold anything
    return 0 if state == b"Z" else int(parent)


def _read(process: int, name: str) -> bytes:
    try:
        return Path("/proc", str(process), name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""  # it has ended, or is another user's


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
