"""What runs in a job's own process: the application's task function, once, on a frozen config."""

import functools
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write


class LeftForLater(SystemExit):
    """Ends a job that will be started again, without a result: it is not over."""


@dataclass(frozen=True)
class StageJob:
    """A callable to submit; returns Hydra's JobReturn, or raises what the task function raised.

    It must raise: submitit, and Slurm behind it, call a job that returns a failure a success, and
    start what depends on it.
    """

    context: bytes
    config: bytes
    sys_path: Tuple[str, ...]
    cuda_visible_devices: Optional[str]

    def __call__(self) -> JobReturn:
        _leave_terminal()
        _set_environment("CUDA_VISIBLE_DEVICES", self.cuda_visible_devices)
        sys.path.extend(path for path in self.sys_path if path not in sys.path)
        return run_frozen(self.context, lambda: pickle.loads(self.config))


def run_frozen(context: bytes, load_config: Callable[[], DictConfig]) -> JobReturn:
    """Run the task function of a frozen context; raises what it raises."""
    task_function, hydra_context, singletons = pickle.loads(context)
    Singleton.set_state(singletons)
    setup_globals()
    # only now: setting the singletons defines the plugins' config classes anew
    return _run(load_config(), task_function, hydra_context)


def freeze_context(task_function: TaskFunction, hydra_context: HydraContext) -> bytes:
    """What every job of a launch shares, as it is now."""
    import cloudpickle

    return cloudpickle.dumps((task_function, hydra_context, Singleton.get_state()))


def freeze_job(context: bytes, config: DictConfig, cuda_visible_devices: Optional[str]) -> StageJob:
    """A job for this config; what is edited on disk after this has no effect on it.

    A job starts as `python -m submitit...`, without the folder of the application's script on its
    path: hence sys_path.
    """
    import cloudpickle

    return StageJob(context, cloudpickle.dumps(config), absolute_sys_path(), cuda_visible_devices)


def absolute_sys_path() -> Tuple[str, ...]:
    """sys.path as it is here, for a job that starts in another folder."""
    return tuple(os.path.abspath(path) for path in sys.path)


def _run(config: DictConfig, task_function: TaskFunction, hydra_context: HydraContext) -> JobReturn:
    import submitit

    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = submitit.JobEnvironment().job_id
    result = run_job(
        task_function=_without_exit(task_function),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=hydra_context,
    )
    _check_picklable(result.return_value)  # raises here when the task function raised
    return result


def _without_exit(task_function: TaskFunction) -> TaskFunction:
    """The task function, where sys.exit ends it and not the job, which would leave no result behind."""

    @functools.wraps(task_function)
    def call(config: DictConfig) -> Any:
        try:
            return task_function(config)
        except LeftForLater:
            raise
        except SystemExit as stop:
            if stop.code in (None, 0):
                return None
            raise RuntimeError(f"the task function exited with {stop.code!r}") from stop

    return call


def _check_picklable(value: Any) -> None:
    """Say so if a result cannot travel back; submitit 1.5 would leave no result and no reason."""
    import cloudpickle

    try:
        cloudpickle.dumps(value)
    except Exception as error:
        kind = type(value).__name__
        raise TypeError(f"the task function returned a {kind} that cannot be pickled") from error


def _set_environment(name: str, value: Optional[str]) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _leave_terminal() -> None:
    """Begin a session of our own: Ctrl-C then comes once, from the launcher, and not from the terminal too.

    The launcher starts jobs with SIGINT blocked, which is inherited until here.
    """
    try:
        os.setsid()
    except PermissionError:  # leads a group already
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
