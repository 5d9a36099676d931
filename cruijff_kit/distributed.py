"""What torchrun is told: one process a GPU, and where the nodes of a job meet.

`tune run` hands torchrun's options on (torchtune 0.6.1, _cli/run.py); without an endpoint it runs on one node by
itself, at a free port. Several nodes meet at a port of the job's first node, which only the job knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import cluster_profile, torchtune_catalog
from cruijff_kit.errors import CruijffKitError, Problem
from cruijff_kit.recipe_files import recipe_file

FIRST_PORT, PORTS = 10_000, 20_000  # below those that systems give to whoever asks


def is_distributed(recipe: str, folder: Path) -> bool:
    """Whether `recipe` is one for torchrun: torchtune's that says so, or one of the user's that starts a process group.

    Args:
        folder: where `tune run` is started, from which a module of the user's is found.
    """
    name = recipe.replace(".", "/")
    if name in torchtune_catalog.recipes():
        return name in torchtune_catalog.distributed_recipes()
    return "distributed" in name.rpartition("/")[2] or _starts_processes(recipe_file(recipe, folder))


@cache
def _starts_processes(source: Path | None) -> bool:
    """By what it calls, or by the recipe of torchtune's that it builds on."""
    text = source.read_text(encoding="utf-8", errors="replace") if source else ""
    words = set(re.findall(r"\w+", text))
    return not words.isdisjoint({"init_process_group", "init_distributed", *torchtune_catalog.distributed_recipes()})


def tune_words(recipe: str, folder: Path, nodes: int, gpus: int) -> list[str]:
    """The options between `tune run` and `recipe` that are known before a job runs.

    Args:
        gpus: those of each node.
    """
    if not is_distributed(recipe, folder):
        return []
    return [*(["--nnodes", str(nodes)] if nodes > 1 else []), "--nproc_per_node", str(gpus)]


def on_node(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """`command`, a `tune run` with the words of `tune_words`, as each node of the job runs it.

    Args:
        environ: the job's, from Slurm.

    Raises:
        CruijffKitError: it is for several nodes, and this is no job that has them.
    """
    if "--nnodes" not in command:
        return list(command)
    nodes, there = command[command.index("--nnodes") + 1], environ.get("SLURM_JOB_NUM_NODES", "1")
    if "SLURM_JOB_NODELIST" not in environ or there != nodes:
        raise CruijffKitError(f"this training is for {nodes} nodes, and here is {there}: submit it as a Slurm job, or set cluster.train.nodes=null")
    words = rendezvous(first_node(environ["SLURM_JOB_NODELIST"]), environ["SLURM_JOB_ID"])
    place = command.index("run") + 1
    return [*command[:place], *words, *command[place:]]


def rendezvous(host: str, job: str) -> list[str]:
    """Where the nodes of `job` meet, so that two jobs with the same first node do not."""
    port = FIRST_PORT + int(job) % PORTS
    return ["--rdzv_id", job, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"{host}:{port}"]


def first_node(node_list: str) -> str:
    """The first of a Slurm node list: node3 of `node[3-5,7],other`."""
    first = re.match(r"(\[[^]]*\]|[^,\[])+", node_list)
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", first[0] if first else node_list)


def every_node(train: Mapping[str, Any]) -> list[str]:
    """What starts a command once on each node of a job; where one fails, the others would wait for it.

    srun does not know sbatch's --cpus-per-task by itself (22.05 and later).
    """
    cores = train["cpus_per_task"]
    return ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", *([f"--cpus-per-task={cores}"] if cores else [])]


def idle_gpus(recipe: str, folder: Path, stages: Mapping[str, Any], file: str, above: str = "") -> list[Problem]:
    """What a profile asks for and no process would use: GPU hours that someone pays for.

    Args:
        file, above: where the profile stands, as in cluster_profile.checked.
    """
    problems, train, evaluation = [], stages["train"], stages["eval"]
    if (there := cluster_profile.gpus(train)) > 1 and not is_distributed(recipe, folder):
        key = "nodes" if cluster_profile.nodes(train) > 1 else "gres" if train["gpus_per_node"] is None else "gpus_per_node"
        what = f"{recipe} trains on one GPU: {there - 1} of {there} would be idle, and their hours wasted"
        fix = "ask for one GPU of one node, or take a distributed recipe: framework_config.recipe: lora_finetune_distributed"
        problems.append(Problem(file, what, f"{above}train.{key}", fix=fix, level="warning"))
    if (nodes := cluster_profile.nodes(evaluation)) > 1:
        what = f"an evaluation runs on one node: {nodes - 1} of {nodes} would be idle, and their hours wasted"
        problems.append(Problem(file, what, f"{above}eval.nodes", fix="ask for one node", level="warning"))
    return problems


# `rendezvous` in a script.
IN_BASH = f"""\
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
meet="${{nodes%%[[:space:]]*}}:$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))"
"""
WORDS_IN_BASH = '--rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$meet"'
