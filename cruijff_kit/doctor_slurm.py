"""What the doctor finds about Slurm itself: programs, controller, limits, accounts, and what it says of each stage's options."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cruijff_kit import cluster_profile, slurm
from cruijff_kit.doctor_report import Check
from cruijff_kit.slurm import SlurmError
from cruijff_kit.slurm_output import Association, Limits

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
STAGES = {"train": "train stage", "eval": "eval stage"}

Stages = Mapping[str, Mapping[str, Any]]


def gpus(stage: Mapping[str, Any]) -> int:
    """The GPUs that a stage asks for on each node: none where it names none."""
    asks = stage["gpus_per_node"] if stage["gpus_per_node"] is not None else "gpu" in (stage["gres"] or "")
    return cluster_profile.gpus_per_node(stage) if asks else 0


def preflight() -> str:
    """What is asked before anything is submitted, at once: whether the programs are there and the controller answers; which one.

    Raises:
        SlurmError: one is not, or it does not.
    """
    for program in PROGRAMS:
        slurm.find(program)
    return slurm.ping()


def reached() -> tuple[Check, Limits | None]:
    """Whether Slurm can be reached, and its limits if so."""
    try:
        controller = preflight()
        limits = slurm.limits()
    except SlurmError as error:
        return Check("slurm", "failed", str(error), "try on the cluster's login node; if it is one, ask who runs the cluster"), None
    return Check("slurm", "ok", f"Slurm {limits.version}, cluster {limits.cluster}: {controller}"), limits


def check(stages: Stages, runs: int, limits: Limits) -> Iterator[Check]:
    """The checks of a cluster that answers, for a sweep of so many runs."""
    yield _arrays(runs, limits)
    yield _accounting(limits)
    yield from _account(stages, limits)
    for stage, name in STAGES.items():
        yield _stage(name, cluster_profile.sbatch_options(stages[stage]), min(runs, limits.max_array_size))


def _arrays(runs: int, limits: Limits) -> Check:
    most, count = limits.max_array_size, f"{runs:,} run{'' if runs == 1 else 's'}"
    if most < 1:
        return Check("arrays", "failed", "this cluster takes no job arrays (MaxArraySize is 0)", "ask who runs the cluster to set MaxArraySize")
    number = math.ceil(runs / most)
    arrays = "one array" if number <= 1 else f"{number} arrays"
    return Check("arrays", "ok", f"{count} go in {arrays} a stage (MaxArraySize is {most:,})")


def _accounting(limits: Limits) -> Check:
    if limits.accounting:
        return Check("accounting", "ok", "on: Slurm can say how each job ended")
    return Check("accounting", "warning", "off: of a job that dies without a trace, killed or out of memory, only its log tells")


def _account(stages: Stages, limits: Limits) -> Iterator[Check]:
    """Accounts and qualities of service, which `--test-only` looks at only where the cluster enforces associations."""
    accounts, qualities = _named(stages, "account"), _named(stages, "qos")
    named = ", ".join([*(f"account {name}" for name in accounts), *(f"qos {name}" for name in qualities)])
    if not limits.accounting:
        if named:
            yield Check("account", "warning", f"{named}: not checked: --test-only does not, and there is no accounting to ask")
        return
    try:
        mine = slurm.associations(limits.cluster)
    except SlurmError as error:
        yield Check("account", "warning", f"{named or 'your account'}: not checked: {error}")
        return
    yield _allowed(accounts, qualities, mine, limits)


def _named(stages: Stages, key: str) -> list[str]:
    values = [stages[stage][key] for stage in STAGES]
    return list(dict.fromkeys(str(value) for value in values if value))


def _allowed(accounts: list[str], qualities: list[str], mine: list[Association], limits: Limits) -> Check:
    """Whether the user has those accounts and qualities; where Slurm does not insist on it, it is a warning if not."""
    unknown = [f"account {name} is none of yours" for name in accounts if name not in {each.account for each in mine}]
    if not mine:
        unknown = [f"you have no account on cluster {limits.cluster}", *unknown]
    candidates = [each for each in mine if each.account in accounts] or mine
    unfit = [f"qos {name} goes with no account of yours" for name in qualities if name not in {qos for each in candidates for qos in each.qos}]
    yours = "yours: " + ("; ".join(f"{each.account} (qos {', '.join(each.qos) or 'none'})" for each in mine) or "none")
    insists = (unknown and {"associations", "limits", "safe", "qos"} & set(limits.enforced)) or (unfit and "qos" in limits.enforced)
    if insists:
        return Check("account", "failed", "\n".join([*unknown, *unfit]), f"{yours}\nask who runs the cluster for others")
    if (accounts and unknown) or unfit:
        return Check("account", "warning", "\n".join([*unknown, *unfit, "this cluster does not insist on it"]), yours)
    return Check("account", "ok", yours)


def _stage(name: str, given: list[str], tasks: int) -> Check:
    """What `sbatch --test-only` says of an array of the stage."""
    shown = " ".join(given) or "no options"
    try:
        said = slurm.test_script("#!/bin/bash\ntrue\n", [*given, f"--array=0-{max(tasks, 1) - 1}"])
    except SlurmError as error:
        return Check(name, "failed", str(error), f"asked for: {shown}\nthe cluster profile says so, and sinfo shows what there is")
    return Check(name, "ok", f"{said}\nasked for: {shown}")
