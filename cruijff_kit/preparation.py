"""From composed configs to what a launcher runs: every point's run, found or made, with its commands.

This is done once for a whole sweep, in the process that the user started, before anything starts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, open_dict

from cruijff_kit import cluster_profile, distributed, frozen, inputs, overrides, training_checks, workspace
from cruijff_kit.config_tree import output_dir_of
from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, ExperimentError, Problem
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.generate import change, check_current, check_place
from cruijff_kit.paths import BASELINE, HIDDEN
from cruijff_kit.plan import Plan, plan
from cruijff_kit.run_mapping import Row
from cruijff_kit.schema import OBJECTIVE_HINT
from cruijff_kit.sweep import Run
from cruijff_kit.train import Training

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Prepared:
    """What the launcher gets back: a config for each point, and what runs beside them."""

    points: list[DictConfig]
    extras: list[DictConfig]


@dataclass(frozen=True)
class Point:
    """What one config asks for.

    Args:
        run: None for the baseline.
        words: what its evaluation is told, `limit=5`.
        tune_words: what torchrun is told, for a distributed recipe.
    """

    config: DictConfig
    run: Run | None
    words: tuple[str, ...]
    tune_words: tuple[str, ...]


def prepare(configs: Sequence[DictConfig]) -> Prepared:
    """Finds or makes the run of each config, and fills in its commands.

    Raises:
        ExperimentError: experiment.yaml or an override is wrong; nothing was started.
        CruijffKitError: experiment.yaml changed since generate, or the folder was moved.
    """
    folder = Path(configs[0].experiment_dir)
    check_source(configs[0], folder)
    hidden = folder / HIDDEN
    with workspace.locked(hidden):
        workspace.recover(hidden)
        made = plan(folder, to_run=True, weights=any("train" in config.stages for config in configs))
        check_current(made)
        points = _points(made, configs)
        written = change(made)
        needed = written.needed()
        if needed:
            workspace.write(needed, folder, hidden)
    in_sweep = "hydra" in configs[0]  # a launcher's config; a task function's has no such node
    return _Filler(made, written.files, in_sweep).prepared(points)


def _points(made: Plan, configs: Sequence[DictConfig]) -> list[Point]:
    known = {run.identity: run for run in reversed(made.all_runs)}
    hardware = _Hardware(made)
    points, problems = [], []
    for config in configs:
        check_stages(config)
        try:
            words = tuple(overrides.evaluation_words(made, config))
            run = _run_of(made, known, config)
            points.append(Point(config, run, words, hardware.tune_words(config, run)))
        except ExperimentError as error:
            problems += error.problems
    if problems:
        raise ExperimentError(dict.fromkeys(problems))
    _check_objective(made, configs[0])
    for warning in hardware.warnings:
        print(warning, file=sys.stderr)
    return points


class _Hardware:
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

    hydra = config.hydra if "hydra" in config else HydraConfig.get()  # a launcher has it, a task function does not
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            above = (parent for parent in Path(source.path).parents if (parent / FILE_NAME).is_file())
            check_place(folder, next(above, Path(source.path)))


def _check_objective(made: Plan, config: DictConfig) -> None:
    """That a sweeper that goes by values gets some, and wants the highest."""
    from hydra_plugins.staged_launcher._sweepers import needs_values, sweeper_name

    objective, tasks = config.evaluation.objective, [task.name for task in made.experiment.spec.evaluation.tasks]
    problems = []
    if objective is not None and objective.split("/")[0] not in tasks:
        what = f"there is no task '{objective.split('/')[0]}': the tasks are {', '.join(tasks)}"
        problems.append(Problem(COMMAND_LINE, what, "evaluation.objective", fix=OBJECTIVE_HINT))
    if "hydra" in config and needs_values(config.hydra):
        name = sweeper_name(config.hydra)
        if objective is None or "eval" not in config.stages:
            what = f"hydra/sweeper={name} goes by the value of each point, and {'no objective is set' if objective is None else 'nothing is evaluated'}"
            fix = f"evaluation.objective=TASK/SCORER/METRIC, {OBJECTIVE_HINT}"
            problems.append(Problem(COMMAND_LINE, what, "evaluation.objective", fix=fix))
        if str(config.hydra.sweeper.get("direction")).rpartition(".")[2] == "minimize":
            what = f"hydra/sweeper={name} looks for the lowest value, and an objective is a score to be maximised"
            problems.append(Problem(COMMAND_LINE, what, "hydra.sweeper.direction", fix="hydra.sweeper.direction=maximize"))
    if problems:
        raise ExperimentError(problems)


def _run_of(made: Plan, known: dict[str, Run], config: DictConfig) -> Run:
    """The run that `config` describes; a new one is added to the plan under the next free number."""
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


class _Filler:
    """Fills in what a job needs to know of its run.

    Args:
        texts: every generated file with its text.
        in_sweep: the stages may wait in a queue. What they read is then frozen, and a finished training
            is left out.
    """

    def __init__(self, made: Plan, texts: Any, in_sweep: bool) -> None:
        self._made, self._texts, self._in_sweep = made, texts, in_sweep
        self._sets: dict[str, list[Path]] = {}

    def prepared(self, points: Sequence[Point]) -> Prepared:
        """A config for each point, the same one for points that are equal; beside a sweep, the baseline's."""
        filled: dict[tuple, DictConfig] = {}
        baselines: dict[tuple, DictConfig] = {}
        configs, asked = [], set()
        for point in points:
            key = (point.run.id, *point.config.stages, *point.words)
            asked |= {point.run.id} if "train" in point.config.stages else set()
            if self._in_sweep and _wants_baseline(point.config) and point.words not in baselines:
                baselines[point.words] = self._filled(replace(point, config=copy.deepcopy(point.config), run=None), BASELINE)
            if key not in filled:
                filled[key] = self._filled(point, point.run.id)
            configs.append(filled[key])
        if self._in_sweep:
            self._record_inputs([*filled.values(), *baselines.values()])
            _say_trained(asked, filled.values())
        return Prepared(configs, list(baselines.values()))

    def _filled(self, point: Point, name: str) -> DictConfig:
        """The point's own config with what its jobs need."""
        layout, run, config = self._made.layout, point.run, point.config
        own = [*([layout.train_config(name)] if run else []), layout.eval_script(name)]
        files = frozen.freeze({path.name: self._texts[path] for path in own if path in self._texts})
        place = frozen.place(layout.folder, files) if self._in_sweep else layout.configs
        commands = {"eval": ["python", str(place / layout.eval_script(name).name), *point.words]}
        if run:
            commands["train"] = ["tune", "run", *point.tune_words, run.recipe, "--config", str(place / layout.train_config(name).name)]
        with open_dict(config):
            config.run = name
            config.scores = str(layout.run_eval_results(name))
            config.stages = list(self._stages(config, run))
            config.commands = commands
            if self._in_sweep:
                config.frozen = {"files": files, "inputs": self._input_sets(run)}
                config.keys = _keys(run, files, point.words)
        return config

    def _stages(self, config: DictConfig, run: Run | None) -> Iterator[str]:
        for stage in config.stages if run else ["eval"]:
            trained = stage == "train" and self._in_sweep and run is not None and self._is_trained(run)
            if not trained and (stage != "eval" or config.evaluation.enabled):
                yield stage

    def _is_trained(self, run: Run) -> bool:
        layout, model = self._made.layout, output_dir_of(run.config, "checkpointer.output_dir")
        if model is None:
            return False
        model = model / f"epoch_{run.config['epochs'] - 1}"
        return Training(run.id, (), layout.train_config(run.id), layout.run_results(run.id), model, layout.folder).fault() is None

    def _input_sets(self, run: Run | None) -> dict[str, str]:
        """The set of files that each stage reads, by its name in what is recorded."""
        tasks_dir = self._made.experiment.spec.evaluation.tasks_dir
        tasks = inputs.of_tasks(self._made.experiment.path(tasks_dir)) if tasks_dir and "tasks" not in self._sets else []
        self._sets.setdefault("tasks", tasks)
        config = run.config if run else self._made.runs[0].config
        name = f"{'train' if run else 'base'}-{_digest(config.get('dataset') if run else None, config.get('checkpointer'))}"
        if name not in self._sets:
            self._sets[name] = inputs.of_training(config) if run else [*self._sets["tasks"], *inputs.of_base_model(config)]
        return {"train": name, "eval": "tasks"} if run else {"eval": name}

    def _record_inputs(self, configs: Sequence[DictConfig]) -> None:
        recorded = str(inputs.record(self._sets, self._made.layout.hidden))
        for config in configs:
            with open_dict(config):
                config.frozen.recorded = recorded


def _say_trained(asked: set[str], configs: Iterable[DictConfig]) -> None:
    """Names the runs that will not be trained though a point asked for it: they are trained already."""
    trained = sorted(asked - {config.run for config in configs if "train" in config.stages})
    if trained:
        shown = ", ".join(trained[:5]) + (", …" if len(trained) > 5 else "")
        print(f"trained already: {shown}", file=sys.stderr)


def _wants_baseline(config: DictConfig) -> bool:
    return bool(config.evaluation.enabled and config.evaluation.baseline and "eval" in config.stages)


def _keys(run: Run | None, files: bytes, words: Sequence[str]) -> dict[str, str]:
    """What tells the stages of this run from any other work: the training's config, and all that the evaluation is told."""
    train = f"{run.id} {run.identity}" if run else BASELINE
    return {"train": train, "eval": f"{train} {_digest(files.hex(), list(words))}"}


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
