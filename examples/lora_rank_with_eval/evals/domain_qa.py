"""Short questions on astronomy, with one right answer each."""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def domain_qa(split="test"):
    return Task(
        dataset=json_dataset(f"data/domain_qa_{split}.jsonl"),
        solver=[generate()],
        scorer=includes(),
    )
