"""The schema of experiment.yaml, and every fault of form in one file.

What the values mean to torchtune, Inspect or Hydra is checked elsewhere.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from cruijff_kit.errors import Problem, closest
from cruijff_kit.yaml_source import KeyPath, YamlSource

SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, StringConstraints(min_length=1)]
Dtype = Literal["fp32", "bf16", "fp16"]

CHECKPOINTS = "supported: last, all, or a list of epochs, which are counted from 0"
OBJECTIVE_HINT = "for instance domain_qa/match/accuracy: the names of results.json"


def _checkpoint(value: Any) -> Any:
    """`last`, `all`, or a list of distinct epochs."""
    is_list = isinstance(value, list) and value and all(type(each) is int and each >= 0 for each in value)
    if value not in ("last", "all") and not (is_list and len(set(value)) == len(value)):
        raise PydanticCustomError("checkpoint", CHECKPOINTS)
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class About(_Section):
    """`experiment:` what is asked, and by whom."""

    name: SafeName
    framework: Literal["torchtune"]
    question: str | None = None
    hypothesis: str | None = None
    researcher: str | None = None
    notes: str | None = None
    date: Annotated[datetime.date, Field(strict=False)] | None = None
    tags: list[str] = []


class FrameworkConfig(_Section):
    """`framework_config:` what every run starts from."""

    base_config: Text
    recipe: Text | None = None
    model_dir: Text | None = None


class EvaluationTask(_Section):
    """One entry of `evaluation.tasks`."""

    name: SafeName
    file: Text
    function: Text
    args: dict[str, Any] = {}


class Evaluation(_Section):
    """`evaluation:` which tasks score each trained model, and how."""

    enabled: bool = False
    framework: Literal["inspect"] | None = None
    tasks_dir: Text | None = None
    tasks: Annotated[list[EvaluationTask], Field(max_length=1000)] = []
    checkpoint: Annotated[Any, AfterValidator(_checkpoint)] = "last"
    model_format: Literal["hf", "adapter"] = "hf"
    base_model: Text | None = None
    merge_adapters: bool | None = None
    dtype: Dtype | None = None
    baseline: bool = False
    generate: dict[str, Any] = {}
    limit: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["hf", "vllm"] = "hf"
    group_by_base: bool = False
    objective: Annotated[str, StringConstraints(pattern=r"^[^/\s][^/]*/[^/]+/[^/]+$")] | None = None

    @property
    def merges(self) -> bool:
        """Whether adapters are merged into a model before it is evaluated; a group switches them on one that is loaded."""
        return not self.group_by_base if self.merge_adapters is None else self.merge_adapters


class Output(_Section):
    """`output:` where things are written, below the experiment's folder, and which checkpoints stay."""

    configs_dir: Text = "configs/"
    results_dir: Text = "results/"
    eval_results_dir: Text = "eval_results/"
    keep_checkpoints: Literal["all", "last"] = "all"

    @property
    def folders(self) -> dict[str, str]:
        """The folders, each by its key."""
        return self.model_dump(include={"configs_dir", "results_dir", "eval_results_dir"})


class Specification(_Section):
    """The whole of experiment.yaml, as the user wrote it."""

    experiment: About
    framework_config: FrameworkConfig
    variables: dict[Text, Annotated[list[Any], Field(min_length=1)]] = {}
    controls: dict[Text, Any] = {}
    exclude: Annotated[list[dict[Text, Any]], Field(max_length=1000)] = []
    evaluation: Evaluation = Evaluation()
    output: Output = Output()


# What stands in for a required key that is missing, so that the rest can be checked in the same report.
STAND_INS: dict[str, Any] = {
    "experiment": {},
    "framework_config": {},
    "name": "unnamed",
    "framework": "torchtune",
    "base_config": "unnamed",
    "file": "unnamed.py",
    "function": "unnamed",
}


def validated(source: YamlSource) -> tuple[YamlSource, Specification, list[Problem]]:
    """`source` without what is wrong in it, what it specifies then, and what was wrong."""
    problems = list(source.problems)
    source = source.without(problem.path for problem in problems) if problems else source
    while True:
        try:
            # `controls:` with nothing below it is empty
            filled = {key: value for key, value in source.data.items() if value is not None}
            return source, Specification.model_validate(filled), problems
        except ValidationError as error:
            faults = error.errors()
        new = [_problem(source, fault) for fault in faults]
        problems += [problem for problem in new if not any(related(problem.path, other.path) for other in problems)]
        missing = [_path(fault) for fault in faults if fault["type"] == "missing"]
        for path in missing:
            source = source.with_value(path, STAND_INS[str(path[-1])])
        source = source.without(problem.path for problem, fault in zip(new, faults) if _path(fault) not in missing)


def related(one: KeyPath, other: KeyPath) -> bool:
    """Whether one of the two places is inside the other, or is it."""
    return all(a == b for a, b in zip(one, other))


def _path(fault: Any) -> KeyPath:
    """Of a key that is wrong itself, pydantic says `[key]` below it."""
    return tuple(part for part in fault["loc"] if part != "[key]")


def _problem(source: YamlSource, fault: Any) -> Problem:
    """One of pydantic's errors in our words."""
    path = _path(fault)
    kind, name, context = fault["type"], str(path[-1]), fault.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(source, path)
    if kind == "missing":
        return source.problem(path, f"missing required key '{name}'")
    if kind == "literal_error":
        supported = context["expected"].replace("'", "")
        return source.problem(path, f"unsupported {name} {fault['input']!r}", f"supported: {supported}")
    if kind == "checkpoint":
        return source.problem(path, f"unsupported checkpoint {fault['input']!r}", CHECKPOINTS)
    if kind == "string_pattern_mismatch" and name == "objective":
        return source.problem(path, f"expected TASK/SCORER/METRIC, got {fault['input']!r}", OBJECTIVE_HINT)
    if kind == "string_pattern_mismatch":
        what = f"{fault['input']!r} is no safe name for a file or a job"
        return source.problem(path, what, "use letters, digits, '.', '_' and '-', and do not start with a dot")
    if kind == "too_short" and path[0] == "variables":
        return source.problem(path, f"the variable '{name}' has no values")
    what = fault["msg"].replace("Input should be a valid", "expected a").replace("Input should be", "expected")
    return source.problem(path, f"{what}, got {fault['input']!r}")


def _unknown_key(source: YamlSource, path: KeyPath) -> Problem:
    name = str(path[-1])
    section: Any = Specification
    for part in path[:-1]:
        if isinstance(part, str):
            section = _model_of(section.model_fields[part].annotation)
    return source.problem(path, f"unknown key '{name}'", closest(name, section.model_fields))


def _model_of(annotation: Any) -> Any:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else get_args(annotation)[0]
