"""What Slurm's client programs print and take, and what it means: pure parsers, which call nothing.

Written against the output of Slurm 22.05; the tests hold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

BETWEEN = "\x1f"
ENDS = "\x1e\n"  # a comment may hold line breaks
FIELDS = ("ArrayJobID", "ArrayTaskID", "JobID", "State", "Reason", "RestartCnt", "exit_code", "Command", "Name", "Comment")
# Size 0 prints each whole, with no padding. --format has no RestartCnt, and no exit_code.
QUEUE = ",".join(f"{name}:0{BETWEEN if name != FIELDS[-1] else ENDS[0]}" for name in FIELDS)

# Of man squeue, JOB STATE CODES. All others, of later versions of Slurm too, are of a job that waits, runs or is about to end.
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task of an array, or a plain job, that squeue lists: one that waits, runs or is about to end.

    Args:
        job: the array's id, or the plain job's.
        index: within the array; None for a plain job.
        state: in full, as in `man squeue`, JOB STATE CODES: PENDING, RUNNING, …
        reason: why it waits: Dependency, DependencyNeverSatisfied, Resources, …
        id: its own, as in SLURM_JOB_ID; the array's while it waits with others.
        command: the path of its batch script as it was submitted, and the script's arguments; empty for a script that
            had no path (`sbatch --wrap`, or from a pipe).
        restarts: how often Slurm has started it again.
    """

    job: int
    index: int | None
    state: str
    reason: str
    comment: str
    name: str
    id: int = 0
    command: str = ""
    restarts: int = 0

    def __str__(self) -> str:
        """What scancel and scontrol call it. Its own id would not do: that of one task is the array's, and means all."""
        return f"{self.job}" if self.index is None else f"{self.job}_{self.index}"


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        state: COMPLETED, FAILED, TIMEOUT, CANCELLED, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, …
        exit_code: its own and the signal that killed it: `7:0`, `0:9`. As sacct has it, 9:0 is also that of exit code 137.
        by: the user id of who cancelled it; only the accounting knows.
        reason: squeue's: NonZeroExitCode, TimeLimit, NodeDown, JobLaunchFailure (of a log that could not be made, say), or
            what it waited for when it was cancelled: Dependency, Resources, …; only the controller knows.
    """

    state: str
    exit_code: str
    by: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Jobs:
    """What the controller knows: the tasks that are not over, and how those ended that it has not forgotten yet.

    It forgets after MinJobAge, five minutes where nothing is set. A task of an array that is cancelled while it waits with others
    is forgotten at once, by the accounting too.
    """

    live: list[Task]
    ended: dict[tuple[int, int | None], Ended]


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


def parse_jobs(text: str) -> Jobs:
    """The jobs that squeue printed in the format QUEUE, without --array.

    Tasks of an array that wait together are one record, expanded here: `squeue --array` of Slurm 22.05 loses the last
    one of indices that are evenly spaced (0-64:2).
    """
    jobs = Jobs([], {})
    for record in text.split(ENDS):
        values = record.split(BETWEEN, len(FIELDS) - 1)
        if len(values) == len(FIELDS):
            _add(jobs, dict(zip(FIELDS, values, strict=True)))
    return jobs


def _add(jobs: Jobs, record: dict[str, str]) -> None:
    job, index, state, reason = int(record["ArrayJobID"]), record["ArrayTaskID"], record["State"], record["Reason"]
    indices = [None] if index == "N/A" else parse_ranges(index.partition("%")[0])
    if state in OVER:
        ended = Ended(state, _exit_code(int(record["exit_code"])), reason=reason)
        jobs.ended.update(((job, each), ended) for each in indices)
        return
    comment, command = ("" if record[name] == "(null)" else record[name] for name in ("Comment", "Command"))
    own, restarts = int(record["JobID"]), int(record["RestartCnt"])
    jobs.live.extend(Task(job, each, state, reason, comment, record["Name"], own, command, restarts) for each in indices)


def _exit_code(status: int) -> str:
    """A wait status as sacct shows it: an exit code above 128, a shell's for a signal, without the 128."""
    code = status >> 8
    return f"{code - 128 if code >= 128 else code}:{status & 0x7F}"


def parse_ended(text: str) -> dict[tuple[int, int | None], Ended]:
    """The tasks that are over, in sacct's lines `JobID|State|ExitCode`."""
    found = {}
    for line in text.splitlines():
        name, state, exit_code = line.split("|")
        word, _, by = state.partition(" by ")  # CANCELLED by UID
        if word in OVER:
            ended = Ended(word, exit_code, int(by) if by.isdigit() else None)
            found.update(dict.fromkeys(_tasks(name), ended))
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
