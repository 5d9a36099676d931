"""A sweep over batch sizes of which points fail in every way that Slurm knows: what to send, and how it is brought about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.private_slurm import PrivateSlurm
from tests.slurm.test_sweep import Sweep
from tests.tiny_experiment import specification
from tests.tiny_llama import WORDS

OUT_OF_MEMORY = 600  # rows of a batch, which take more than the gigabyte that each training gets
STEPS = 2  # of the others: their batches are small, and what counts is that they end

# Two nodes of four CPUs: all trainings on the first, but for the one whose node is lost.
LITTLE = [
    *("cluster.train.gpus_per_node=0", "cluster.eval.gpus_per_node=0", "cluster.train.cpus_per_task=1", "cluster.eval.cpus_per_task=1"),
    *("cluster.train.exclude=node1", "cluster.eval.exclude=node1", "cluster.train.mem_gb=1", "cluster.train.timeout_min=5"),
    *("cluster.train.signal_delay_s=0", "cluster.train.max_num_timeout=0", "+cluster.train.additional_parameters.no-requeue=true"),
]


@dataclass(frozen=True)
class Fates:
    """What becomes of which points: their numbers. All others train well."""

    out_of_time: int
    cancelled_running: int
    node_lost: int
    cancelled_waiting: int
    out_of_memory: int


def batch_sweep(folder: Path, model: Path, slurm: PrivateSlurm, fates: Fates, points: int) -> Sweep:
    """So many points, each a batch size; a row is long, so that a batch of hundreds is heavy."""
    spec = specification(model)
    sizes = [OUT_OF_MEMORY if number == fates.out_of_memory else number + 1 for number in range(points)]
    spec["variables"] = {"batch_size": sizes}
    spec["evaluation"]["limit"] = 2
    rows = ({"input": "Capitalize: " + " ".join([word] * 60), "output": word.capitalize()} for _ in range(OUT_OF_MEMORY // len(WORDS)) for word in WORDS)
    data = folder.parent / "long rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec["controls"] |= {"lora_rank": 4, "max_steps_per_epoch": STEPS, "dataset": str(data)}
    return Sweep(folder, slurm, spec)


def send(sweep: Sweep, fates: Fates, *words: str) -> int:
    """Sends the sweep and has it fail, but for what takes until the time limit; returns the id of the trainings' array."""
    slurm = sweep.slurm
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # all of it waits
    try:
        sent = sweep.run(*LITTLE, *words)
        assert sent.returncode == 0, sent.stderr
        job = sweep.launches[0]["arrays"][0]["job"]
        slurm.run("scancel", f"{job}_{fates.cancelled_waiting}")
        slurm.run("scontrol", "update", f"JobId={job}_{fates.out_of_time}", "TimeLimit=1")  # it is enforced to the minute
        slurm.run("scontrol", "update", f"JobId={job}_{fates.node_lost}", "ExcNodeList=", "ReqNodeList=node1")
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    _train_until_lost(slurm, job, fates)
    return job


def _train_until_lost(slurm: PrivateSlurm, job: int, fates: Fates) -> None:
    for number in (fates.out_of_time, fates.cancelled_running, fates.node_lost):
        slurm.hang(f"{job}_{number}")
    slurm.lose_node("node1")
    slurm.run("scancel", f"{job}_{fates.cancelled_running}")
    slurm.wait_for(f"{job}_{fates.node_lost}", "NODE_FAIL", timeout_s=60)
    slurm.start_node("node1")


def trained(sweep: Sweep, runs: Sequence[str]) -> dict[str, int]:
    """When the weights of these runs were written."""
    return {run: max(path.stat().st_mtime_ns for path in (sweep.folder / "results" / run / "hf_model").rglob("*.safetensors")) for run in runs}
