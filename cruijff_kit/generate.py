"""`generate`: check an experiment, compose every run, and write configs/ and scripts/."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cruijff_kit import inspect_eval, inspect_tasks, multirun_config, run_mapping, slurm_scripts, sweep, training_checks, workspace, yaml_text
from cruijff_kit.base_config import load_composer
from cruijff_kit.config_tree import is_computed
from cruijff_kit.errors import CruijffKitError, ExperimentError, Problem
from cruijff_kit.experiment import Experiment, load
from cruijff_kit.parameters import parameter
from cruijff_kit.paths import BASELINE, HIDDEN, Layout, run_id
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
        old: what run_mapping.yaml holds.
        warnings: what is no fault and should be known.
    """

    composer: Composer
    runs: list[Run]
    added: list[Run]
    rows: dict[str, Row]
    old: RunMapping | None
    warnings: list[Problem]

    @property
    def experiment(self) -> Experiment:
        return self.composer.experiment

    @property
    def layout(self) -> Layout:
        return self.composer.layout

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *self.added]


def plan(folder: Path, to_run: bool = False, weights: bool = False, force: bool = False) -> Plan:
    """Everything that generate would write for the experiment in `folder`, checked.

    Args:
        to_run: stages are about to start: data that vanished since generate is left to the trainings that read it.
        weights: trainings are among them: weights that are missing are then an error.
        force: a run_mapping.yaml that cannot be read counts as none.

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
    old = run_mapping.read(composer.layout, force)
    rows = {row.id: row for row in (old.added if old else [])}
    runs, added = _compose(composer, rows)
    problems += training_checks.check_runs(composer, runs, data=not to_run)
    problems += training_checks.check_weights(composer, runs[0], weights)
    if experiment.spec.evaluation.enabled:
        problems += training_checks.check_evaluable(composer, runs[0])
    problems += _check_size(experiment, len(runs))
    _raise_errors(problems)
    return Plan(composer, runs, added, rows, old, problems)


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


def _compose(composer: Composer, rows: dict[str, Row]) -> tuple[list[Run], list[Run]]:
    """The sweep's runs, and those that came from overrides: their numbers are theirs, and a point equal to one has its."""
    points = [_compose_point(composer, params) for params in sweep.points(composer.experiment)]
    fitting = {name: row for name, row in rows.items() if _fits(composer, row)}  # the others keep their rows alone
    added = {name: composer.run(name, row.params, row.settings, row.torchtune) for name, row in fitting.items()}
    theirs = {run.identity: name for name, run in added.items()}
    numbers = (name for number in itertools.count() if (name := run_id(number, len(points))) not in rows)
    runs = [composer.named(run, theirs[run.identity] if run.identity in theirs else next(numbers)) for run in points]
    taken = {run.id for run in runs}
    return runs, [run for name, run in added.items() if name not in taken]


def _fits(composer: Composer, row: Row) -> bool:
    """Whether the base config, which may be another by now, has a place for all that an added run sets."""
    return all(composer.key_fault(torchtune_key(name)) is None for name in row.settings)


def _compose_point(composer: Composer, params: dict) -> Run:
    """The run of one point, without a number yet."""
    settings = {**composer.experiment.controls, **params}
    faults = composer.unresolved(settings)
    if not faults:
        run = composer.run("", params, settings)
        computed = {name: run.settings[name] for name in composer.experiment.controls if is_computed(settings[name])}
        faults = {name: known.fault(value) for name, value in computed.items() if (known := parameter(name))}
        if not any(faults.values()):
            return run
    else:
        faults = {name: f"does not resolve: {why}" for name, why in faults.items()}
    problem = composer.experiment.source.problem
    raise ExperimentError(problem(("controls", name), what) for name, what in faults.items() if what)


def change(made: Plan, cluster: str | None = None) -> workspace.Change:
    """What generate writes, whether or not it is there already; for the profile of last time if `cluster` is None."""
    cluster = cluster or (made.old.cluster if made.old else "default")
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
    files[layout.run_mapping] = _mapping_text(made, cluster)
    ids = [BASELINE, *(row.id for row in made.old.rows)] if made.old else []
    ours = {path for run in ids for path in (layout.train_config(run), layout.eval_script(run))} | {layout.script("eval")}
    idle = set(_idle_links(made.layout, ids, links))
    return workspace.Change(files, links, tuple(sorted((ours - files.keys()) | idle)))


def _idle_links(layout: Layout, ids: Iterable[str], wanted: Container[Path]) -> Iterator[Path]:
    """The links to the model that generate made and `wanted` lacks; a link of the user's, hf_model on a bigger disk, is none."""
    for run in ids:
        folder = layout.run_results(run)
        there = [path for path in (folder.iterdir() if folder.is_dir() else ()) if path.is_symlink() and path not in wanted]
        if there and layout.train_config(run).is_file():
            text = layout.train_config(run).read_text(encoding="utf-8", errors="replace")
            yield from (path for path in there if f"checkpoint_dir: ${{output_dir}}/{path.name}\n" in text)


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


def _mapping_text(made: Plan, cluster: str) -> str:
    """Like the old one to the letter if only the time would differ."""
    rows = [replace(made.rows[run.id], params=run.params) if run.id in made.rows else Row.of(run) for run in made.all_runs]
    there = {row.id for row in rows}
    rows += [row for name, row in made.rows.items() if name not in there]
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    new = RunMapping(made.experiment.name, str(made.experiment.folder), now, tuple(rows), cluster)
    same = made.old and replace(new, generated_at=made.old.generated_at).render()
    return same if made.old and same == made.old.render() else new.render()


def _confirmed(runs: int) -> None:
    """The answer of a program that did not ask, or has asked already."""


def generate(
    folder: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    cluster: str | None = None,
    confirm: Callable[[int], None] = _confirmed,
) -> Plan:
    """Writes what `folder`'s experiment.yaml asks for.

    Args:
        cluster: the profile of scripts/; None for that of last time.
        confirm: called with the number of runs where there are many; raises to stop.

    Raises:
        ExperimentError: the experiment has faults.
        CruijffKitError: files that differ are in the way and `force` was not given, or writing failed.
    """
    folder = Path(os.path.abspath(folder))
    made = None
    if not (folder / HIDDEN).exists():  # the lock is made in a folder of ours only: faults leave it as it was
        made = plan(folder, force=force)
        if dry_run:
            return made
        _check(made, change(made, cluster), force, confirm)
        confirm = _confirmed
    with workspace.locked(folder / HIDDEN):
        workspace.recover(folder / HIDDEN)
        if made is None or made.layout.run_mapping.exists():
            made = plan(folder, force=force)
        if not dry_run:
            wanted = change(made, cluster)
            _check(made, wanted, force, confirm)
            if needed := wanted.needed():
                workspace.write(needed, folder, made.layout.hidden)
    return made


def _check(made: Plan, wanted: workspace.Change, force: bool, confirm: Callable[[int], None]) -> None:
    differing = wanted.differing()
    if differing and not force:
        raise CruijffKitError(_differing_text(made, differing))
    needed = wanted.needed()
    workspace.check(needed, made.experiment.folder)
    if len(made.runs) >= MANY_RUNS and needed:
        confirm(len(made.runs))


def _differing_text(made: Plan, differing: list[Path]) -> str:
    names = [made.layout.relative(path) for path in differing]
    shown = "\n".join(f"  {name}" for name in names[:10])
    more = f"\n  and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there already, and not what experiment.yaml asks for now:\n{shown}{more}\nnothing was written; to write them anew: cruijff-kit generate --force {made.experiment.folder}"


def check_place(generated: Path, folder: Path) -> None:
    """That `folder` is the one that its configs were generated for: they hold absolute paths.

    Raises:
        CruijffKitError: it was moved or copied since.
    """
    if generated != folder and not (generated.exists() and generated.samefile(folder)):
        raise CruijffKitError(
            f"the folder was moved or copied: its configs were generated for {generated}\ncruijff-kit generate --force {folder}"
        )


def check_current(made: Plan) -> None:
    """That configs/ is what experiment.yaml asks for.

    Raises:
        CruijffKitError: the folder was moved, or experiment.yaml or a generated file changed since.
    """
    folder, layout = made.experiment.folder, made.layout
    if made.old is None:
        raise CruijffKitError(f"nothing was generated yet: cruijff-kit generate {folder}")
    check_place(Path(made.old.experiment_dir), folder)
    wanted = change(made)
    stale = [*wanted.needed().files, *wanted.needed().removals]
    if stale:
        names = ", ".join(layout.relative(path) for path in stale[:5]) + (", …" if len(stale) > 5 else "")
        raise CruijffKitError(
            f"experiment.yaml changed since generate, or a generated file was edited: {names}\n"
            f"cruijff-kit generate --force {folder}"
        )
