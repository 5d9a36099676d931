"""The keys of a cluster profile, their types, and the options of sbatch that they become."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

STAGES = ("train", "eval")


@dataclass
class Stage:
    """The keys of one stage, and their types. What they do, and their values where nothing is set: conf/cluster_keys.yaml."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    nodes: int | None
    gpus_per_node: int | None
    gres: str | None
    cpus_per_task: int | None
    cpus_per_gpu: int | None
    mem_gb: int | None
    mem_per_gpu: str | None
    mem_per_cpu: str | None
    timeout_min: int | None
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int | None
    comment: str | None
    mail_user: str | None
    mail_type: str | None
    environment: dict[str, Any] | None
    setup: list[str] | None
    additional_parameters: dict[str, Any] | None


KEYS = tuple(each.name for each in fields(Stage))


def unset() -> Stage:
    """A stage with no value yet; OmegaConf's word for it is `???`."""
    return Stage(*["???"] * len(KEYS))


@dataclass
class Profile:
    """A cluster profile: what each stage asks for."""

    train: Stage = field(default_factory=unset)
    eval: Stage = field(default_factory=unset)


# The keys that are options of sbatch under another name.
RENAMED = {"mem_gb": "mem", "timeout_min": "time"}

# The keys that are no option of sbatch by themselves.
NO_OPTIONS = ("signal_delay_s", "max_num_timeout", "array_parallelism", "environment", "setup", "additional_parameters")

OPTIONS = {key: RENAMED.get(key, key.replace("_", "-")) for key in KEYS if key not in NO_OPTIONS}

# What a job of stages sets itself.
OURS = {"array", "dependency", "error", "job-name", "kill-on-invalid-dep", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable",
        "signal", "test-only", "wait", "wrap"}  # fmt: skip
