"""The processes of jobs of a private Slurm, all of whose nodes are this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill_jobs(node: str, slurm_conf: Path) -> None:
    """Ends all that the jobs of a node run, as a power cut does: none of it tells anyone.

    All of them are stopped before the first is killed: a batch script would note in the log that its srun was killed. And each
    slurmstepd dies before what it watches, or it would report to the controller how that ended.
    """
    while found := set(_marked(slurm_conf, SLURMD_NODENAME=node)):
        parents = {_parent(process) for process in found} - found
        every = [*(parent for parent in parents if _name(parent) == "slurmstepd"), *found]
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for process in every:
                _signal(process, signum)


def hang_training(task: str, slurm_conf: Path) -> bool:
    """Stops the `tune run` of a task, named `12_3`, as one that waits for its file system; whether there is one.

    It ends when it is made to, and goes on when Slurm warns it of its time limit (--signal): SIGCONT comes with that.
    """
    job, _, index = task.partition("_")
    found = list(_marked(slurm_conf, SLURM_ARRAY_JOB_ID=job, SLURM_ARRAY_TASK_ID=index))
    trainings = [process for process in found if b"/tune\0run\0" in _read(process, "cmdline")]
    for process in trainings:
        _signal(process, signal.SIGSTOP)
    return bool(trainings)


def _marked(slurm_conf: Path, **variables: str) -> Iterator[int]:
    """Those of jobs of that Slurm that have these variables in their environment."""
    marks = {f"{name}={value}".encode() for name, value in {**variables, "SLURM_CONF": str(slurm_conf)}.items()}
    return (process for process in _processes() if marks <= _environment(process))


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


def _signal(process: int, signum: signal.Signals) -> None:
    try:
        os.kill(process, signum)
    except ProcessLookupError:
        pass
