"""The Hydra application: a config to the stages of one run.

`prepare` sees every point before anything starts, in the process that the user
started; `run_point` is what runs for one point, here or in a job.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, Problem, closest

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(folder: Path, words: list[str]) -> int:
    """`cruijff-kit run`: generates if nothing was, then the Hydra application over configs/multirun.yaml."""
    from cruijff_kit import run_mapping
    from cruijff_kit.experiment import read
    from cruijff_kit.generate import generate
    from cruijff_kit.paths import Layout
    from cruijff_kit.plan import plan
    from cruijff_kit.results_command import print_new

    experiment, problems = read(folder)
    if problems:
        plan(folder)  # raises, with all that is wrong
    layout = Layout.of(experiment)
    if run_mapping.read(layout) is None:
        generate(folder, confirm=_many)
    start = time.time()
    status = main(["--config-dir", str(layout.configs), "--config-name", layout.multirun.stem, *words])
    print_new(folder, since=start)
    return status


def _many(runs: int) -> None:
    raise CruijffKitError(f"{runs} runs: generate them first: cruijff-kit generate DIR --yes")


def main(words: Sequence[str]) -> int:
    """The plain Hydra application with the command line `words`; its exit code."""
    from cruijff_kit.cli import report_faults

    return report_faults(lambda: _hydra(words))


def check_launcher_named(words: Sequence[str]) -> None:
    """That nobody trains on a login node by accident: a machine that has sbatch, no GPU, and is in no job.

    Raises:
        CruijffKitError: a sweep is to run there, and no launcher is named.
    """
    import shutil

    from hydra_plugins.staged_launcher._gpus import visible_gpus

    sweep = any(word in ("--multirun", "-m") for word in words) and not any(word in ("--cfg", "-c", "--info", "-i", "--help", "--hydra-help") for word in words)
    named = any(word.startswith("hydra/launcher=") for word in words)
    if sweep and not named and shutil.which("sbatch") and "SLURM_JOB_ID" not in os.environ and not visible_gpus(os.environ):
        raise CruijffKitError(
            "this machine has sbatch and no GPU: say where the sweep is to run\n"
            "  hydra/launcher=staged_slurm    on the cluster\n"
            "  hydra/launcher=staged_local    here"
        )


def _hydra(words: Sequence[str]) -> int:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cruijff_kit import cluster_group, ownership
    from cruijff_kit.errors import OnlyShown
    from cruijff_kit.paths import conf_dir
    from cruijff_kit.resolvers import register

    check_launcher_named(words)
    register()
    register_open_nodes()
    cluster_group.register()
    # conf/hydra/launcher/staged_*.yaml have the names of the plugin's own schemas, and are meant to be checked by them
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/staged_(local|slurm)' is validated against ConfigStore schema")
    sys.argv = ["cruijff-kit run", *words]
    os.environ[ownership.LAUNCHER] = str(os.getpid())
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them
    try:
        hydra.main(config_path=str(conf_dir()), config_name="cruijff_kit", version_base="1.3")(run_point)()
    except OnlyShown:
        return 0
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise CruijffKitError(explain(error)) from error
    return 0


def register_open_nodes() -> None:
    """Nodes that take any key: what they may hold is torchtune's and Inspect's business, and `prepare` checks it."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    free = {"struct": False}
    node = {"torchtune": OmegaConf.create({}, flags=free), "evaluation": {"generate": OmegaConf.create({}, flags=free)}}
    ConfigStore.instance().store(name="open_nodes", node=OmegaConf.create(node), provider="cruijff_kit")


def explain(error: BaseException) -> str:
    """Hydra's message, with the closest parameter where a name is wrong."""
    from cruijff_kit import cluster_group
    from cruijff_kit.multirun_config import EVALUATION_KEYS
    from cruijff_kit.parameters import PARAMETERS

    if fault := cluster_group.explain(error):
        return fault
    text = str(error).strip()
    match = re.search(r"Could not override '([^']+)'", text)
    if not match:
        return text
    name = match[1]
    names = [*PARAMETERS, *(f"evaluation.{key}" for key in (*EVALUATION_KEYS, "tasks"))]
    hint = f"did you mean 'torchtune.{name}'?" if "." in name and not name.startswith("evaluation.") else closest(name, names)
    return str(Problem(COMMAND_LINE, f"unknown parameter '{name}'", name, fix=hint))


def prepare(configs: Sequence[DictConfig]) -> Any:
    """What the launcher runs for these points: see preparation.prepare."""
    from cruijff_kit import preparation

    return preparation.prepare(configs)


def run_point(config: DictConfig) -> float | None:
    """One stage of one run if `stage` is set, as in a job; else all of `stages`, here.

    Returns the objective where the evaluation was among them, and one is set.

    Raises:
        CruijffKitError: a stage failed; those after it did not run.
    """
    if "frozen" not in config:  # not from a launcher, which prepares
        config = prepare([config]).points[0]
    from cruijff_kit import stage

    value = None
    for name in [config.stage] if config.stage else config.stages:
        value = stage.run(config, name)
    return value


def progress(line: str) -> str | None:
    """What the launcher shows of a line of a job's log: see progress.shown."""
    from cruijff_kit.progress import shown

    return shown(line)
