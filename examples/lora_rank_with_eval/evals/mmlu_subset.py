"""A few subjects of MMLU, as inspect_evals has it."""

from inspect_ai import task
from inspect_evals.mmlu import mmlu_0_shot


@task
def mmlu_subset(subjects=None):
    return mmlu_0_shot(subjects=subjects or ["college_mathematics", "college_physics"])
