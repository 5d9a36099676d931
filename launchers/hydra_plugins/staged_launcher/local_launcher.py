"""`hydra/launcher=staged_local`: the stages of each point on this machine."""

import os
from typing import Any, List

from hydra.errors import CompactHydraException

from ._staged import StagedLauncher


class StagedLocalLauncher(StagedLauncher):
    """Runs the task function once per stage of each point, each time in a process of its own."""

    def setup(self, **parts: Any) -> None:
        """Take Hydra's part, and raise on options that cannot be, before anything is composed."""
        super().setup(**parts)
        limit = self.options.max_parallel
        if limit is not None and limit < 1:
            where = "hydra.launcher.max_parallel"
            raise CompactHydraException(f"{where}\n  expected 1 or more, or null, found {limit}")

    def run(self, works: List[Any]) -> None:
        """Run the works here, as many at once as there are slots."""
        from ._display import make_display
        from ._gpus import visible_gpus
        from ._job import freeze_context
        from ._local_run import LocalOptions, LocalRun, make_slots

        self.make_sweep_dir()
        options = LocalOptions(
            context=freeze_context(self.task_function, self.hydra_context),
            stage_key=self.options.stage_key,
            submitit_folder=self.options.submitit_folder,
            poll_s=self.options.poll_s,
        )
        slots = make_slots(visible_gpus(os.environ), self.options.max_parallel)
        LocalRun(works, slots, options).run(make_display(works, self.hooks))
