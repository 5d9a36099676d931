"""What the doctor finds on a node: a short real job with the training's options, set-up lines and Python."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import cluster_profile, node_probe, slurm
from cruijff_kit.batch_script import setup_lines
from cruijff_kit.doctor_files import base_weights
from cruijff_kit.doctor_report import Check
from cruijff_kit.doctor_slurm import gpus
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.plan import Plan
from cruijff_kit.slurm import SlurmBusy, SlurmError

MINUTES = 2
SHOWN = 3

# Options of the stage that are not for a probe.
NOT_FOR_PROBE = ("--begin", "--hold", "--ignore-pbs", "--job-name", "--mail-type", "--mail-user", "--ntasks", "--ntasks-per-node", "--signal", "--time")


def check(made: Plan, stage: Mapping[str, Any], wait_s: int) -> Iterator[Check]:
    """The checks of a node that the profile's stage `stage` gets; a warning where none is free within `wait_s`."""
    files, weights = _files(made), {str(path): size for path, size in base_weights(made).items() if size is not None}
    request = {"folder": str(made.experiment.folder), "files": {**files, **weights}}
    try:
        said = slurm.run_now(_options(stage), ["bash", "-c", script(stage, request)], wait_s)
    except SlurmBusy as busy:
        yield Check("node", "warning", f"not checked: no node was free within {wait_s} s\n{busy}", "--wait 600 waits longer")
        return
    except SlurmError as error:
        fix = f"the nodes need {sys.executable}, and the profile's set-up lines must work there\n--wait 0 leaves this check out"
        yield Check("node", "failed", str(error), fix)
        return
    found = [json.loads(line.removeprefix(node_probe.MARK)) for line in said.splitlines() if line.startswith(node_probe.MARK)]
    if not found:
        what = f"the job ended without an answer: {said.strip() or 'it printed nothing'}"
        yield Check("node", "failed", what, "see the profile's set-up lines: does one of them end the shell?")
    for node in found:
        yield _packages(node)
        yield _folder(node, files)
        yield _weights(node, weights)
        yield _gpus(node, stage)


def script(stage: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """What bash runs on the node: what a job runs before its command, then the probe's own text with this Python."""
    python = shlex.join([sys.executable, "-c", Path(node_probe.__file__).read_text(encoding="utf-8"), json.dumps(request)])
    path = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    return "\n".join(["set -eo pipefail", path, *setup_lines(stage), f"exec {python}"])


def _options(stage: Mapping[str, Any]) -> list[str]:
    """Those of the stage for a short job, one task a node."""
    kept = [option for option in cluster_profile.sbatch_options(stage) if option.partition("=")[0] not in (*slurm.SBATCH_ONLY, *NOT_FOR_PROBE)]
    minutes = min(MINUTES, stage["timeout_min"] or MINUTES)
    return [*kept, f"--time={minutes}", "--ntasks-per-node=1", "--job-name=cruijff-kit-doctor"]


def _files(made: Plan) -> dict[str, int]:
    """experiment.yaml and what generate wrote for the first and the last run, with their sizes: all of them are too long for a command."""
    runs = [made.all_runs[0].id, made.all_runs[-1].id]
    paths = [made.experiment.folder / FILE_NAME, *map(made.layout.train_config, runs), *map(made.layout.eval_script, runs)]
    return {str(path): path.stat().st_size for path in paths if path.is_file()}


def _packages(node: Mapping[str, Any]) -> Check:
    host, here, there = node["host"], node_probe.versions(), node["versions"]
    shown = [(name, there[name] or "not installed", here[name] or "not installed") for name in here if here[name] != there[name]]
    differ = [f"{name} is {other} there and {own} here" for name, other, own in shown]
    if differ:
        fix = f"{sys.executable} must be the same environment on every node; a set-up line may put another before it"
        return Check("node python", "failed", "\n".join([f"{host}:", *differ]), fix)
    versions = ", ".join(f"{name} {version}" for name, version in there.items() if version)
    return Check("node python", "ok", f"{host}: the same as here: {versions}")


def _folder(node: Mapping[str, Any], files: Mapping[str, int]) -> Check:
    host, faults = node["host"], _faults(node, files)
    if node["folder"]:
        faults = [f"nothing can be written in the experiment's folder: {node['folder']}", *faults]
    if faults:
        fix = "the experiment must lie on a disk that this machine and the compute nodes share"
        return Check("node folder", "failed", "\n".join([f"{host}:", *faults]), fix)
    return Check("node folder", "ok", f"{host}: can be written, and experiment.yaml {'and the configs are' if len(files) > 1 else 'is'} there")


def _weights(node: Mapping[str, Any], weights: Mapping[str, int]) -> Check:
    host, faults = node["host"], _faults(node, weights)
    if faults:
        fix = "the base weights must lie on a disk that this machine and the compute nodes share"
        return Check("node weights", "failed", "\n".join([f"{host}:", *faults]), fix)
    if not weights:
        return Check("node weights", "warning", f"{host}: no weights to look for")
    return Check("node weights", "ok", f"{host}: {len(weights)} file{'' if len(weights) == 1 else 's'} of the same size can be read")


def _faults(node: Mapping[str, Any], files: Mapping[str, int]) -> list[str]:
    faults = [f"{path}: {fault}" for path, fault in node["files"].items() if path in files]
    more = len(faults) - SHOWN
    return [*faults[:SHOWN], f"and {more} more"] if more > 0 else faults


def _gpus(node: Mapping[str, Any], stage: Mapping[str, Any]) -> Check:
    host, wanted, seen, driver = node["host"], gpus(stage), node["gpus"], node["nvidia_smi"]
    if seen is None:
        state = "warning" if wanted else "ok"
        return Check("node GPUs", state, f"{host}: {wanted} asked for; neither Slurm nor nvidia-smi says which the job has")
    what = f"{host}: {wanted} asked for, {len(seen)} given" + (f": {'; '.join(driver)}" if driver else "")
    if len(seen) < wanted:
        return Check("node GPUs", "failed", what, "see what the nodes have: sinfo -o '%N %G'")
    if driver == [] and wanted:
        return Check("node GPUs", "failed", f"{what}; nvidia-smi sees none", "the node's driver does not work: tell who runs the cluster")
    return Check("node GPUs", "ok", what)
