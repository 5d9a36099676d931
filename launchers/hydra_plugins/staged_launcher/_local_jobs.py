"""One stage as a process of its own, through submitit's local executor."""

import contextlib
import signal
from typing import Any, Iterator

from hydra.core.utils import env_override

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
