"""Why a stage failed, from the end of its job's log; and what may mend a training that did not fit in memory.

A log is what Slurm, submitit, torchrun, torchtune and Python print, in this order of belief: what
Slurm says that it did, what was raised first, and only then any other last words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cruijff_kit import log_text, tracebacks
from cruijff_kit.errors import printable
from cruijff_kit.progress import Bar
from cruijff_kit.tracebacks import Raised

MAX_LETTERS = 200
END_LETTERS = 1000  # of a line that are looked at, at both of its ends


@dataclass(frozen=True)
class Failure:
    """Why a stage failed.

    Args:
        kind: memory, time, node, cancelled or error.
        line: what says so, in one line that a terminal may show.
    """

    kind: str
    line: str

    @property
    def on_gpu(self) -> bool:
        """Whether it was a GPU's memory that did not do: a smaller batch needs less of it."""
        return self.kind == "memory" and re.search(r"cuda|cublas|nccl|\bhip\b|\bxpu\b", self.line, re.IGNORECASE) is not None


# slurmstepd has the node's name where several slurmds run on one machine
_SLURM = r"(?:slurmstepd(?:-\S+)?|srun): (?:error: )?"
_BY_SLURM = {
    kind: re.compile(f"{_SLURM}.{{0,200}}(?:{what})", re.IGNORECASE)
    for kind, what in {
        "memory": r"oom[-_]kill event|exceeded (?:\w+ )?memory limit|out of memory",
        "time": "due to time limit",
        "node": "due to node failure|node failure on",
        "cancelled": "due to preemption",
    }.items()
}
_REQUEUED = re.compile(rf"{_SLURM}.{{0,200}}DUE TO JOB REQUEUE")
# scancel's doing, or srun's own when one of its tasks has failed
_CANCELLED = re.compile(rf"{_SLURM}\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ \*\*\*")
_TASK_FAILED = re.compile(r"srun: error: .{0,200}tasks? [\d,-]+: .+")

# each as it is shown: without the module before it, and without the advice behind it
_MEMORY = [
    re.compile(r"\b\w{1,30} out of memory\.(?: Tried to allocate [\d.]+ \w+)?"),
    re.compile(r"CUDA error: out of memory"),
    re.compile(r"CUDA error: CUBLAS_STATUS_ALLOC_FAILED\b[^`\n]*(?:`[^`\n(]*)?"),
    re.compile(r"\b\w{1,30}: can't allocate memory: you tried to allocate \d+ bytes"),
    re.compile(r"\b\w{0,30}MemoryError\b.*"),
    re.compile(r"(?:\b\w{1,30}: )?\[Errno 12\] .*"),
    re.compile(r"\b\w{0,30}(?:cuda|nccl|cublas)\b.{0,200}out[ -]of[ -]memory\b", re.IGNORECASE),
    re.compile(r"^.*CUBLAS_STATUS_ALLOC_FAILED.*"),
]
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_TASK_ERROR = re.compile(r"(?:run_\d+|base) \S+: (?:error|cancelled): .*")

# they say that something else has failed
_WRAPPER = re.compile(
    r"CruijffKitError: \S+ exited with -?\d+: |ChildFailedError\b|CalledProcessError\b|(?:Base)?ExceptionGroup\b"
    r"|\w+: Caught \w+ in (?:DataLoader worker|replica|pin memory)"
)
_OTHER_RANK = re.compile(
    r"Dist(?:Backend|Network|Store)Error\b|Connection (?:closed|reset) by peer|Broken pipe|NCCL|ProcessGroup"
    r"|DataLoader worker \(pid.*(?:signal: Terminated|exited unexpectedly)"
)
_TOLD_TO_END = re.compile(r"Ended: (?:cancelled|out of time)|KeyboardInterrupt\b|SignalException\b")
_LOOKUPS = ("KeyError", "IndexError", "StopIteration")

_LAST_WORDS = [
    re.compile(r"Signal (?!15\b)\d+ \(\w+\) received by PID \d+"),  # of torchrun's table; SIGTERM it sent itself
    re.compile(r"Fatal Python error: .*|\b\w[\w./: -]{0,80}(?:Segmentation fault|Bus error|\bKilled)\b.*"),
    re.compile(r"(?:execve\(\): .*|^.*: command not found)"),
    re.compile(r"(?<=CruijffKitError: )\S+ exited with -?\d+: .*"),
    re.compile(r"(?<!srun: )\berror: .*", re.IGNORECASE),
    _TASK_FAILED,
]


def telling(text: str) -> Failure | None:
    """What the end of a log says of why its job failed; None if it says nothing.

    Only what comes after the last start counts, and of a job that waits for its next start nothing is said.
    """
    lines = [_cut(line) for line in log_text.lines(log_text.last_start(text))]
    requeued = max((i for i, line in enumerate(lines) if _REQUEUED.search(line)), default=-1)
    lines = lines[requeued + 1 :]  # of the old processes' last words, and of a new start where a site appends to logs
    cancelled = next((match for match in map(_CANCELLED.search, lines) if match), None)
    before = lines[: lines.index(cancelled.string)] if cancelled else lines  # what is said afterwards comes of it
    found = _ended_by_slurm(lines) or _failed(before)
    if found is None and requeued < 0:
        found = _last_words(before, [_TASK_FAILED]) if cancelled else _told_to_end(lines) or _last_words(lines, _LAST_WORDS)
    return found or (_shown("cancelled", cancelled[0]) if cancelled else None)


def offer(batch_size: int, accumulation: int) -> tuple[int, int] | None:
    """The next smaller batch_size and the gradient_accumulation_steps that keep their product; None for a batch of one."""
    smaller = next((size for size in range(batch_size - 1, 0, -1) if batch_size % size == 0), None)
    return (smaller, accumulation * (batch_size // smaller)) if smaller else None


def _cut(line: str) -> str:
    """Both ends of a line: what tells something stands at its beginning, or behind a bar at its end."""
    return line if len(line) <= 2 * END_LETTERS else f"{line[:END_LETTERS]} {line[-END_LETTERS:]}"


def _ended_by_slurm(lines: Sequence[str]) -> Failure | None:
    """What Slurm says that it did: it knows, whatever the process said when it was hit."""
    said = [line for line in lines if "slurmstepd" in line or "srun" in line]
    for kind, pattern in _BY_SLURM.items():
        match = next(filter(None, map(pattern.search, said)), None)
        if match:
            return _shown(kind, match.string[match.start() :])
    return None


def _failed(lines: Sequence[str]) -> Failure | None:
    """What was raised, or what an evaluation says of a task."""
    chains = tracebacks.chains(lines)
    said = [line for line in lines if _TASK_ERROR.match(line)]
    raised = [raised for chain in chains for raised in chain]
    texts = [*said, *(text for each in raised for text in (str(each), *each.message))]
    memory = next(filter(None, map(_memory, texts)), None)
    if memory:
        return memory
    roots = [str(root) for root in map(_root, chains) if root]
    disk = next((line for line in [*roots, *lines] if _DISK.search(line)), None)
    if disk or said:
        return _shown("error", disk or said[0])
    own = [root for root in roots if not _OTHER_RANK.search(root)]
    return _shown("error", own[-1] if own else roots[0]) if roots else None


def _root(chain: Sequence[Raised]) -> Raised | None:
    """The one that the others came of; None if all only pass on what failed elsewhere.

    That is what something was first raised `from`, and else the first; but a look-up that failed, and was
    handled, says less than what was made of it.
    """
    own = [raised for raised in chain if not (_WRAPPER.match(str(raised)) or _TOLD_TO_END.match(str(raised)))]
    cause = next((i - 1 for i, raised in enumerate(own) if i and raised.link == tracebacks.FROM), 0)
    if cause == 0 and len(own) > 1 and own[1].link == tracebacks.DURING and own[0].name in _LOOKUPS:
        cause = 1
    return own[cause] if own else None


def _memory(text: str) -> Failure | None:
    for pattern in _MEMORY:
        match = pattern.search(text)
        if match:
            return _shown("memory", match[0])
    return None


def _told_to_end(lines: Sequence[str]) -> Failure | None:
    raised = [str(raised) for chain in tracebacks.chains(lines) for raised in chain]
    told = next(filter(_TOLD_TO_END.match, raised), None)
    return _shown("cancelled", told) if told else None


def _last_words(lines: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> Failure | None:
    """The last line that the first of the patterns finds."""
    for pattern in patterns:
        match = next(filter(None, map(pattern.search, reversed(lines))), None)
        if match:
            return _memory(match[0]) or _shown("error", match[0])
    return None


def _shown(kind: str, text: str) -> Failure:
    """The text without the names of programs before it, without stars and a bar that stands for the reason, and cut."""
    text = re.sub(rf"^{_SLURM}(?!.*\btasks? )", "", text)
    text = re.sub(r"^Ended: another process of this job has failed: ", "", text)
    head, _, reason = text.partition(" exited with ")
    if Bar.of(reason):
        text = f"{head} exited with {reason.partition(':')[0]}"
    line = printable(text.replace("***", "").strip().rstrip(".").strip())
    return Failure(kind, line if len(line) <= MAX_LETTERS else f"{line[: MAX_LETTERS - 1]}…")
