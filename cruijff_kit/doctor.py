"""`cruijff-kit doctor`: everything that can be known before a sweep waits in a queue. Submits nothing but a job of seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cruijff_kit import cluster_profile, doctor_files, doctor_node, doctor_slurm
from cruijff_kit.doctor_report import Check
from cruijff_kit.doctor_slurm import Stages
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.plan import Plan, plan


def examine(folder: Path, cluster: str | None, wait_s: int, say: Callable[[str], object]) -> Iterator[Check]:
    """One check after the other, as each is done. What needs something that failed is left out, or said to be unchecked.

    Args:
        cluster: the profile; None for that of the generated scripts.
        wait_s: how long the job that looks at a node may wait for one; 0 for no such job.
        say: told what takes long.
    """
    experiment, made = _experiment(folder, cluster)
    yield experiment
    profile, stages = _profile(cluster or (made.cluster if made else "default"))
    yield profile
    reached, limits = doctor_slurm.reached()
    yield reached
    failed = stages is None or limits is None
    if stages is not None and limits is not None:
        for check in doctor_slurm.check(stages, len(made.runs) if made else 1, limits):
            failed |= check.state == "failed"
            yield check
    if made is not None:
        yield from doctor_files.check(made)
    if made is None or stages is None or failed or wait_s <= 0:
        yield Check("node", "warning", "not checked: " + ("--wait is 0" if made and not failed else "see what failed above"))
        return
    say(f"waiting for a node, {wait_s} s at the most …")
    yield from doctor_node.check(made, stages["train"], wait_s)


def _experiment(folder: Path, cluster: str | None) -> tuple[Check, Plan | None]:
    try:
        made = plan(folder, weights=True, cluster=cluster)
    except CruijffKitError as error:
        return Check("experiment", "failed", str(error)), None
    runs, tasks = len(made.runs), len(made.experiment.tasks)
    what = f"{runs} run{'' if runs == 1 else 's'}, {tasks} evaluation task{'' if tasks == 1 else 's'}"
    if made.warnings:
        return Check("experiment", "warning", "\n".join([what, *map(str, made.warnings)])), made
    return Check("experiment", "ok", what), made


def _profile(name: str) -> tuple[Check, Stages | None]:
    try:
        stages = cluster_profile.profile(name)
    except CruijffKitError as error:
        return Check("cluster", "failed", str(error)), None
    return Check("cluster", "ok", f"profile {name}"), stages
