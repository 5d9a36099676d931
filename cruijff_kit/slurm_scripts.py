"""scripts/*.sh: the sweep as sbatch arrays, of the same commands that a user would type."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from cruijff_kit.errors import CruijffKitError, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import Layout, conf_dir
from cruijff_kit.sweep import Run

# Keys of a cluster profile, named as in hydra-submitit-launcher, and their sbatch options.
OPTIONS = {
    "partition": "--partition={}",
    "account": "--account={}",
    "qos": "--qos={}",
    "constraint": "--constraint={}",
    "nodes": "--nodes={}",
    "gpus_per_node": "--gpus-per-node={}",
    "cpus_per_task": "--cpus-per-task={}",
    "mem_gb": "--mem={}G",
    "timeout_min": "--time={}",
}

NUMBERS = ("nodes", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")

SCRIPT = """\
#!/bin/bash
# {what} of {name}, a run a task.
#
#     sbatch scripts/{stage}_sweep.sh
#
#SBATCH --job-name={name}-{stage}
#SBATCH --array={array}
{directives}
set -eo pipefail
export PATH={bin}:"$PATH"
{setup}printf -v id '%0{width}d' "${{SLURM_ARRAY_TASK_ID:?is not set: this is an array for sbatch}}"
{odd}{command}
"""


def profile(name: str) -> dict[str, Any]:
    """The cluster profile `name`: the user's own, else the packaged one.

    Raises:
        CruijffKitError: there is none of that name, or it holds what is no option.
    """
    import yaml

    own = Path(os.environ.get("CRUIJFF_KIT_CONF", Path.home() / ".config" / "cruijff-kit"))
    folders = [own / "cluster", conf_dir() / "cluster"]
    path = None if os.sep in name else next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    if path is None:
        names = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise CruijffKitError(f"no cluster profile '{name}': {closest(name, names) or 'there are ' + ', '.join(names)}")
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CruijffKitError(f"{path} cannot be read: {error}") from None
    if not isinstance(stages, dict) or not all(isinstance(values, dict | None) for values in stages.values()):
        raise CruijffKitError(f"{path}: expected the stages train and eval, with their options below")
    for stage, values in stages.items():
        if stage not in ("train", "eval"):
            raise CruijffKitError(f"{path}: unknown stage '{stage}': there are 'train' and 'eval'")
        for key, value in (values or {}).items():
            fault = _option_fault(f"{stage}.{key}", key, value)
            if fault:
                raise CruijffKitError(f"{path}: {fault}")
    return stages


def gpus(cluster: str) -> int:
    """The GPUs that a training has with the cluster profile of that name: one where it says none."""
    train = profile(cluster).get("train") or {}
    return max(1, (train.get("nodes") or 1) * (train.get("gpus_per_node") or 1))


def _option_fault(name: str, key: str, value: Any) -> str | None:
    """What is wrong with an option of a profile, shown as `name`."""
    if key not in (*OPTIONS, "setup"):
        return f"unknown key '{name}': " + (closest(str(key), [*OPTIONS, "setup"]) or f"there are {', '.join([*OPTIONS, 'setup'])}")
    if value is None:
        return None
    if key == "setup":
        lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
        return None if lines else f"{name}: expected a list of shell lines"
    if key in NUMBERS:
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if number else f"{name}: expected a whole number, got {value!r}"
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        return f"{name}: expected text, got {value!r}"
    return f"{name} holds a space or a line break: {value!r}" if re.search(r"\s", str(value)) else None


def render(experiment: Experiment, runs: list[Run], stage: str, stages: Mapping[str, Any]) -> str:
    """The script that runs one stage of all `runs`; `stages` is a cluster profile."""
    resources = stages.get(stage) or {}
    directives = [f"#SBATCH {OPTIONS[key].format(value)}" for key, value in resources.items() if key != "setup" and value is not None]
    numbers = [run.id.removeprefix("run_") for run in runs]
    return SCRIPT.format(
        what={"train": "Training", "eval": "Evaluation"}[stage],
        name=experiment.name,
        stage=stage,
        array=_ranges([int(number) for number in numbers]),
        directives="\n".join(directives),
        bin=shlex.quote(str(Path(sys.executable).parent)),
        setup="".join(f"{line}\n" for line in resources.get("setup") or ()),
        width=len(numbers[0]),
        odd=_odd_widths(numbers),
        command=_command(experiment, runs, stage),
    )


def _odd_widths(numbers: list[str]) -> str:
    """Runs that were added to a sweep of another size have names of another width."""
    cases = [f"  {int(number)}) id={number} ;;\n" for number in numbers if f"{int(number):0{len(numbers[0])}d}" != number]
    return f'case "$SLURM_ARRAY_TASK_ID" in\n{"".join(cases)}esac\n' if cases else ""


def _command(experiment: Experiment, runs: list[Run], stage: str) -> str:
    configs = shlex.quote(str(Layout.of(experiment).configs))
    if stage == "eval":
        return f'exec python {configs}/"eval_$id.py"'
    recipes = sorted({run.recipe for run in runs})
    if len(recipes) == 1:
        return f'exec tune run {shlex.quote(recipes[0])} --config {configs}/"train_$id.yaml"'
    cases = []
    for recipe in recipes:
        numbers = "|".join(run.id.removeprefix("run_") for run in runs if run.recipe == recipe)
        cases.append(f"  {numbers}) recipe={shlex.quote(recipe)} ;;")
    lines = ['case "$id" in', *cases, "esac", f'exec tune run "$recipe" --config {configs}/"train_$id.yaml"']
    return "\n".join(lines)


def _ranges(numbers: list[int]) -> str:
    """`0-3,7` of 0, 1, 2, 3 and 7."""
    parts = []
    for _, group in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(parts)
