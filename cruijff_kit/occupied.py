"""Whether a run's number holds the work of another run: results on disk, or a training under way or queued."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, paths, slurm, workspace
from cruijff_kit.launches import find, open_launches
from cruijff_kit.plan import Plan
from cruijff_kit.sweep import Run

SHOWN = 10
TRAINING = "is the training"
QUEUED = "is in Slurm's queue with the training"


def conflict(made: Plan) -> str | None:
    """What says that `made` puts another config on a number that is in use, or None."""
    found = list(_conflicts(made))
    if not found:
        return None
    shown = [f"  {line}" for line in found[:SHOWN]] + ([f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])
    return "\n".join(
        [
            "numbers that are in use would become other runs:",
            *shown,
            "nothing was written; to keep every run's number and give new ones to new runs:",
            f"cruijff-kit generate --keep-ids {shlex.quote(str(made.experiment.folder))}",
            "or move those results away first",
        ]
    )


def _conflicts(made: Plan) -> Iterator[str]:
    rows = {row.id: row for row in made.old.rows} if made.old else {}
    others = [run for run in made.all_runs if run.id not in rows or rows[run.id].identity != run.identity]
    queued = _queued(made.layout.launches) if others else set()
    for run in others:
        row = rows.get(run.id)
        use = QUEUED if run.id in queued else _use(made, run.id)
        if use and (row is not None or use in (TRAINING, QUEUED) or _trained_as_another(made, run)):
            was, now = _shown(row.params) if row else "another config", _shown(run.params)
            yield f"{run.id} {use} of {was}, and would be {'the same with other controls' if was == now else now}"


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items()) or "the base config"


def _queued(launches: Path) -> set[str]:
    """The runs whose training waits or runs on Slurm; none where no Slurm answers."""
    if not launches.is_dir():
        return set()
    there = open_launches(launches)
    try:
        found = find(there, slurm.queue()) if there else None
    except slurm.SlurmError:
        return set()
    return {text.split()[0] for stage, text in found.live if stage == "train"} if found else set()


def _use(made: Plan, run: str) -> str | None:
    """What a run's number is in use for."""
    if workspace.is_held(paths.held(made.experiment.folder, "train", run)):
        return TRAINING
    results, scores = made.layout.run_results(run), made.layout.run_eval_results(run)
    if any(not path.is_symlink() for path in _entries(results)) or _entries(scores):
        return "has the results"
    return None


def _entries(folder: Path) -> list[Path]:
    """What lies there beside the record of a stage, which may have failed before it wrote anything."""
    return [path for path in folder.iterdir() if path.name != paths.RECORD] if folder.is_dir() else []


def _trained_as_another(made: Plan, run: Run) -> bool:
    """Whether torchtune's copy of its config, in results of which no row tells, is another than that of `run`."""
    trained = checkpoint.trained_identity(made.layout.run_results(run.id), made.experiment.folder)
    return trained is not None and trained != run.identity
