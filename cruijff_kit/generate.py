"""`generate`: check an experiment, compose every run, and write configs/ and scripts/."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cruijff_kit import inspect_eval, inspect_tasks, multirun_config, run_mapping, slurm_scripts, sweep, training_checks, workspace, yaml_text
from cruijff_kit.errors import CruijffKitError, ExperimentError, Problem
from cruijff_kit.experiment import Experiment, load
from cruijff_kit.paths import BASELINE, Layout, run_id
from cruijff_kit.run_mapping import Row, RunMapping
from cruijff_kit.sweep import Run
from cruijff_kit.torchtune_config import Composer, load_composer

MANY_RUNS = 100


@dataclass(frozen=True)
class Plan:
    """An experiment without faults, and every run of it.

    Args:
        runs: those of the sweep, in its order.
        added: those that came from overrides, with their rows.
        warnings: what is no fault and should be known.
    """

    composer: Composer
    runs: list[Run]
    added: dict[str, tuple[Run, Row]]
    warnings: list[Problem]

    @property
    def experiment(self) -> Experiment:
        return self.composer.experiment

    @property
    def layout(self) -> Layout:
        return self.composer.layout

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *(run for run, _ in self.added.values())]


def plan(folder: Path, to_run: bool = False) -> Plan:
    """Everything that generate would write for the experiment in `folder`, checked.

    Args:
        to_run: training is about to start: weights that are missing are then an error for all, and data
            that vanished since generate is left to the trainings that read it.

    Raises:
        ExperimentError: every fault that was found.
    """
    experiment = load(folder)
    problems = [*sweep.check(experiment), *inspect_tasks.check(experiment)]
    try:
        composer = load_composer(experiment)
    except ExperimentError as error:
        raise ExperimentError([*problems, *error.problems]) from None
    problems += training_checks.check_names(composer)
    _raise_errors(problems)
    rows = run_mapping.read(Layout.of(experiment))
    runs, added = _compose(composer, rows.added if rows else [])
    problems += training_checks.check_runs(composer, runs, data=not to_run)
    problems += training_checks.check_weights(composer, runs[0], to_run)
    if experiment.spec.evaluation.enabled:
        problems += training_checks.check_evaluable(composer, runs[0])
    problems += _check_size(experiment, len(runs))
    _raise_errors(problems)
    return Plan(composer, runs, added, problems)


def _raise_errors(problems: list[Problem]) -> None:
    if any(problem.level == "error" for problem in problems):
        raise ExperimentError(problems)


def _check_size(experiment: Experiment, runs: int) -> list[Problem]:
    problem, variables = experiment.source.problem, len(experiment.spec.variables)
    problems = []
    if variables > 2:
        problems.append(problem(("variables",), f"{variables} variables are crossed: {runs} runs", level="warning"))
    if runs >= MANY_RUNS:
        problems.append(problem(("variables",), f"{runs} runs", level="warning"))
    return problems


def _compose(composer: Composer, added: Iterable[Row]) -> tuple[list[Run], dict[str, tuple[Run, Row]]]:
    """The sweep's runs and the added ones. Numbers of added runs are theirs; a point equal to one takes its place."""
    experiment = composer.experiment
    points = list(sweep.points(experiment))
    kept = {row.id: (composer.run(row.id, row.params, row.settings, row.torchtune), row) for row in added}
    by_identity = {run.identity: run.id for run, _ in kept.values()}
    numbers = (name for number in range(len(points) + len(kept)) if (name := run_id(number, len(points))) not in kept)
    runs = []
    for params in points:
        run = _compose_point(composer, next(numbers), params)
        if run.identity in by_identity:
            run = _compose_point(composer, by_identity.pop(run.identity), params)
            kept.pop(run.id, None)
        runs.append(run)
    return runs, kept


def _compose_point(composer: Composer, name: str, params: dict) -> Run:
    from omegaconf.errors import OmegaConfBaseException

    experiment = composer.experiment
    try:
        return composer.run(name, params, {**experiment.controls, **params})
    except OmegaConfBaseException as error:
        computed = [key for key, value in experiment.controls.items() if isinstance(value, str) and "${" in value]
        what = f"does not resolve: {str(error).splitlines()[0]}"
        raise ExperimentError([experiment.source.problem(("controls", key), what) for key in computed]) from None


def change(made: Plan, cluster: str = "default") -> workspace.Change:
    """What generate writes, whether or not it is there already."""
    layout, composer, experiment = made.layout, made.composer, made.experiment
    files = {layout.multirun: multirun_config.render(composer)}
    links = {}
    evaluated = experiment.spec.evaluation.enabled
    for run in made.all_runs:
        files[layout.train_config(run.id)] = train_config_text(made, run)
        if evaluated:
            files[layout.eval_script(run.id)] = inspect_eval.render(composer, run)
        if link := composer.checkpoint_link(run.config):
            links[link] = composer.model_dir
    profile = slurm_scripts.profile(cluster)
    files[layout.script("train")] = slurm_scripts.render(experiment, made.all_runs, "train", profile)
    if evaluated:
        files[layout.script("eval")] = slurm_scripts.render(experiment, made.all_runs, "eval", profile)
        if experiment.spec.evaluation.baseline:
            files[layout.eval_script(BASELINE)] = inspect_eval.render_baseline(composer, made.runs[0])
    old = run_mapping.read(layout)
    files[layout.run_mapping] = _mapping_text(made, old)
    ids = [BASELINE, *(row.id for row in old.rows)] if old else []
    ours = {path for run in ids for path in (layout.train_config(run), layout.eval_script(run))} | {layout.script("eval")}
    return workspace.Change(files, links, tuple(sorted(ours - files.keys())))


def train_config_text(made: Plan, run: Run) -> str:
    """The config of `run` with its header: what it is, and the command that runs it."""
    path = made.layout.train_config(run.id)
    lines = [
        f"{made.experiment.name} {run.id}: {', '.join(f'{name}={value!r}' for name, value in run.params.items())}",
        f"Written by `cruijff-kit generate` from {made.composer.base_name}.",
        f"    tune run {run.recipe} --config {made.layout.relative(path)}",
    ]
    if run.recipe != made.composer.recipe:
        lines.append(f"On a CPU {made.composer.recipe} merges LoRA into the weights that it goes on training; this recipe does not.")
    return yaml_text.header(lines) + yaml_text.dump_yaml(run.config)


def _mapping_text(made: Plan, old: RunMapping | None) -> str:
    """Like the old one to the letter if only the time would differ."""
    rows = tuple([*map(Row.of, made.runs), *(row for _, row in made.added.values())])
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    new = RunMapping(made.experiment.name, str(made.experiment.folder), now, rows)
    same = old is not None and replace(new, generated_at=old.generated_at).render() == replace(old).render()
    return replace(new, generated_at=old.generated_at).render() if old and same else new.render()


def generate(
    folder: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    cluster: str = "default",
    confirm: Callable[[int], None] = lambda runs: None,
) -> Plan:
    """Writes what `folder`'s experiment.yaml asks for.

    Args:
        confirm: called with the number of runs where there are many; raises to stop.

    Raises:
        ExperimentError: the experiment has faults.
        CruijffKitError: files that differ are in the way and `force` was not given, or writing failed.
    """
    folder = Path(os.path.abspath(folder))
    if (folder / ".cruijff-kit" / "pending").is_dir():
        with workspace.locked(folder / ".cruijff-kit"):
            workspace.recover(folder / ".cruijff-kit")
    made = plan(folder)
    wanted = change(made, cluster)
    if dry_run:
        return made
    differing = wanted.differing()
    if differing and not force:
        raise CruijffKitError(_differing_text(made, differing))
    needed = wanted.needed()
    if needed:
        if len(made.runs) >= MANY_RUNS:
            confirm(len(made.runs))
        with workspace.locked(made.layout.hidden):
            workspace.write(needed, folder, made.layout.hidden)
    return made


def _differing_text(made: Plan, differing: list[Path]) -> str:
    names = [made.layout.relative(path) for path in differing]
    shown = "\n".join(f"  {name}" for name in names[:10])
    more = f"\n  and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there already, and not what experiment.yaml asks for now:\n{shown}{more}\nnothing was written; to write them anew: cruijff-kit generate --force {made.experiment.folder}"


def check_current(made: Plan) -> None:
    """That configs/ is what experiment.yaml asks for.

    Raises:
        CruijffKitError: the folder was moved, or experiment.yaml or a generated file changed since.
    """
    folder, layout = made.experiment.folder, made.layout
    mapping = run_mapping.read(layout)
    if mapping is None:
        raise CruijffKitError(f"nothing was generated yet: cruijff-kit generate {folder}")
    if mapping.experiment_dir != str(folder):
        raise CruijffKitError(
            f"the folder was moved or copied: its configs were generated for {mapping.experiment_dir}\n"
            f"cruijff-kit generate --force {folder}"
        )
    wanted = change(made)
    scripts = (layout.script("train"), layout.script("eval"))  # another cluster profile may have rendered them
    stale = [path for path in [*wanted.needed().files, *wanted.removals] if path not in scripts and (path in wanted.files or path.exists())]
    if stale:
        names = ", ".join(layout.relative(path) for path in stale[:5]) + (", …" if len(stale) > 5 else "")
        raise CruijffKitError(
            f"experiment.yaml changed since generate, or a generated file was edited: {names}\n"
            f"cruijff-kit generate --force {folder}"
        )
