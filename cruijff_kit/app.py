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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, ExperimentError, Problem, closest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cruijff_kit.plan import Plan
    from cruijff_kit.sweep import Run


def run(folder: Path, words: list[str]) -> int:
    """`cruijff-kit run`: generates if nothing was, then the Hydra application over configs/multirun.yaml."""
    from cruijff_kit import run_mapping
    from cruijff_kit.experiment import read
    from cruijff_kit.generate import generate
    from cruijff_kit.paths import Layout
    from cruijff_kit.plan import plan
    from cruijff_kit.results import print_scores

    experiment, problems = read(folder)
    if problems:
        plan(folder)  # raises, with all that is wrong
    layout = Layout.of(experiment)
    if run_mapping.read(layout) is None:
        generate(folder, confirm=_many)
    start = time.time()
    status = main(["--config-dir", str(layout.configs), "--config-name", layout.multirun.stem, *words])
    print_scores(folder, since=start)
    return status


def _many(runs: int) -> None:
    raise CruijffKitError(f"{runs} runs: generate them first: cruijff-kit generate DIR --yes")


def main(words: Sequence[str]) -> int:
    """The plain Hydra application with the command line `words`; its exit code."""
    from cruijff_kit.cli import report_faults

    return report_faults(lambda: _hydra(words))


def _hydra(words: Sequence[str]) -> int:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cruijff_kit import cluster_group
    from cruijff_kit.paths import conf_dir
    from cruijff_kit.resolvers import register

    register()
    register_open_nodes()
    cluster_group.register()
    # conf/hydra/launcher/staged_local.yaml has the name of the plugin's own schema, and is meant to be checked by it
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/staged_local' is validated against ConfigStore schema")
    sys.argv = ["cruijff-kit run", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on instead of printing them
    try:
        hydra.main(config_path=str(conf_dir()), config_name="cruijff_kit", version_base="1.3")(run_point)()
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


@dataclass
class Prepared:
    """What the launcher gets back: a config for each point, and what runs beside them."""

    points: list[DictConfig]
    extras: list[DictConfig]


def prepare(configs: Sequence[DictConfig]) -> Prepared:
    """Finds or makes the run of each config, and fills in its commands.

    Raises:
        ExperimentError: experiment.yaml or an override is wrong; nothing was started.
        CruijffKitError: experiment.yaml changed since generate, or the folder was moved.
    """
    from cruijff_kit import overrides, workspace
    from cruijff_kit.generate import change, check_current
    from cruijff_kit.paths import HIDDEN
    from cruijff_kit.plan import plan

    folder = Path(configs[0].experiment_dir)
    check_source(configs[0], folder)
    hidden = folder / HIDDEN
    with workspace.locked(hidden):
        workspace.recover(hidden)
        made = plan(folder, to_run=True, weights=any("train" in config.stages for config in configs))
        check_current(made)
        known = {run.identity: run for run in reversed(made.all_runs)}
        runs, words, problems = [], [], []
        for config in configs:
            check_stages(config)
            try:
                words.append(overrides.evaluation_words(made, config))
                runs.append(_run_of(made, known, config))
            except ExperimentError as error:
                problems += error.problems
        if problems:
            raise ExperimentError(dict.fromkeys(problems))
        needed = change(made).needed()
        if needed:
            workspace.write(needed, folder, hidden)
    return _prepared(made, configs, runs, words)


def check_stages(config: DictConfig) -> None:
    wrong = isinstance(config.stages, str) or [stage for stage in config.stages if stage not in ("train", "eval")]
    if wrong:
        raise CruijffKitError(f"stages={config.stages}: expected a list of train and eval: stages=[eval]")


def check_source(config: DictConfig, folder: Path) -> None:
    """That `config` came from `folder`: the multirun.yaml of a copied folder names the one that it was copied from.

    Raises:
        CruijffKitError: it came from another.
    """
    from hydra.core.hydra_config import HydraConfig

    from cruijff_kit.experiment import FILE_NAME
    from cruijff_kit.generate import check_place

    hydra = config.hydra if "hydra" in config else HydraConfig.get()  # a launcher has it, a task function does not
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            above = (parent for parent in Path(source.path).parents if (parent / FILE_NAME).is_file())
            check_place(folder, next(above, Path(source.path)))


def _run_of(made: Plan, known: dict[str, Run], config: DictConfig) -> Run:
    """The run that `config` describes; a new one is added to the plan under the next free number."""
    from cruijff_kit import overrides, training_checks
    from cruijff_kit.run_mapping import Row

    point = overrides.read(made, config)
    fresh = made.composer.run("", point.params, point.settings, point.torchtune)
    overrides.check_took_effect(point, fresh)
    if fresh.identity in known:
        return known[fresh.identity]
    fresh = made.composer.named(fresh, made.next_id(fresh.identity))
    faults = [problem for problem in training_checks.check_runs(made.composer, [fresh], gpus=made.gpus) if problem.level == "error"]
    if faults:
        raise ExperimentError(faults)
    made.retired.pop(fresh.id, None)
    made.rows[fresh.id] = replace(Row.of(fresh), added=True, settings=point.settings, torchtune=point.torchtune)
    made.added.append(fresh)
    known[fresh.identity] = fresh
    return fresh


def _prepared(made: Plan, configs: Sequence[DictConfig], runs: Sequence[Run], settings: Sequence[list[str]]) -> Prepared:
    """A config for each point, the same one for points that are equal; beside a sweep, the baseline's.

    Args:
        settings: what each point's evaluation is told, `limit=5`.
    """
    from cruijff_kit.paths import BASELINE

    points: dict[tuple, DictConfig] = {}
    baselines: dict[tuple, DictConfig] = {}
    filled = []
    for config, run, words in zip(configs, runs, settings):
        key = (run.id, *config.stages, *words)
        if key not in points:
            points[key] = _filled(made, config, run.id, run.recipe, words)
        filled.append(points[key])
        in_sweep = "hydra" in config  # a launcher's config; a task function's has no such node
        if in_sweep and config.evaluation.enabled and config.evaluation.baseline and "eval" in config.stages:
            if tuple(words) not in baselines:
                baselines[tuple(words)] = _filled(made, config, BASELINE, "", words)
                baselines[tuple(words)].stages = ["eval"]
    return Prepared(filled, list(baselines.values()))


def _filled(made: Plan, config: DictConfig, name: str, recipe: str, words: Sequence[str]) -> DictConfig:
    """`config` with its run and its commands: all that a job needs to know."""
    import copy

    from omegaconf import open_dict

    layout = made.layout
    config = copy.deepcopy(config)
    with open_dict(config):
        config.run = name
        config.stages = [stage for stage in config.stages if stage != "eval" or config.evaluation.enabled]
        config.commands = {
            "train": ["tune", "run", recipe, "--config", str(layout.train_config(name))],
            "eval": ["python", str(layout.eval_script(name)), *words],
        }
    return config


def run_point(config: DictConfig) -> None:
    """One stage of one run if `stage` is set, as in a job; else all of `stages`, here.

    Raises:
        CruijffKitError: a stage failed; those after it did not run.
    """
    if config.stage is None:
        config = prepare([config]).points[0]
    for stage in [config.stage] if config.stage else config.stages:
        run_stage(config, stage)


def run_stage(config: DictConfig, stage: str) -> None:
    from cruijff_kit import stage_command
    from cruijff_kit.train import train

    print(f"{config.run} {stage}: {' '.join(config.commands[stage])}", flush=True)
    if stage == "train":
        train(_training(config))
    else:
        stage_command.run(list(config.commands[stage]), Path(config.experiment_dir))


def _training(config: DictConfig) -> Any:
    from cruijff_kit.torchtune_catalog import read_config
    from cruijff_kit.config_tree import output_dir_of, unescape
    from cruijff_kit.train import Training

    train_config = Path(config.commands.train[-1])
    values = read_config(train_config)
    model = output_dir_of(values, "checkpointer.output_dir") / f"epoch_{values['epochs'] - 1}"
    return Training(config.run, list(config.commands.train), train_config, Path(unescape(values["output_dir"])), model, Path(config.experiment_dir))


_TQDM = re.compile(r"(?P<epoch>\d+)\|(?P<step>\d+)\|Loss: (?P<loss>[^:]+):.*?\|\s*(?P<done>\d+)/(?P<of>\d+)")


def progress(line: str) -> str | None:
    """torchtune's progress bar as `epoch 1 step 5/20 loss 2.31`, what an evaluation says, and nothing else."""
    match = _TQDM.search(line)
    if match:
        return f"epoch {match['epoch']} step {match['done']}/{match['of']} loss {float(match['loss']):.4g}"
    return line if re.match(r"(run_\d+|base) \S+:", line) else None
