"""What runs in a task of a Slurm array: one stage of the work at the task's index, from the launch's frozen files."""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from cruijff_kit import slurm
from cruijff_kit.errors import Interrupted
from cruijff_kit.launches import Slot

from ._job import LeftForLater, run_frozen
from ._slurm_results import result_of
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
    max_restarts: Optional[int]

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


class Ended(Interrupted, RuntimeError):
    """Slurm, or srun, told the job to end."""


def _go_on_later_when_told(max_restarts: Optional[int]) -> None:
    """Have the job requeued when Slurm says that its time is nearly up, or that it is being preempted.

    submitit's own handler takes every signal for a time-out in jobs of ten minutes or less, and
    keeps a count of its own (submitit 1.5, SignalHandler); Slurm counts all restarts itself. Where no
    number is set nothing is requeued from here, and Slurm may restart the job as often as it does.
    """
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if max_restarts is not None and restarts > max_restarts:
        raise RestartedTooOften(f"Slurm has restarted this job {restarts} times: max_num_timeout is {max_restarts}")

    def told(signum: int, frame: Any) -> None:
        _leave(signum, restarts, max_restarts or 0)

    first = int(os.environ.get("SLURM_PROCID", 0)) == 0  # it speaks for all, and srun ends the others with it
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, told if first else signal.SIG_IGN)


def _leave(signum: int, restarts: int, max_restarts: int) -> None:
    """Requeue this job and leave, if it may begin again and nobody has cancelled it."""
    if signum == signal.SIGUSR2 and restarts >= max_restarts:
        print(f"little time is left, and after {restarts} restarts there is no other: going on to the end", flush=True)
        return
    for other in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # once is enough
    job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
    # SIGTERM comes with preemption, and then the job runs on for its grace time; and with scancel and the time
    # limit, and then it ends
    if signum == signal.SIGTERM and slurm.state(job) != "RUNNING":
        raise Ended("cancelled, or out of time: Slurm told it to end (SIGTERM)")
    failed = _failure_of_another()
    if failed:
        raise Ended(f"another process of this job has failed: {failed}")
    if restarts >= max_restarts:
        raise RestartedTooOften(f"preempted after {restarts} restarts: max_num_timeout is {max_restarts}")
    print(f"out of time, or preempted: requeueing job {job} (restart {restarts + 1} of {max_restarts})", flush=True)
    slurm.requeue(job)
    raise LeftForLater(128 + signum)


def _failure_of_another() -> Optional[str]:
    """Why another process of this job has failed, if one has: srun then ends the others by SIGTERM, and the job is RUNNING."""
    job, index = int(os.environ["SLURM_ARRAY_JOB_ID"]), int(os.environ["SLURM_ARRAY_TASK_ID"])
    how = result_of(Slot(os.environ["SUBMITIT_FOLDER"], job, index, int(os.environ.get("SLURM_NTASKS", 1))))
    return how[2] if how and how[1] is not None else None
