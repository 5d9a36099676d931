"""`hydra/launcher=staged_local`: the stages of each point on this machine."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Optional, Sequence

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class StagedLocalLauncher(Launcher):
    """Runs the task function once per stage of each point, each time in a process of its own."""

    # says itself what failed, so that a sweeper need not
    reports_failures = True

    def __init__(self, **options: Any) -> None:
        self.options = SimpleNamespace(**{key: _plain(value) for key, value in options.items()})
        self.config: Optional[DictConfig] = None
        self.task_function: Optional[TaskFunction] = None
        self.hydra_context: Optional[HydraContext] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take Hydra's part, and raise on options that cannot be, before anything is composed."""
        from ._hooks import load_hooks
        from ._stages import read_stages

        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function
        self.stages = read_stages(self.options.stages)
        self.hooks = load_hooks(self.options.hooks)
        limit = self.options.max_parallel
        if limit is not None and limit < 1:
            where = "hydra.launcher.max_parallel"
            raise CompactHydraException(f"{where}\n  expected 1 or more, or null, found {limit}")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every point; returns their results in order, failed ones included.

        Raises ExtrasFailed when nothing failed but a job of the application's own beside the points.
        """
        from ._failures import ExtrasFailed
        from ._hooks import prepare
        from ._points import compose_point, plan, point_returns
        from ._report import print_failures

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [
            compose_point(self.hydra_context, self.config, overrides, initial_job_idx + i)
            for i, overrides in enumerate(job_overrides)
        ]
        prepared = prepare(self.hooks, configs)
        works = plan(prepared, self.stages, self.options.stages_key, self.options.name_key)
        self._run(works)
        print_failures(works)
        returns = point_returns(works, configs)
        failed = [work for work in works if work.failed]
        if failed and not any(work.points for work in failed):
            raise ExtrasFailed(f"{failed[0].name} failed, and no point did", returns)
        return returns

    def _run(self, works: List[Any]) -> None:
        from ._display import make_display
        from ._gpus import visible_gpus
        from ._job import freeze_context
        from ._local_run import LocalOptions, LocalRun, make_slots

        _make_sweep_dir(self.config)
        options = LocalOptions(
            context=freeze_context(self.task_function, self.hydra_context),
            stage_key=self.options.stage_key,
            submitit_folder=self.options.submitit_folder,
            poll_s=self.options.poll_s,
        )
        slots = make_slots(visible_gpus(os.environ), self.options.max_parallel)
        LocalRun(works, slots, options).run(make_display(works, self.hooks))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _make_sweep_dir(config: DictConfig) -> None:
    """Make the sweep's folder, with the mode that hydra.sweep.mode may name, as Hydra's launchers do."""
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    if "mode" in config.hydra.sweep:
        folder.chmod(int(str(config.hydra.sweep.mode), 8))
