"""An experiment checked, and every run of it composed and numbered. Writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cruijff_kit import cluster_profile, distributed, inspect_tasks, log_folders, run_mapping, sweep, training_checks
from cruijff_kit.base_config import find_composer
from cruijff_kit.config_tree import is_computed
from cruijff_kit.errors import ExperimentError, Problem
from cruijff_kit.experiment import Experiment, read, without
from cruijff_kit.parameters import parameter
from cruijff_kit.paths import Layout, run_id, run_number
from cruijff_kit.run_mapping import Row, RunMapping
from cruijff_kit.sweep import Run, torchtune_key
from cruijff_kit.torchtune_config import Composer

MANY_RUNS = 100


@dataclass(frozen=True)
class Plan:
    """An experiment without faults, and every run of it.

    Args:
        runs: those of the sweep, in its order.
        added: those that came from overrides, and are no points of the sweep.
        rows: the rows of runs that came from overrides, whether or not the sweep has them now.
        retired: the rows of runs that the sweep had once, and whose numbers stay theirs.
        old: what run_mapping.yaml holds.
        keep_ids: a run keeps its number whatever is added before it or removed.
        cluster: the profile of scripts/.
        warnings: what is no fault and should be known.
    """

    composer: Composer
    runs: list[Run]
    added: list[Run]
    rows: dict[str, Row]
    retired: dict[str, Row]
    old: RunMapping | None
    keep_ids: bool
    cluster: str
    warnings: list[Problem]

    @property
    def experiment(self) -> Experiment:
        return self.composer.experiment

    @property
    def layout(self) -> Layout:
        return self.composer.layout

    @cached_property
    def profile(self) -> dict[str, dict[str, Any]]:
        """What the stages ask Slurm for where nothing else is chosen."""
        return cluster_profile.profile(self.cluster)

    @property
    def gpus(self) -> int:
        """Those that a training has."""
        return _gpus(self.composer, self.profile)

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *self.added]

    def as_dict(self) -> dict[str, Any]:
        """What --json shows."""
        runs = [{"id": run.id, "params": dict(run.params), "recipe": run.recipe, "identity": run.identity} for run in self.all_runs]
        return {"runs": runs, "problems": [warning.as_dict() for warning in self.warnings]}

    def next_id(self, identity: str) -> str:
        """The number of a run that is to be added: that of the retired run that it was, or the next free one."""
        again = next((name for name, row in self.retired.items() if row.identity == identity), None)
        taken = {*self.rows, *self.retired, *(run.id for run in self.all_runs)}
        return again or next(_after(taken))


def plan(
    folder: Path,
    to_run: bool = False,
    weights: bool = False,
    force: bool = False,
    keep_ids: bool = False,
    cluster: str | None = None,
) -> Plan:
    """Everything that generate would write for the experiment in `folder`, checked.

    Args:
        to_run: stages are about to start: data that vanished since generate is left to the trainings that read it.
        weights: trainings are among them: weights that are missing are then an error.
        force: a run_mapping.yaml that cannot be read counts as none.
        keep_ids: runs that were there keep their numbers; so they do where run_mapping.yaml says so.
        cluster: the profile of scripts/; None for that of last time.

    Raises:
        ExperimentError: every fault that was found.
    """
    experiment, form = read(folder)
    problems = [*sweep.check(experiment), *inspect_tasks.check(experiment), *log_folders.check(experiment)]
    composer, faults = find_composer(experiment)
    problems += faults
    if composer is not None:
        problems += training_checks.check_names(composer)
    problems = [*form, *(problem for problem in problems if not _follows(problem, form))]
    if composer is None:
        _raise_errors(problems)
    composer = replace(composer, experiment=without(experiment, problems))  # what is sound is checked in the same report
    try:
        old = run_mapping.read(composer.layout, force)
    except ExperimentError as error:
        old, problems = None, [*problems, *error.problems]
    cluster = cluster or (old.cluster if old else "default")
    points, faults = _compose(composer)
    if faults:
        composer = replace(composer, experiment=without(composer.experiment, faults))
        points, _ = _compose(composer)
    problems += faults
    gpus, faults = _gpus_and_faults(composer, cluster)
    problems += faults
    problems += training_checks.check_runs(composer, points, data=not to_run, to_run=weights, gpus=gpus)
    if composer.experiment is experiment:
        problems += _check_size(experiment, points)
    _raise_errors(problems)
    return _numbered(composer, points, old, keep_ids, cluster, problems)


def _gpus_and_faults(composer: Composer, cluster: str) -> tuple[int, list[Problem]]:
    """The GPUs that a training has, and what is wrong with the profile that says so."""
    try:
        profile, file = cluster_profile.profile(cluster), str(cluster_profile.file_of(cluster))
    except ExperimentError as error:
        return 1, error.problems
    return _gpus(composer, profile), distributed.idle_gpus(composer.recipe, composer.experiment.folder, profile, file)


def _gpus(composer: Composer, profile: Mapping[str, Any]) -> int:
    return cluster_profile.gpus(profile["train"]) if distributed.is_distributed(composer.recipe, composer.experiment.folder) else 1


def _follows(problem: Problem, form: Iterable[Problem]) -> bool:
    """Whether `problem` is only what a fault of form made of its place."""
    return any(other.path and problem.path[: len(other.path)] == other.path for other in form)


def _raise_errors(problems: list[Problem]) -> None:
    problems.sort(key=lambda problem: problem.line or 0)
    if any(problem.level == "error" for problem in problems):
        raise ExperimentError(problems)


def _check_size(experiment: Experiment, points: list[Run]) -> list[Problem]:
    problem, variables, runs = experiment.source.problem, len(experiment.spec.variables), len(points)
    problems = []
    if variables > 2:
        problems.append(problem(("variables",), f"{variables} variables are crossed: {runs} runs", level="warning"))
    if runs >= MANY_RUNS:
        problems.append(problem(("variables",), f"{runs} runs", level="warning"))
    return problems


def _compose(composer: Composer) -> tuple[list[Run], list[Problem]]:
    """The runs of the sweep, without numbers yet, and the faults of the points that cannot be composed."""
    runs, problems = [], {}
    for params in sweep.points(composer.experiment):
        settings = {**composer.experiment.controls, **params}
        run, faults = _compose_point(composer, params, settings)
        runs += [run] if run else []
        for name, what in faults.items():
            problems[composer.experiment.source.problem(("controls", name), what)] = None
    return runs, list(problems)


def _compose_point(composer: Composer, params: Mapping, settings: Mapping) -> tuple[Run | None, dict[str, str]]:
    """The run of one point, or what is wrong with its computed controls."""
    unresolved = composer.unresolved(settings)
    if unresolved:
        return None, {name: f"does not resolve: {why}" for name, why in unresolved.items()}
    run = composer.run("", params, settings)
    computed = {name: run.settings[name] for name in composer.experiment.controls if is_computed(settings[name])}
    faults = {name: known.fault(value) for name, value in computed.items() if (known := parameter(name))}
    wrong = {name: fault for name, fault in faults.items() if fault}
    return (None if wrong else run), wrong


def _numbered(composer: Composer, points: list[Run], old: RunMapping | None, keep_ids: bool, cluster: str, warnings: list[Problem]) -> Plan:
    """The plan of `points`: runs that came from overrides have numbers of their own, and a point equal to one has its."""
    keep_ids = keep_ids or (old is not None and old.keep_ids)
    there = old.rows if old else ()
    rows = {row.id: row for row in there if row.added}
    fitting = {name: row for name, row in rows.items() if _fits(composer, row)}  # the others keep their rows alone
    added = {name: composer.run(name, row.params, row.settings, row.torchtune) for name, row in fitting.items()}
    numbers = {run.identity: name for name, run in added.items()}
    taken = set(rows)
    if keep_ids:
        numbers = {row.identity: row.id for row in there if not row.added} | numbers
        taken = {row.id for row in there}
    runs = [composer.named(run, name) for run, name in zip(points, _names(points, numbers, taken, keep_ids))]
    named = {run.id for run in runs}
    others = [run for name, run in added.items() if name not in named]
    gone = [row for row in there if keep_ids and not row.added and row.id not in named]
    retired = {row.id: replace(row, retired=True) for row in gone}
    return Plan(composer, runs, others, rows, retired, old, keep_ids, cluster, warnings)


def _names(points: list[Run], numbers: Mapping[str, str], taken: set[str], keep_ids: bool) -> list[str]:
    """The run id of each point: the one that it has in `numbers`, or a free one."""
    if keep_ids and taken:
        free = _after(taken)
    else:
        free = (name for number in itertools.count() if (name := run_id(number, len(points))) not in taken)
    return [numbers[run.identity] if run.identity in numbers else next(free) for run in points]


def _after(names: Iterable[str]) -> Iterator[str]:
    """The run ids after the highest of `names`, as wide as those are."""
    names = list(names)
    width = min(len(name) for name in names) - len("run_")
    return (f"run_{number:0{width}d}" for number in itertools.count(1 + max(map(run_number, names))))


def _fits(composer: Composer, row: Row) -> bool:
    """Whether the base config, which may be another by now, has a place for all that an added run sets."""
    return all(composer.key_fault(torchtune_key(name)) is None for name in row.settings)
