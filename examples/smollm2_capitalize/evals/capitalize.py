"""Does the model write a capital letter, and nothing else? None of these words is in the training data."""

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def capitalize() -> Task:
    """One word in lower case; the answer is the word with a capital letter."""
    return Task(dataset=json_dataset("data/words.jsonl"), solver=generate(), scorer=match("exact", ignore_case=False))


@task
def capitalize_phrase() -> Task:
    """Two words, which training never showed: the answer has two capital letters."""
    return Task(dataset=json_dataset("data/phrases.jsonl"), solver=generate(), scorer=match("exact", ignore_case=False))
