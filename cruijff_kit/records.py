"""What each stage of each run leaves: a small JSON file beside its results, which says how far it came, where and with what.

It is never the only witness: a stage may be killed before it writes its end, and a disk may be full.
So a record that cannot be read or written is no fault, and nobody takes a result for lost because of it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cruijff_kit import atomic
from cruijff_kit.errors import Interrupted
from cruijff_kit.ownership import TakenOver

VERSION = 1

RUNNING, DONE, FAILED, INTERRUPTED, CANCELLED = "running", "done", "failed", "interrupted", "cancelled"


@dataclass(frozen=True)
class Record:
    """One stage of one run, as it was last started.

    Args:
        config: the identity of the run that was trained or evaluated.
        state: running, done, failed; interrupted, by a signal; cancelled, before it ever started.
        attempt: how many times this stage of this very run was started, this time included.
        started_s: seconds since the epoch, by the clock of `host`; so is `ended_s`.
        job: Slurm's id, as scancel takes it; None outside Slurm.
        restart: how many times Slurm had started that job before.
        log: where its output went, if to a file that it knows.
        exit_code: of its command, below 0 for the signal that killed it; None where no command ran to its end.
        reason: why it is not done.
        kind: of what failed: see failure.Failure.
        gpus: those that it could see.
        versions: of what it ran with, by the name of the distribution.
        git: the commit of the experiment's folder when this was sent, and whether what the run depends on differed from it.
        inputs: SHA-256 of the data and task files, and of their folder as a whole, by path.
        asked: what the evaluation was told beside its script.
        epochs: of the training.
        anew: what tells this time from others, of a stage that was to be done again.
        weights: the checkpoint that a training ended with, and what tells whether it is still that: see checkpoint.seal.
    """

    run: str
    stage: str
    config: str
    state: str
    attempt: int
    started_s: float
    host: str
    pid: int
    job: str | None = None
    restart: int = 0
    ended_s: float | None = None
    log: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    kind: str | None = None
    gpus: Sequence[str] = field(default_factory=list)
    versions: Mapping[str, str] | None = None
    git: Mapping[str, Any] | None = None
    inputs: Mapping[str, str] | None = None
    asked: Sequence[str] = field(default_factory=list)
    epochs: int | None = None
    weights: Mapping[str, Any] | None = None
    anew: str = ""


def read(path: Path) -> Record | None:
    """The record in a file; None where there is none that this version can read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            return None
        record = Record(**{field.name: values[field.name] for field in fields(Record) if field.name in values})
        numbers = (record.attempt, record.started_s, record.pid, record.restart, record.ended_s or 0)
        texts = (record.run, record.stage, record.config, record.state, record.host, record.job or "", record.log or "", record.reason or "", record.kind or "")
        sound = all(isinstance(each, (int, float)) for each in numbers) and all(isinstance(each, str) for each in texts)
        return record if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(path: Path, record: Record) -> None:
    """Writes it whole; that it cannot be written is said, and is no reason to end the stage."""
    try:
        atomic.write_json(path, {"version": VERSION, **asdict(record)})
    except OSError as error:
        print(f"warning: {path} was not written: {error.strerror}", file=sys.stderr, flush=True)


def fresh(path: Path, run: str, stage: str, config: str, **known: Any) -> Record:
    """The record of a stage that starts now, in this process; `path` may hold that of its last attempt."""
    before = read(path)
    attempt = before.attempt + 1 if before is not None and before.config == config and before.state != DONE else 1
    return Record(run, stage, config, RUNNING, attempt, time.time(), socket.gethostname(), os.getpid(), **known)


@contextmanager
def kept(path: Path, record: Record, look: Callable[[], dict[str, Any]] = dict, finish: Callable[[Record], Record] = lambda record: record) -> Iterator[None]:
    """Keeps the record of a stage while it runs, and of how it ends.

    Args:
        look: what is known of its surroundings; it may take a while, or fail.
        finish: adds what is known of one that ended well.
    """
    write(path, record)
    try:
        record = replace(record, **look())
        write(path, record)
        yield
    except TakenOver:  # another copy keeps it now
        raise
    except BaseException as error:
        state = INTERRUPTED if isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)) else FAILED
        ended = replace(record, state=state, ended_s=time.time(), reason=_said(error))
        ended = replace(ended, exit_code=getattr(error, "exit_code", None), kind=getattr(error, "kind", None))
        write(path, ended)
        raise
    write(path, finish(replace(record, state=DONE, ended_s=time.time(), exit_code=0)))


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error).strip()
    return text if text and not isinstance(error, SystemExit) else type(error).__name__
