"""One stage as a process of its own through submitit's local executor; and what came of it."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

from hydra.core.utils import JobReturn, env_override

from ._failures import last_line
from ._job import StageJob
from ._processes import MARK

NO_LIMIT_MIN = 10 * 365 * 24 * 60  # submitit's default for a local job is 2 to 5 minutes


def submit(job: StageJob, folder: str, mark: str) -> Any:
    """Start a job; returns submitit's. Every process that it starts carries the mark."""
    import submitit

    executor = submitit.LocalExecutor(folder)  # one a job: it waits 0.2 s between two submissions
    executor.update_parameters(timeout_min=NO_LIMIT_MIN, stderr_to_stdout=True)
    if job.cuda_visible_devices is not None:
        # not by update_parameters, which takes numbers only and no MIG-... or GPU-...
        executor.parameters.update(gpus_per_node=1, visible_gpus=[job.cuda_visible_devices])
    with env_override({MARK: mark}), _interrupts_held():
        handle = executor.submit(job)
        # folders are named by process number, and an earlier launch may have had this one
        handle.paths.result_pickle.unlink(missing_ok=True)
    return handle


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold SIGINT back, here for a moment and in what is started until it unblocks the signal.

    The terminal's Ctrl-C would otherwise reach the jobs' processes in an order of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outcome(handle: Any) -> Tuple[Optional[JobReturn], Optional[Exception], str]:
    """The result of a job that is over; or the exception, and why in one line."""
    from submitit.core.utils import UncompletedJobError

    if not handle.paths.result_pickle.exists():  # submitit would wait 15 s for it
        why = "its process died without a result (killed, or out of memory?)"
        return None, UncompletedJobError(f"{why}; see {handle.paths.stdout}"), why
    try:
        error = handle.exception()
        if error is None:
            return handle.result(), None, ""
    except Exception as broken:  # a result that cannot be read back
        return None, broken, f"{type(broken).__name__}: {broken}"
    return None, error, last_line(_trace(str(error)))


def _trace(message: str) -> str:
    """The traceback within the message of submitit's FailedJobError."""
    return message.partition("\n----------------------\n")[2].rpartition("\n----------------------\n")[0]


def log_path(handle: Any) -> Path:
    return Path(os.path.abspath(handle.paths.stdout))
