"""From composed configs to what a launcher runs: every point's run, found or made, with its commands.

This is done once for a whole sweep, in the process that the user started, before anything starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from cruijff_kit import columns, logger_config, multirun_config, overrides, sweep_state, training_checks, workspace
from cruijff_kit.errors import COMMAND_LINE, CruijffKitError, ExperimentError, OnlyShown, Problem
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.generate import change, check_current, check_place
from cruijff_kit.job_configs import Filler, Point, Prepared
from cruijff_kit.paths import BASELINE, HIDDEN
from cruijff_kit.plan import Plan, plan
from cruijff_kit.point_hardware import Hardware
from cruijff_kit.run_mapping import Row
from cruijff_kit.schema import OBJECTIVE_HINT
from cruijff_kit.selection import Selection, wish_of
from cruijff_kit.sweep import Run
from cruijff_kit.work_left import MISSING, check_again
from cruijff_kit.yaml_source import leaves

if TYPE_CHECKING:
    from omegaconf import DictConfig


def prepare(configs: Sequence[DictConfig]) -> Prepared:
    """Finds or makes the run of each config, and fills in the commands of what is left to be done of it.

    Raises:
        OnlyShown: dry_run was asked for.
        ExperimentError: experiment.yaml or an override is wrong; nothing was started.
        CruijffKitError: experiment.yaml changed since generate, or the folder was moved.
    """
    folder = Path(configs[0].experiment_dir)
    check_source(configs[0], folder)
    for config in configs:
        check_stages(config)
    hidden = folder / HIDDEN
    with workspace.locked(hidden):
        workspace.recover(hidden)
        made = plan(folder, to_run=True, weights=any("train" in config.stages for config in configs))
        written, known = check_current(made), len(made.added)
        points = _points(made, configs)
        if len(made.added) > known:
            written = change(made)
            if not configs[0].dry_run:
                workspace.write(written.needed(), folder, hidden)
    if "hydra" not in configs[0]:  # a task function's config has no such node, a launcher's has
        return _single(made, written.files, points)
    return _sweep(made, written.files, points)


def _single(made: Plan, files: Mapping[Path, str], points: Sequence[Point]) -> Prepared:
    config = points[0].config
    if config.only != MISSING or config.again or config.dry_run:
        raise CruijffKitError("--failed, --again and --dry-run are of a sweep: add --multirun")
    return Filler(made, files, None).prepared(points)


def _sweep(made: Plan, files: Mapping[Path, str], points: Sequence[Point]) -> Prepared:
    config, selection = points[0].config, Selection(sweep_state.look(made.experiment.folder))
    wish = wish_of(config)  # before the configs are told what is left of their points
    if wish.again and wish.only != MISSING:
        raise CruijffKitError("--failed and --again: one of them")
    baseline = [BASELINE] if config.evaluation.enabled and config.evaluation.baseline else []
    check_again(wish.again, {point.run.id for point in points if point.run} | set(baseline))
    prepared = Filler(made, files, selection, f"again-{time.time_ns()}" if wish.again else "").prepared(points)
    if config.dry_run:
        columns.console().print(selection.table())
        raise OnlyShown
    for line in selection.lines():
        print(line, file=sys.stderr)
    return prepared


def _points(made: Plan, configs: Sequence[DictConfig]) -> list[Point]:
    known = {run.identity: run for run in reversed(made.all_runs)}
    usual, hardware = multirun_config.root(made.composer), Hardware(made)
    points, problems = [], []
    for config in configs:
        try:
            overrides.check_form(usual, config)
            words = tuple(overrides.evaluation_words(made, config))
            run = _run_of(made, known, overrides.read(made, usual, config))
            points.append(Point(config, run, words, hardware.tune_words(config, run)))
        except ExperimentError as error:
            problems += error.problems
    if problems := problems or _logged_twice(points):
        raise ExperimentError(dict.fromkeys(problems))
    _check_objective(made, configs[0])
    for warning in hardware.warnings:
        print(warning, file=sys.stderr)
    return points


def _logged_twice(points: Sequence[Point]) -> list[Problem]:
    """The first run that several points ask for, each with a logger of its own: it would be trained once, with one of them."""
    first: dict[str, Run] = {}
    for run in (point.run for point in points if point.run):
        if first.setdefault(run.id, run).config.get(logger_config.KEY) != run.config.get(logger_config.KEY):
            what = f"points that differ in {logger_config.KEY} alone, which changes nothing in what is trained, are one run, {run.id}"
            return [Problem(COMMAND_LINE, what, f"torchtune.{logger_config.KEY}", fix="give it one value")]
    return []


def check_stages(config: DictConfig) -> None:
    stages = config.get("stages")
    if not OmegaConf.is_list(stages) or any(stage not in ("train", "eval") for stage in stages):
        raise CruijffKitError(f"stages={stages}: expected a list of train and eval: stages=[eval]")


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
        if made.experiment.spec.evaluation.group_by_base:
            what = f"hydra/sweeper={name} goes by the value of each point, and group_by_base evaluates all of them together"
            problems.append(Problem(COMMAND_LINE, what, "evaluation.group_by_base", fix="group_by_base: false in experiment.yaml"))
        if str(config.hydra.sweeper.get("direction")).rpartition(".")[2] == "minimize":
            what = f"hydra/sweeper={name} looks for the lowest value, and an objective is a score to be maximised"
            problems.append(Problem(COMMAND_LINE, what, "hydra.sweeper.direction", fix="hydra.sweeper.direction=maximize"))
    if problems:
        raise ExperimentError(problems)


def _logged_as(made: Plan, run: Run, fresh: Run) -> Run:
    """`run` with the logger of `fresh`, which trains the same: an override of the logger makes no other run."""
    if logger_config.KEY not in fresh.config:
        return run
    return made.composer.named(replace(run, config={**run.config, logger_config.KEY: fresh.config[logger_config.KEY]}), run.id)


def _run_of(made: Plan, known: dict[str, Run], point: overrides.Point) -> Run:
    """The run of a point; a new one is added to the plan under the next free number."""
    fresh = made.composer.run("", point.params, point.settings, point.torchtune)
    overrides.check_took_effect(point, fresh)
    if (there := known.get(fresh.identity)) is not None:
        run = _logged_as(made, there, fresh)
        if run.config.get(logger_config.KEY) != there.config.get(logger_config.KEY):
            _check(made, fresh, point, data=False)  # which may be gone by now, where it is trained
        return run
    fresh = made.composer.named(fresh, made.next_id(fresh.identity))
    _check(made, fresh, point, data=True)
    made.retired.pop(fresh.id, None)
    made.rows[fresh.id] = replace(Row.of(fresh), added=True, settings=point.settings, torchtune=point.torchtune)
    made.added.append(fresh)
    known[fresh.identity] = fresh
    return fresh


def _check(made: Plan, run: Run, point: overrides.Point, data: bool) -> None:
    """That `run` of `point` would train, as far as can be seen.

    Raises:
        ExperimentError: it would not.
    """
    words = {".".join(path): value for path, value in leaves(point.torchtune)}  # those of the logger too, which are no parameters of a run
    run = replace(run, params={**run.params, **words})
    faults = [problem for problem in training_checks.check_runs(made.composer, [run], data, gpus=made.gpus) if problem.level == "error"]
    if faults:
        raise ExperimentError(_at_its_word(problem, words) for problem in faults)


def _at_its_word(problem: Problem, words: Mapping[str, Any]) -> Problem:
    """A fault of a key of experiment.yaml's controls at the word that beats it, where one does."""
    key = ".".join(str(part) for part in problem.path[1:] if part != "_override")
    return Problem(COMMAND_LINE, problem.what, key, fix=problem.fix) if problem.path[:1] == ("controls",) and key in words else problem
