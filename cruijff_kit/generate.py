"""`generate`: write configs/ and scripts/ as a plan has them, where nothing of the user's is in the way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from cruijff_kit import cluster_profile, distributed, inspect_eval, multirun_config, occupied, slurm_scripts, torchtune_catalog, workspace, yaml_text
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.paths import BASELINE, HIDDEN, Layout, run_number
from cruijff_kit.plan import MANY_RUNS, Plan, plan
from cruijff_kit.run_mapping import Row, RunMapping
from cruijff_kit.sweep import Run


def change(made: Plan) -> workspace.Change:
    """What generate writes, whether or not it is there already."""
    layout, composer, experiment = made.layout, made.composer, made.experiment
    files = {layout.multirun: multirun_config.render(composer, made.cluster)}
    links = {}
    evaluated, render = experiment.spec.evaluation.enabled, inspect_eval.renderer(composer)
    for run in made.all_runs:
        files[layout.train_config(run.id)] = train_config_text(made, run)
        if evaluated:
            files[layout.eval_script(run.id)] = render(run)
        if link := composer.checkpoint_link(run.config):
            links[link] = composer.model_dir
    files[layout.script("train")] = slurm_scripts.render(experiment, made.all_runs, "train", made.profile["train"])
    if evaluated:
        files[layout.script("eval")] = slurm_scripts.render(experiment, made.all_runs, "eval", made.profile["eval"])
        if experiment.spec.evaluation.group_by_base:
            files[layout.eval_group] = inspect_eval.render_group(composer, [run.id for run in made.all_runs])
        if experiment.spec.evaluation.baseline:
            files[layout.eval_script(BASELINE)] = inspect_eval.render_baseline(composer, made.runs[0])
    files[layout.run_mapping] = _mapping_text(made)
    ids = [BASELINE, *(row.id for row in made.old.rows)] if made.old else []
    ours = {path for run in ids for path in (layout.train_config(run), layout.eval_script(run))} | {layout.script("eval"), layout.eval_group}
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
    lines = [
        f"{made.experiment.name} {run.id}: {', '.join(f'{name}={value!r}' for name, value in run.params.items())}",
        f"Written by `cruijff-kit generate` from {made.composer.base_name}.",
        f"    {_command(made, run)}",
    ]
    if run.recipe != made.composer.recipe:
        lines.append(f"On a CPU {made.composer.recipe} merges LoRA into the weights that it goes on training; this recipe does not.")
    return yaml_text.header(lines) + yaml_text.dump_yaml(run.config)


def _command(made: Plan, run: Run) -> str:
    """What trains `run` by hand, where one node is enough."""
    train = made.profile["train"]
    words = distributed.tune_words(run.recipe, made.experiment.folder, cluster_profile.nodes(train), cluster_profile.gpus_per_node(train))
    if "--nnodes" in words:
        return f"sbatch --array={run_number(run.id)} {made.layout.relative(made.layout.script('train'))}"
    return " ".join(["tune run", *words, run.recipe, "--config", made.layout.relative(made.layout.train_config(run.id))])


def _mapping_text(made: Plan) -> str:
    """Like the old one to the letter if only the time would differ."""
    rows = [replace(made.rows[run.id], params=run.params) if run.id in made.rows else Row.of(run) for run in made.all_runs]
    there = {row.id for row in rows}
    rows += [row for name, row in {**made.rows, **made.retired}.items() if name not in there]
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    new = RunMapping(made.experiment.name, str(made.experiment.folder), now, tuple(rows), made.cluster, made.keep_ids)
    same = made.old and replace(new, generated_at=made.old.generated_at).render()
    return same if made.old and same == made.old.render() else new.render()


class _InTheWay(CruijffKitError):
    """Files are there that differ from what is to be written."""


def _confirmed(runs: int) -> None:
    """The answer of a program that did not ask, or has asked already."""


def generate(
    folder: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    keep_ids: bool = False,
    cluster: str | None = None,
    confirm: Callable[[int], None] = _confirmed,
) -> Plan:
    """Writes what `folder`'s experiment.yaml asks for.

    Args:
        force: generated files that differ are overwritten.
        keep_ids: likewise, and every run that was there keeps its number.
        cluster: the profile of scripts/; None for that of last time.
        confirm: called with the number of runs where there are many; raises to stop.

    Raises:
        ExperimentError: the experiment has faults.
        CruijffKitError: files that differ are in the way and `force` was not given, a run's number has the
            results of another, or writing failed.
    """
    folder, force = Path(os.path.abspath(folder)), force or keep_ids
    if dry_run:
        return plan(folder, force=force, keep_ids=keep_ids, cluster=cluster)
    made = wanted = None
    if not (folder / HIDDEN).exists():  # the lock is made in a folder of ours only: faults leave it as it was
        made = plan(folder, force=force, keep_ids=keep_ids, cluster=cluster)
        try:
            wanted = _checked(made, force, confirm)
        except _InTheWay:
            if not (folder / HIDDEN).exists():
                raise
            made = None  # another command has written meanwhile: looked at anew once it is done
        else:
            confirm = _confirmed
    with workspace.locked(folder / HIDDEN):
        workspace.recover(folder / HIDDEN)
        if made is None or made.layout.run_mapping.exists():  # another command may have written since
            made, wanted = plan(folder, force=force, keep_ids=keep_ids, cluster=cluster), None
        workspace.write(wanted or _checked(made, force, confirm), folder, made.layout.hidden)
    return made


def _checked(made: Plan, force: bool, confirm: Callable[[int], None]) -> workspace.Change:
    """What there is to write, where nothing stands against it."""
    wanted = change(made)
    if conflict := occupied.conflict(made):
        raise CruijffKitError(conflict)
    needed = wanted.needed()
    differing = needed.differing()
    if differing and not force and not _only_adds_tasks(made, wanted, differing):
        raise _InTheWay(_differing_text(made, differing))
    workspace.check(needed, made.experiment.folder)
    if len(made.runs) >= MANY_RUNS and needed:
        confirm(len(made.runs))
    return needed


def _only_adds_tasks(made: Plan, wanted: workspace.Change, differing: list[Path]) -> bool:
    """Whether the runs are as they were, with more to evaluate: nothing that differs then loses a line."""
    import yaml

    if made.old is None:
        return False
    with suppress(OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):  # what cannot be read is no addition
        return _adds_tasks(made, made.old, wanted, differing)
    return False


def _adds_tasks(made: Plan, old: RunMapping, wanted: workspace.Change, differing: list[Path]) -> bool:
    same = [(run.id, run.identity) for run in made.all_runs] == [(row.id, row.identity) for row in old.rows if not row.retired]
    before = (torchtune_catalog.read_config(made.layout.multirun).get("evaluation") or {}).get("tasks") or []
    now = [task.name for task in made.experiment.spec.evaluation.tasks]
    others = [path for path in differing if path != made.layout.run_mapping]
    return same and set(before) < set(now) and all(_only_adds(path, wanted.files.get(path, "")) for path in others)


def _only_adds(path: Path, text: str) -> bool:
    """Whether every line of the file at `path` stands in `text`, in the same order."""
    lines = iter(text.splitlines())
    return all(line in lines for line in path.read_text(encoding="utf-8").splitlines())


def _differing_text(made: Plan, differing: list[Path]) -> str:
    names = [made.layout.relative(path) for path in differing]
    shown = "\n".join(f"  {name}" for name in names[:10])
    more = f"\n  and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there already, and not what experiment.yaml asks for now:\n{shown}{more}\nnothing was written; to write them anew: cruijff-kit generate --force {shlex.quote(str(made.experiment.folder))}"


def check_place(generated: Path, folder: Path) -> None:
    """That `folder` is the one that its configs were generated for: they hold absolute paths.

    Raises:
        CruijffKitError: it was moved or copied since.
    """
    if generated != folder and not (generated.exists() and generated.samefile(folder)):
        raise CruijffKitError(
            f"the folder was moved or copied: its configs were generated for {generated}\ncruijff-kit generate --force {shlex.quote(str(folder))}"
        )


def check_current(made: Plan) -> workspace.Change:
    """What generate writes, where all of it is there: configs/ is what experiment.yaml asks for.

    Raises:
        CruijffKitError: the folder was moved, or experiment.yaml or a generated file changed since.
    """
    folder, layout = made.experiment.folder, made.layout
    if made.old is None:
        raise CruijffKitError(f"nothing was generated yet: cruijff-kit generate {shlex.quote(str(folder))}")
    check_place(Path(made.old.experiment_dir), folder)
    wanted = change(made)
    needed = wanted.needed()
    stale = [*needed.files, *needed.removals]
    if stale:
        names = ", ".join(layout.relative(path) for path in stale[:5]) + (", …" if len(stale) > 5 else "")
        raise CruijffKitError(
            f"experiment.yaml changed since generate, or a generated file was edited: {names}\n"
            + (occupied.conflict(made) or f"cruijff-kit generate --force {shlex.quote(str(folder))}")
        )
    return wanted
