"""A stand-in for your own task: five questions with one right answer each.

Replace the samples and the scorer by what your question is about: https://inspect.aisi.org.uk/tasks.html
"""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def example() -> Task:
    """An answer is right where it contains the sample's `target`."""
    return Task(dataset=json_dataset("data/example.jsonl"), solver=generate(), scorer=includes())
