"""`hydra/sweeper=grid`: every combination of the values of its keys, less the points left out."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

FAILURES_SHOWN = 10


class GridSweeper(Sweeper):
    """Hands a launcher every combination, in batches; raises in the end when any point failed.

    It sets each value of each key once to find what is wrong, where Hydra's BasicSweeper composes
    every point: the sum of the numbers of values against their product. And nothing where the launcher
    composes all points before any starts.
    """

    def __init__(
        self,
        params: Optional[Dict[str, str]] = None,
        exclude: Sequence[Dict[str, Any]] = (),
        max_batch_size: Optional[int] = None,
    ) -> None:
        self.params = params or {}
        self.exclude = [OmegaConf.to_container(e) if OmegaConf.is_config(e) else e for e in exclude]
        self.max_batch_size = max_batch_size
        self.config: Optional[DictConfig] = None
        self.launcher: Optional[Launcher] = None
        self.hydra_context: Optional[HydraContext] = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take Hydra's part and make the launcher."""
        from hydra.core.plugins import Plugins

        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise CompactHydraException(
                f"hydra.sweeper.max_batch_size\n  expected 1 or more, or null, found {self.max_batch_size}"
            )
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: List[str]) -> List[Sequence[JobReturn]]:
        """Launch the grid of the params and these arguments; returns a list of results a batch.

        Raises on a config that does not compose before anything is launched, and when a point failed
        after everything was: the exit code is then 1.
        """
        points = self._points(arguments)
        self._save_config()
        size = self.max_batch_size or len(points)
        returns: List[Sequence[JobReturn]] = []
        extras: List[CompactHydraException] = []
        for start in range(0, len(points), size):
            returns.append(self._launch(points[start : start + size], start, extras))
        self._raise_failures([result for batch in returns for result in batch], extras)
        return returns

    def _points(self, arguments: List[str]) -> List[List[str]]:
        """The overrides of each point, checked."""
        from ._compose import PointComposer
        from ._grid import first_appearances, make_axes, make_points

        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        params = parser.parse_overrides([f"{key}={values}" for key, values in self.params.items()])
        axes = make_axes(params, parser.parse_overrides(arguments), parser.parse_override)
        points = make_points(axes, self.exclude)
        if not self._composed_by_launcher(len(points)):
            composer = PointComposer(self.hydra_context, self.config)
            for point in first_appearances(points):
                composer.compose([choice.override for choice in point], 0)
        log.debug("%d points of a grid of %s", len(points), " x ".join(str(len(axis)) for axis in axes))
        return [[choice.override for choice in point] for point in points]

    def _composed_by_launcher(self, points: int) -> bool:
        """Whether the launcher composes every point before anything starts, which finds the same faults."""
        one_batch = self.max_batch_size is None or points <= self.max_batch_size
        return one_batch and getattr(self.launcher, "composes_first", False)

    def _save_config(self) -> None:
        """Leave multirun.yaml in the sweep's folder, as BasicSweeper does."""
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

    def _launch(
        self, batch: List[List[str]], start: int, extras: List[CompactHydraException]
    ) -> Sequence[JobReturn]:
        """Run a batch; a job beside the points that failed is kept for later, so that other batches run."""
        from ._failures import ExtrasFailed

        try:
            return self.launcher.launch(batch, initial_job_idx=start)
        except ExtrasFailed as failed:
            extras.append(failed)
            return failed.returns

    def _raise_failures(self, results: List[JobReturn], extras: List[CompactHydraException]) -> None:
        failed = [result for result in results if result.status is JobStatus.FAILED]
        if failed:
            message = f"{len(failed)} of {len(results)} points failed"
            if not getattr(self.launcher, "reports_failures", False):
                message += "".join(_reason(result) for result in failed[:FAILURES_SHOWN])
            raise CompactHydraException(message) from failed[0]._return_value
        if extras:
            raise extras[0]


def _reason(result: JobReturn) -> str:
    """A failed point and why, for a launcher that does not say so itself."""
    error = result._return_value
    return f"\n  {' '.join(result.overrides or [])}: {type(error).__name__}: {error}"
