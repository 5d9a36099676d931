"""The only caller of Slurm's client programs.

Every call has a time-out, because the programs wait for a controller that is
down, for minutes. Nothing here knows experiments.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from cruijff_kit.errors import CruijffKitError
from cruijff_kit.slurm_output import (
    QUEUE, Association, Ended, Jobs, Limits, Task, parse_associations, parse_ended, parse_jobs, parse_limits,
)  # fmt: skip

TIMEOUT_S = 30.0
PING_S = 10.0
START_S = 120  # for prolog and job of run_now, once it has a node

# What sbatch reads from SBATCH_x, srun reads from SLURM_x: man sbatch, man srun, "INPUT ENVIRONMENT VARIABLES".
SAME_FOR_SRUN = (
    "ACCOUNT", "CLUSTERS", "CONSTRAINT", "EXCLUSIVE", "GPUS", "GPUS_PER_NODE", "GRES", "MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE",
    "PARTITION", "QOS", "RESERVATION", "TIMELIMIT",
)  # fmt: skip

BUSY = ("Requested nodes are busy", "Immediate execution impossible")  # what `srun --immediate` says of a cluster that is full
OVER_ALREADY = ("Invalid job id specified", "Job/step already completing or completed")


# Options of sbatch that srun does not know, or takes otherwise.
SBATCH_ONLY = tuple(
    f"--{name}" for name in (
        "array", "batch", "dependency", "error", "export-file", "get-user-env", "kill-on-invalid-dep", "no-requeue", "open-mode", "output",
        "requeue", "wait", "wait-all-nodes",
    )
)  # fmt: skip


class SlurmError(CruijffKitError):
    """A program of Slurm's is missing, does not answer, or refused: Slurm's own words, whole."""


class SlurmBusy(SlurmError):
    """No node became free in time."""


def find(program: str) -> str:
    """Where a program of Slurm's lies.

    Raises:
        SlurmError: it is not on PATH.
    """
    path = shutil.which(program)
    if path is None:
        raise SlurmError(_missing(program))
    return path


def _missing(program: str) -> str:
    return f"{program} was not found: is this a login node of the cluster? Slurm's programs must be on PATH"


def call(words: Sequence[str], timeout_s: float = TIMEOUT_S, pass_fds: Sequence[int] = ()) -> str:
    """What a program of Slurm's prints.

    Raises:
        SlurmError: it is missing, takes longer than `timeout_s`, or exits with another code than 0.
    """
    return _succeed(words, timeout_s, pass_fds).stdout


def _succeed(words: Sequence[str], timeout_s: float, pass_fds: Sequence[int] = (), text: str | None = None) -> subprocess.CompletedProcess[str]:
    done = _finish(words, timeout_s, pass_fds, text)
    if done.returncode:
        raise SlurmError(_refusal(words[0], done))
    return done


def _finish(words: Sequence[str], timeout_s: float, pass_fds: Sequence[int] = (), text: str | None = None) -> subprocess.CompletedProcess[str]:
    """The process, with whatever exit code; `text` is its standard input."""
    program = words[0]
    try:
        return subprocess.run(
            words, env=environment(program), pass_fds=pass_fds, timeout=timeout_s, capture_output=True,
            input="" if text is None else text, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode("utf-8", "replace") if isinstance(late.stderr, bytes) else late.stderr or ""
        more = _without_prefix(program, said) or "its controller may be down: see `scontrol ping`, or try again later"
        raise SlurmError(f"Slurm does not answer ({program} took more than {timeout_s:g} s): {more}") from None
    except FileNotFoundError:
        raise SlurmError(_missing(program)) from None
    except OSError as error:
        raise SlurmError(f"{program} cannot be run: {error.strerror}") from None


def environment(program: str) -> dict[str, str]:
    """The environment of one of Slurm's programs: without the user's settings that change what it prints or where it runs."""
    inherited = dict(os.environ)
    outside = {name: value for name, value in inherited.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    if program in ("squeue", "sacct"):
        shown = {name: value for name, value in inherited.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
        return {**shown, "SLURM_BITSTR_LEN": "0"}  # ranges of indices are cut off after 64 letters otherwise
    if program == "srun":  # inside a job it would become a step of that job, with its resources
        chosen = {f"SLURM_{name}": inherited[f"SBATCH_{name}"] for name in SAME_FOR_SRUN if f"SBATCH_{name}" in inherited}
        return {**outside, **chosen}
    if program == "sbatch":  # inside a job it would take over options of that job
        return {**outside, **{name: inherited[name] for name in ("SLURM_CLUSTERS",) if name in inherited}}
    return inherited


def _refusal(program: str, done: subprocess.CompletedProcess[str]) -> str:
    words = _without_prefix(program, done.stderr) or done.stdout.strip()
    if not words:
        return f"{program} failed with exit code {done.returncode} and said nothing"
    if "Unable to contact slurm controller" in words:
        return f"Slurm does not answer ({program}): {words}"
    return f"{program}: error: {words}"


def _without_prefix(program: str, text: str) -> str:
    return re.sub(rf"^{re.escape(program)}: (error: |fatal: )?", "", text.strip(), flags=re.MULTILINE)


def queue() -> list[Task]:
    """My tasks that wait, run or are about to end; those of an array one by one."""
    return _mine().live


def jobs(timeout_s: float = TIMEOUT_S) -> Jobs:
    """Those of queue(), and those of mine that ended a short while ago; in one call."""
    return _mine("--states=all", timeout_s=timeout_s)


def _mine(*words: str, timeout_s: float = TIMEOUT_S) -> Jobs:
    return parse_jobs(call(["squeue", "--noheader", f"--user={os.getuid()}", *words, f"--Format={QUEUE}"], timeout_s))


def is_here() -> bool:
    """Whether this machine can ask a Slurm."""
    return shutil.which("squeue") is not None


def ended(jobs: Iterable[int], timeout_s: float = TIMEOUT_S) -> dict[tuple[int, int | None], Ended]:
    """How those tasks of `jobs` ended that the accounting knows to be over; nothing where the cluster keeps none.

    It lags behind by seconds, and does not know a job yet that was just submitted. Of an array, an entry (job, None) is
    provisional: it is one task, or all that never started, until the accounting knows their indices too.
    """
    wanted = ",".join(str(job) for job in sorted(set(jobs)))
    if not wanted:
        return {}
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={wanted}", "--format=JobID,State,ExitCode"]
    done = _finish(words, timeout_s)
    if "accounting storage is disabled" in done.stderr:
        return {}
    if done.returncode:
        raise SlurmError(_refusal("sacct", done))
    return parse_ended(done.stdout)


def limits() -> Limits:
    """The cluster's limits, from its controller."""
    return parse_limits(call(["scontrol", "show", "config"]))


def ping() -> str:
    """Which controller answers, in Slurm's words; at once, where other programs retry for 9 s.

    Raises:
        SlurmError: none does.
    """
    done = _finish(["scontrol", "ping"], PING_S)
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("Slurmctld(")]
    up = [line for line in lines if line.endswith("is UP")]
    if up:
        return up[0]
    raise SlurmError(f"Slurm does not answer: {', '.join(lines)}" if lines else _refusal("scontrol", done))


def test_only(options: Sequence[str]) -> None:
    """Asks Slurm whether it would ever start a job with these options of srun's: starts nothing.

    Slurm checks partition, GPUs, memory, nodes and time; account and qos where the cluster enforces associations; no dependency.

    Raises:
        SlurmError: it would not, and why.
    """
    _succeed(["srun", "--test-only", *options, "true"], TIMEOUT_S)


def test_script(script: str, options: Sequence[str] = ()) -> str:
    """What `sbatch --test-only` says of a batch script, which it accepts but does not start.

    Raises:
        SlurmError: it refuses; see test_only.
    """
    return _without_prefix("sbatch", _succeed(["sbatch", "--test-only", *options], TIMEOUT_S, text=script).stderr)


def run_now(options: Sequence[str], words: Sequence[str], wait_s: int) -> str:
    """What `words` print as a job with these options of srun's, which waits `wait_s` for a node and then gives up.

    Raises:
        SlurmBusy: no node was free.
        SlurmError: Slurm refused, or the job failed; with its last words.
    """
    command = ["srun", f"--immediate={wait_s}", *options, *words]
    done = _finish(command, wait_s + START_S)
    if done.returncode:
        kind = SlurmBusy if any(reason in done.stderr for reason in BUSY) else SlurmError
        raise kind(_refusal("srun", done))
    return done.stdout


def associations(cluster: str) -> list[Association]:
    """The accounts that I may use on the cluster, as the accounting has them."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise SlurmError(f"this machine has no name for your user id {os.getuid()}") from None
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", f"cluster={cluster}", "format=Account,QOS"]
    return parse_associations(call(words))


def cancel(jobs: Sequence[str]) -> None:
    """Ends jobs, arrays (`123`) or tasks (`123_4`); those that are over already are no error."""
    if not jobs:
        return
    done = _finish(["scancel", *jobs], TIMEOUT_S)
    wrong = [line for line in done.stderr.splitlines() if not line.rstrip().endswith(OVER_ALREADY)]
    if done.returncode and (wrong or not done.stderr.strip()):
        raise SlurmError(_refusal("scancel", done))


def requeue(job: str) -> None:
    """Has Slurm start a running job again, named as in SLURM_JOB_ID or `123_4`.

    By name, and not by SLURM_JOB_ID: one task of each array has the array's id, and with that Slurm requeues them all.
    """
    task = _find(job)
    call(["scontrol", "requeue", str(task) if task else job])


def state(job: str) -> str | None:
    """Of a job named as in SLURM_JOB_ID or `123_4`; None when it is over, or not known."""
    task = _find(job)
    return task.state if task else None


def _find(job: str) -> Task | None:
    done = _finish(["squeue", "--noheader", f"--jobs={job}", f"--Format={QUEUE}"], TIMEOUT_S)
    if done.returncode and "Invalid job id specified" not in done.stderr:
        raise SlurmError(_refusal("squeue", done))
    return next((task for task in parse_jobs(done.stdout).live if job in (str(task), str(task.id))), None)
