"""scripts/*.sh: the sweep as sbatch arrays, of the same commands that a user would type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cruijff_kit import cluster_profile, distributed
from cruijff_kit.batch_script import setup_lines
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import Layout
from cruijff_kit.slurm_output import ranges
from cruijff_kit.sweep import Run

GROUP = """\
#!/bin/bash
# Evaluation of {name}: all runs, one after the other.
#
#     sbatch scripts/eval_sweep.sh
#
#SBATCH --job-name={name}-eval
{directives}set -eo pipefail
export PATH={bin}:"$PATH"
{setup}exec python {script}
"""

SCRIPT = """\
#!/bin/bash
# {what} of {name}, a run a task.
#
#     sbatch scripts/{stage}_sweep.sh
#
#SBATCH --job-name={name}-{stage}
#SBATCH --array={array}
{directives}set -eo pipefail
export PATH={bin}:"$PATH"
{setup}printf -v id '%0{width}d' "${{SLURM_ARRAY_TASK_ID:?is not set: this is an array for sbatch}}"
{odd}{command}
"""


def render(experiment: Experiment, runs: list[Run], stage: str, resources: Mapping[str, Any]) -> str:
    """The script that runs one stage of all `runs`; `resources` is the stage of a cluster profile, every key of it."""
    common = {
        "name": experiment.name,
        "directives": "".join(f"#SBATCH {shlex.quote(option)}\n" for option in cluster_profile.sbatch_options(resources)),
        "bin": shlex.quote(str(Path(sys.executable).parent)),
        "setup": "".join(f"{line}\n" for line in setup_lines(resources)),
    }
    if stage == "eval" and experiment.spec.evaluation.group_by_base:
        return GROUP.format(script=shlex.quote(str(Layout.of(experiment).eval_group)), **common)
    numbers = [run.id.removeprefix("run_") for run in runs]
    limit = resources["array_parallelism"]
    return SCRIPT.format(
        what={"train": "Training", "eval": "Evaluation"}[stage],
        stage=stage,
        array=ranges(map(int, numbers)) + (f"%{limit}" if limit else ""),
        width=len(numbers[0]),
        odd=_odd_widths(numbers),
        command=_evaluation(experiment) if stage == "eval" else _training(experiment, runs, resources),
        **common,
    )


def _odd_widths(numbers: list[str]) -> str:
    """Runs that were added to a sweep of another size have names of another width."""
    cases = [f"  {int(number)}) id={number} ;;\n" for number in numbers if f"{int(number):0{len(numbers[0])}d}" != number]
    return f'case "$SLURM_ARRAY_TASK_ID" in\n{"".join(cases)}esac\n' if cases else ""


def _evaluation(experiment: Experiment) -> str:
    return f'exec python {shlex.quote(str(Layout.of(experiment).configs))}/"eval_$id.py"'


def _training(experiment: Experiment, runs: list[Run], resources: Mapping[str, Any]) -> str:
    recipes = sorted({run.recipe for run in runs})
    nodes, gpus = cluster_profile.nodes(resources), cluster_profile.gpus_per_node(resources)
    words = distributed.tune_words(recipes[0], experiment.folder, nodes, gpus)  # several recipes are torchtune's and ours for a CPU: neither has any
    lines, recipe = [], shlex.quote(recipes[0])
    if len(recipes) > 1:
        lines, recipe = _recipe_of_each(runs, recipes), '"$recipe"'
    run = ["exec tune run", *words, recipe, f'--config {shlex.quote(str(Layout.of(experiment).configs))}/"train_$id.yaml"']
    if "--nnodes" in words:
        lines += distributed.IN_BASH.splitlines()
        run = ["exec", *distributed.every_node(resources), "tune run", *words, distributed.WORDS_IN_BASH, *run[-2:]]
    return "\n".join([*lines, " ".join(run)])


def _recipe_of_each(runs: list[Run], recipes: list[str]) -> list[str]:
    cases = []
    for recipe in recipes:
        numbers = "|".join(run.id.removeprefix("run_") for run in runs if run.recipe == recipe)
        cases.append(f"  {numbers}) recipe={shlex.quote(recipe)} ;;")
    return ['case "$id" in', *cases, "esac"]
