"""What each point's `cluster` gives its training: how many processes torchrun starts, and whether there are rows for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from cruijff_kit import cluster_profile, distributed, training_checks
from cruijff_kit.errors import COMMAND_LINE, ExperimentError, Problem
from cruijff_kit.plan import Plan
from cruijff_kit.sweep import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Hardware:
    """What the points' `cluster` gives their trainings; each kind is checked once."""

    def __init__(self, made: Plan) -> None:
        self._made = made
        self._known: dict[tuple, tuple[str, ...]] = {}
        self.warnings: list[Problem] = []

    def tune_words(self, config: DictConfig, run: Run) -> tuple[str, ...]:
        """What torchrun is told for the run: nothing where its recipe is for one GPU.

        Raises:
            ExperimentError: the profile is wrong, or the run has too few rows for its GPUs.
        """
        on_slurm = "hydra" in config and str(config.hydra.launcher._target_).endswith("StagedSlurmLauncher")
        cluster = json.dumps(OmegaConf.to_container(config.cluster), sort_keys=True) if on_slurm else ""
        key = (cluster, run.recipe, json.dumps(run.config.get("dataset"), default=str), run.config.get("batch_size"))
        if key not in self._known:
            self._known[key] = tuple(self._on_slurm(config, run) if on_slurm else self._here(run))
        return self._known[key]

    def _on_slurm(self, config: DictConfig, run: Run) -> list[str]:
        made, folder = self._made, self._made.experiment.folder
        stages = cluster_profile.checked(config.cluster, above="cluster.")
        self.warnings += distributed.idle_gpus(run.recipe, folder, stages, COMMAND_LINE, "cluster.")
        nodes, gpus = cluster_profile.nodes(stages["train"]), cluster_profile.gpus_per_node(stages["train"])
        words = distributed.tune_words(run.recipe, folder, nodes, gpus)
        if words and nodes * gpus != made.gpus:
            faults = training_checks.check_runs(made.composer, [run], data=True, gpus=nodes * gpus)
            if errors := [problem for problem in faults if problem.level == "error"]:
                raise ExperimentError(errors)
        return words

    def _here(self, run: Run) -> list[str]:
        """The launcher on this machine gives one GPU to each training."""
        return distributed.tune_words(run.recipe, self._made.experiment.folder, 1, 1)
