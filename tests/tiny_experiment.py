"""A whole experiment over the tiny model: its folder, written anew for each test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cruijff_kit.base_config import find_composer
from cruijff_kit.errors import ExperimentError
from cruijff_kit.experiment import Experiment
from cruijff_kit.torchtune_config import Composer
from tests.tiny_llama import WORDS, tiny_base_config, write_tiny_data

TASKS = '''\
from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import exact, includes
from inspect_ai.solver import generate


@task
def capitalize(scorer="exact"):
    scorers = {"exact": exact, "includes": includes}
    return Task(dataset=json_dataset("data/words.jsonl"), solver=generate(), scorer=scorers[scorer]())


def no_task():
    return None
'''


def specification(model_dir: Path | str) -> dict[str, Any]:
    """The experiment.yaml of the tiny experiment, to be changed by a test and written."""
    return {
        "experiment": {"name": "tiny", "framework": "torchtune", "question": "Does it run?"},
        "framework_config": {
            "base_config": "base.yaml",
            "recipe": "lora_finetune_single_device",
            "model_dir": str(model_dir),
        },
        "variables": {"lora_rank": [2, 4]},
        "controls": {
            "lora_alpha": "${mul:2,${lora_rank}}",
            "learning_rate": 1e-2,
            "epochs": 1,
            "seed": 1,
            "dataset": "data/train.jsonl",
        },
        "evaluation": {
            "enabled": True,
            "framework": "inspect",
            "tasks_dir": "evals/",
            "tasks": [{"name": "capitalize", "file": "tasks.py", "function": "capitalize"}],
            "generate": {"max_tokens": 4},
        },
    }


def write_experiment(folder: Path, model_dir: Path | str, spec: dict[str, Any] | None = None) -> Path:
    """A folder with experiment.yaml, base config, data and task file."""
    (folder / "data").mkdir(parents=True)
    (folder / "evals" / "data").mkdir(parents=True)
    write_spec(folder, spec or specification(model_dir))
    (folder / "base.yaml").write_text(yaml.safe_dump(tiny_base_config(Path("/tmp/tiny-llama")), sort_keys=False))
    write_tiny_data(folder / "data" / "train.jsonl")
    (folder / "evals" / "tasks.py").write_text(TASKS)
    samples = ({"input": f"Capitalize: {word}", "target": word.capitalize()} for word in WORDS)
    (folder / "evals" / "data" / "words.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return folder


def write_hollow_model(folder: Path) -> Path:
    """A folder that has the model's file names, which is all that is looked at before training."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).touch()
    return folder


def write_spec(folder: Path, spec: dict[str, Any]) -> None:
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def load_composer(experiment: Experiment) -> Composer:
    """The composer of an experiment that has one; else what stands in its way is raised."""
    composer, problems = find_composer(experiment)
    if composer is None:
        raise ExperimentError(problems)
    return composer
