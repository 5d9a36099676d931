"""What runs in a task of a Slurm array: one stage of the work at the task's index, from the launch's frozen files."""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from cruijff_kit import slurm

from ._job import run_frozen
from ._stages import Stage, stage_config


@dataclass(frozen=True)
class ArrayStage:
    """A callable that all tasks of an array share; raises what the task function raises.

    `places` says where in the file `configs` the pickled config of each index lies: offset and length
    in bytes. What is edited on disk after the launch has no effect on either file.
    """

    context: str
    configs: str
    places: Dict[int, Tuple[int, int]]
    stage: Stage
    stage_key: str
    sys_path: Tuple[str, ...]
    max_restarts: int

    def __call__(self) -> JobReturn:
        _go_on_later_when_told(self.max_restarts)
        sys.path.extend(path for path in self.sys_path if path not in sys.path)
        return run_frozen(Path(self.context).read_bytes(), self._config)

    def _config(self) -> DictConfig:
        offset, length = self.places[int(os.environ["SLURM_ARRAY_TASK_ID"])]
        with open(self.configs, "rb") as file:
            file.seek(offset)
            config = pickle.loads(file.read(length))
        return stage_config(config, self.stage, self.stage_key)


class RestartedTooOften(RuntimeError):
    """A stage was preempted, lost its node or ran out of time once more than it may be."""


def _go_on_later_when_told(max_restarts: int) -> None:
    """Have the job requeued when Slurm says that its time is nearly up, or that it is being preempted.

    submitit's own handler takes every signal for a time-out in jobs of ten minutes or less, and
    keeps a count of its own (submitit 1.5, SignalHandler); Slurm counts all restarts itself.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if restarts > max_restarts:
        raise RestartedTooOften(f"Slurm has restarted this job {restarts} times: max_num_timeout is {max_restarts}")

    def told(signum: int, frame: Any) -> None:
        _requeue(signum, restarts, max_restarts)

    if int(os.environ.get("SLURM_PROCID", 0)) == 0:
        signal.signal(signal.SIGUSR2, told)
        signal.signal(signal.SIGTERM, told)
    else:  # the first task speaks for all
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _requeue(signum: int, restarts: int, max_restarts: int) -> None:
    """Requeue this job and leave, if it may begin again and nobody has cancelled it."""
    job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
    for other in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # once is enough
    # SIGTERM comes with preemption, and then the job runs on for its grace time; and with scancel, and then it ends
    if signum == signal.SIGTERM and slurm.state(job) != "RUNNING":
        raise SystemExit(128 + signum)
    if restarts >= max_restarts:
        raise RestartedTooOften(
            f"out of time, or preempted, after {restarts} restarts: timeout_min is too short, or max_num_timeout"
        )
    print(f"out of time, or preempted: requeueing job {job} (restart {restarts + 1} of {max_restarts})", flush=True)
    slurm.requeue(job)
    raise SystemExit(128 + signum)
