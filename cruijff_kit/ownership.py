"""Who trains a run: of two live copies, on one node or two, only one may write the run's folder.

A node that is taken for dead can come back with the job that Slurm has meanwhile started again
elsewhere, and flock does not reach across nodes everywhere. So beside the lock lies owner.json:
whose it is. Who finds another's name there ends at once. Its time of change is the heartbeat; nodes'
clocks differ, so it is compared with itself alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cruijff_kit import atomic, workspace
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.process_family import Family

FILE = "owner.json"
LAUNCHER = "CRUIJFF_KIT_LAUNCHER"  # the process of the command that was typed
ENVIRONMENT = "CRUIJFF_KIT_OWNER"  # token and path, for the recipe that is about to save


@dataclass(frozen=True)
class Pace:
    """How often an owner shows that it lives and looks, and how many looks another waits for either."""

    every_s: float = 2.0
    looks: int = 10


@dataclass(frozen=True)
class Owner:
    """One copy of a training.

    Args:
        job: Slurm's id of the job, or of the array's task; None outside Slurm.
        restart: how many times Slurm had started that job before.
        ended: it let the folder go.
        began_s: when its process began, in seconds since the epoch: a process id comes again.
        launcher: the process of the command that was typed, on the same host.
        runs: all that the process does, one after the other, where it is not for one run alone.
    """

    job: str | None
    restart: int
    host: str
    pid: int
    token: str
    ended: bool = False
    began_s: float = 0.0
    launcher: int | None = None
    runs: Sequence[str] = field(default_factory=list)

    @classmethod
    def here(cls, runs: Sequence[str] = ()) -> Owner:
        """This process."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
        restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        launcher = os.environ.get(LAUNCHER)
        return cls(
            job, restart, socket.gethostname(), os.getpid(), uuid.uuid4().hex, began_s=began_s(os.getpid()) or 0.0,
            launcher=int(launcher) if launcher else None, runs=list(runs),
        )  # fmt: skip

    def succeeds(self, other: Owner) -> bool:
        """Whether Slurm started the same job again, because it gave `other` up."""
        return self.job is not None and self.job == other.job and self.restart > other.restart

    def __str__(self) -> str:
        job = f", job {self.job}, restart {self.restart}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def began_s(pid: int) -> float | None:
    """When a process of this machine began, in seconds since the epoch; None if there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_started_by(pid: int, other: int) -> bool:
    """Whether the process `other` lives and started `pid`, or what started it."""
    import psutil

    try:
        return other in (parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


class TakenOver(CruijffKitError):
    """Another copy of this training writes its folder now; ours must not write one byte more."""


class Ownership:
    """This process's hold on a training's folder."""

    def __init__(self, folder: Path, pace: Pace, runs: Sequence[str] = ()) -> None:
        self.path, self.me, self._pace = folder / FILE, Owner.here(runs), pace
        self._over = threading.Event()

    @property
    def environment(self) -> dict[str, str]:
        """What a process that this one starts must have, for `check_environment` and for whoever comes after us."""
        return {ENVIRONMENT: f"{self.me.token} {self.path}", **Family(self.me.token).environment}

    def check(self) -> None:
        """Raises TakenOver unless the folder is still ours."""
        _check(self.path, self.me.token)

    def keep_alive(self) -> None:
        """Shows that we live, whatever else we do, until the folder is another's or was let go."""
        while not self._over.wait(self._pace.every_s):
            try:
                self.check()
                os.utime(self.path)
            except TakenOver:
                return
            except OSError:  # removed by hand, or a file server that is away for a moment
                continue

    def write(self) -> None:
        atomic.write_json(self.path, asdict(self.me))

    def release(self) -> None:
        """Says that it is over; the name stays, for a copy of us that wakes up later."""
        self._over.set()
        owner = read(self.path)
        if owner is not None and owner.token == self.me.token:
            atomic.write_json(self.path, asdict(replace(self.me, ended=True)))

    def take(self, before: Owner | None) -> None:
        """Makes the folder ours, once the lock is held; `before` is the copy of this job that we wrote over."""
        if before is None:
            before = self._wait_for_others()
            self.write()
        threading.Thread(target=self.keep_alive, daemon=True).start()
        if before is not None and before.host == self.me.host:
            Family(before.token).end(grace_s=0)  # what it started may have outlived it
        elif before is not None:
            time.sleep(self._pace.looks * self._pace.every_s)  # then a copy there has looked, and ended itself
        self.check()

    def _wait_for_others(self) -> Owner | None:
        """Waits for an owner on another node, whom the lock may not hold; returns one who died without letting go."""
        said = False
        while (owner := read(self.path)) and not owner.ended:
            if owner.host == self.me.host or not self._is_alive():
                return owner
            if not said:
                print(f"waiting: this is being done by {owner}", file=sys.stderr, flush=True)
            said = True
        return None

    def _is_alive(self) -> bool:
        """Whether the heartbeat moves while we look."""
        first = _heartbeat(self.path)
        for _ in range(self._pace.looks):
            time.sleep(self._pace.every_s)
            if _heartbeat(self.path) != first:
                return True
        return False


@contextmanager
def owned(folder: Path, pace: Pace = Pace(), runs: Sequence[str] = ()) -> Iterator[Ownership]:
    """Holds `folder` for this process; waits while another lives, unless that is this very job before a restart.

    Args:
        runs: as in Owner.

    Raises:
        CruijffKitError: the folder or its lock cannot be made.
        TakenOver: another copy came before us while we waited.
    """
    ownership, before = Ownership(folder, pace, runs), read(folder / FILE)
    if before is not None and not before.ended and ownership.me.succeeds(before):
        print(f"taking over from {before}", file=sys.stderr, flush=True)
        ownership.write()  # it looks often, ends itself, and frees the lock
    else:
        before = None
        if workspace.is_held(folder):
            print(f"waiting: this is being done by {read(folder / FILE) or 'another process'}", file=sys.stderr, flush=True)
    with workspace.locked(folder):
        try:
            ownership.take(before)
            yield ownership
        finally:
            ownership.release()


@contextmanager
def owned_or_inherited(folder: Path, runs: Sequence[str] = ()) -> Iterator[None]:
    """As owned, unless the process that started this one holds the folder for it."""
    inherited = os.environ.get(ENVIRONMENT, "").partition(" ")[2]
    if inherited and os.path.realpath(inherited) == os.path.realpath(folder / FILE):
        yield
        return
    with owned(folder, runs=runs):
        yield


def check_environment() -> None:
    """Raises TakenOver if the training that started this process has lost its folder; nothing if none did."""
    token, _, path = os.environ.get(ENVIRONMENT, "").partition(" ")
    if token:
        _check(Path(path), token)


def _check(path: Path, token: str) -> None:
    owner = read(path)
    if owner is not None and owner.token != token:
        raise TakenOver(f"stopped: this run was taken over by {owner}")


def read(path: Path) -> Owner | None:
    """Who owns a folder; None if nobody does, or nobody can tell."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _heartbeat(path: Path) -> tuple[int, int] | None:
    """Inode and time of change, of a file that was just opened: NFS asks the server then, and not for a mere stat."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
        return stat.st_ino, stat.st_mtime_ns
    except OSError:
        return None
