"""What Slurm's client programs print and take, and what it means: pure parsers, which call nothing.

Written against the output of Slurm 22.05; the tests hold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

ENDS = "\x1e"  # before each record of squeue: a comment may hold line breaks
BETWEEN = "\x1f"
QUEUE = ENDS + BETWEEN.join(("%F", "%K", "%A", "%T", "%r", "%j", "%k"))  # what users write stands last

NOT_ENDED = {"PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "STOPPED"}


@dataclass(frozen=True)
class Task:
    """One task of an array, or a plain job, that squeue lists: one that waits, runs or is about to end.

    Args:
        job: the array's id, or the plain job's.
        index: within the array; None for a plain job.
        state: in full, as in `man squeue`, JOB STATE CODES: PENDING, RUNNING, …
        reason: why it waits: Dependency, DependencyNeverSatisfied, Resources, …
        id: its own, as in SLURM_JOB_ID; the array's while it waits with others.
    """

    job: int
    index: int | None
    state: str
    reason: str
    comment: str
    name: str
    id: int = 0

    def __str__(self) -> str:
        """What scancel and scontrol call it. Its own id would not do: that of one task is the array's, and means all."""
        return f"{self.job}" if self.index is None else f"{self.job}_{self.index}"


@dataclass(frozen=True)
class Ended:
    """How a job ended, as the accounting has it.

    Args:
        state: COMPLETED, FAILED, TIMEOUT, CANCELLED, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, …
        exit_code: its own and the signal that killed it: `7:0`, `0:9`.
    """

    state: str
    exit_code: str


@dataclass(frozen=True)
class Limits:
    """What the cluster's configuration says.

    Args:
        max_array_size: one more than the greatest index of an array.
        accounting: whether sacct can say how a job ended.
        enforced: what a submission must satisfy (AccountingStorageEnforce): associations, limits, qos, …
    """

    max_array_size: int
    accounting: bool
    version: str
    cluster: str
    enforced: tuple[str, ...]


@dataclass(frozen=True)
class Association:
    """An account that the user may submit with, and the qualities of service that go with it."""

    account: str
    qos: tuple[str, ...]


def parse_queue(text: str) -> list[Task]:
    """The tasks that squeue printed in the format QUEUE, without --array.

    Those of an array that wait together are one record, expanded here: `squeue --array` of Slurm 22.05 loses the last
    one of indices that are evenly spaced (0-64:2).
    """
    records = [record.removesuffix("\n").split(BETWEEN, 6) for record in text.split(ENDS)]
    return [task for record in records if len(record) == 7 for task in _queued(*record)]


def _queued(job: str, index: str, own: str, state: str, reason: str, name: str, comment: str) -> Iterator[Task]:
    ranges = index.partition("%")[0]
    for each in [None] if index == "N/A" else parse_ranges(ranges):
        yield Task(
            job=int(job),
            index=each,
            state=state,
            reason=reason,
            comment="" if comment == "(null)" else comment,
            name=name,
            id=int(own),
        )


def parse_ended(text: str) -> dict[tuple[int, int | None], Ended]:
    """The tasks that are over, in sacct's lines `JobID|State|ExitCode`."""
    found = {}
    for line in text.splitlines():
        name, state, exit_code = line.split("|")
        word = state.split()[0] if state else ""  # CANCELLED by UID
        if word and word not in NOT_ENDED:
            found.update({task: Ended(word, exit_code) for task in _tasks(name)})
    return found


def _tasks(name: str) -> Iterator[tuple[int, int | None]]:
    """The tasks in a JobID of sacct's: `12`, `12_3`, or `12_[0-3,7%2]` for those of an array that never started."""
    match = re.fullmatch(r"(\d+)(?:_(?:(\d+)|\[([\d,:-]+)(?:%\d+)?\]))?", name)
    if match is None:
        return  # 12+0, part of a job of several kinds: none of ours is
    job, index, ranges = match.groups()
    if ranges:
        yield from ((int(job), each) for each in parse_ranges(ranges))
    else:
        yield int(job), None if index is None else int(index)


def parse_ranges(text: str) -> list[int]:
    """0, 1, 2, 3, 7, 8, 10 and 12 of `0-3,7,8-12:2`."""
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found.extend(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` of 0, 1, 2, 3 and 7, as sbatch's --array takes it."""
    parts = []
    for _, group in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(parts)


def parse_limits(text: str) -> Limits:
    """The limits in what `scontrol show config` prints."""
    values = {key.strip(): value.strip() for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals}
    enforced = values.get("AccountingStorageEnforce", "none")
    return Limits(
        max_array_size=int(values["MaxArraySize"]),
        accounting=values.get("AccountingStorageType", "").endswith(("slurmdbd", "mysql")),
        version=values.get("SLURM_VERSION", "unknown"),
        cluster=values.get("ClusterName", "unknown"),
        enforced=() if enforced in ("none", "(null)") else tuple(enforced.split(",")),
    )


def parse_associations(text: str) -> list[Association]:
    """Those in sacctmgr's lines `Account|QOS`."""
    pairs = [line.split("|") for line in text.splitlines() if line.count("|") == 1]
    return [Association(account, tuple(name for name in qos.split(",") if name)) for account, qos in pairs]
