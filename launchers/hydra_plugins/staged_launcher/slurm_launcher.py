"""`hydra/launcher=staged_slurm`: each stage of all points as one Slurm array, each point's after its own."""

from typing import Any, Dict, List, Tuple

from hydra.errors import CompactHydraException

from ._staged import StagedLauncher


class StagedSlurmLauncher(StagedLauncher):
    """Sends the stages to Slurm and returns, or waits for their results."""

    stage_options = ()  # set below: submitit must not be imported when Hydra looks for plugins

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._results: Dict[Tuple[Any, str], Any] = {}

    def setup(self, **parts: Any) -> None:
        """Take Hydra's part, and raise on options that cannot be, before anything is composed."""
        from ._slurm_submit import OWN_OPTIONS, SLURM_OPTIONS
        from ._sweepers import needs_values, sweeper_name

        self.stage_options = (*SLURM_OPTIONS, *OWN_OPTIONS)
        super().setup(**parts)
        hydra = self.config.hydra
        if needs_values(hydra) and not self.options.wait:
            raise CompactHydraException(
                f"hydra/sweeper={sweeper_name(hydra)} chooses points by the values of others, and has to wait for them\n"
                "  hydra.launcher.wait=true"
            )

    def run(self, works: List[Any]) -> None:
        """Send the stages that no earlier launch has sent; with `wait`, follow all of them to their end."""
        from ._slurm_run import SlurmRun

        self.make_sweep_dir()
        SlurmRun(works, self, self._results).run()
