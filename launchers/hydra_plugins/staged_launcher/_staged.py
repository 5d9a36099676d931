"""What the staged launchers have in common: from a sweep's overrides to works, and from works to results."""

import abc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Optional, Sequence, Tuple

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class StagedLauncher(Launcher):
    """Runs the task function once per stage of each point; where and when is up to its subclasses."""

    # says itself what failed, so that a sweeper need not
    reports_failures = True
    # composes every point before anything starts, so that a sweeper need not
    composes_first = True

    # what a stage may hold beside `needs`
    stage_options: Tuple[str, ...] = ()

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
        self.stages = read_stages(self.options.stages, ("needs", *self.stage_options))
        self.hooks = load_hooks(self.options.hooks)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every point; returns their results in order, failed ones included.

        Raises ExtrasFailed when nothing failed but a job of the application's own beside the points.
        """
        from ._compose import PointComposer
        from ._failures import ExtrasFailed
        from ._hooks import prepare
        from ._points import plan, point_returns
        from ._report import print_failures

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        composer = PointComposer(self.hydra_context, self.config)
        configs = [composer.compose(point, initial_job_idx + i) for i, point in enumerate(job_overrides)]
        prepared = prepare(self.hooks, configs)
        works = plan(prepared, self.stages, self.options.stages_key, self.options.name_key)
        self.run(works)
        print_failures(works)
        returns = point_returns(works, configs)
        failed = [work for work in works if work.failed]
        if failed and not any(work.points for work in failed):
            raise ExtrasFailed(f"{failed[0].name} failed, and no point did", returns)
        return returns

    @abc.abstractmethod
    def run(self, works: List[Any]) -> None:
        """Run the stages of the works, and leave in each part how it ended."""

    def make_sweep_dir(self) -> None:
        """Make the sweep's folder, with the mode that hydra.sweep.mode may name, as Hydra's launchers do."""
        sweep = self.config.hydra.sweep
        folder = Path(str(sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        if "mode" in sweep:
            folder.chmod(int(str(sweep.mode), 8))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
