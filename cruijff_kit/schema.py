"""The schema of experiment.yaml, what each of its keys means, and every fault of form in one file.

The descriptions are those of docs/experiment_reference.md (`make docs`). What the values mean to torchtune, Inspect
or Hydra is checked elsewhere.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from cruijff_kit.errors import Problem, closest
from cruijff_kit.yaml_source import KeyPath, YamlSource

SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, StringConstraints(min_length=1)]
Dtype = Literal["fp32", "bf16", "fp16"]

CHECKPOINTS = "supported: last, all, or a list of epochs, which are counted from 0"
CHECKPOINT_FORM = {"anyOf": [{"enum": ["last", "all"]}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]}
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

    name: SafeName = Field(description="Used in paths and job names: letters, digits, `.`, `_` and `-`, not starting with a dot.")
    framework: Literal["torchtune"] = Field(description="What trains.")
    question: str | None = Field(None, description="What is asked.")
    hypothesis: str | None = Field(None, description="What is expected.")
    researcher: str | None = Field(None, description="Who asks.")
    notes: str | None = Field(None, description="Anything else.")
    date: Annotated[datetime.date, Field(strict=False)] | None = Field(None, description="When it was designed, not when it ran: `2026-11-24`.")
    tags: list[str] = Field([], description="Words to find it by.")


class FrameworkConfig(_Section):
    """`framework_config:` what every run starts from."""

    base_config: Text = Field(
        description="A torchtune config by its name in `tune ls` (`llama3_1/8B_lora_single_device`), or the path of a YAML file in the same format."
    )
    recipe: Text | None = Field(
        None,
        description="A torchtune recipe by its name, or an importable one of your own. Required where `base_config` is a file; "
        "a named config implies its recipe.",
    )
    model_dir: Text | None = Field(
        None,
        description="Folder of the pretrained weights, in Hugging Face's layout. It takes the place of the base config's own folder wherever that stands: "
        "`checkpoint_dir`, and every tokenizer path below it.",
    )


class EvaluationTask(_Section):
    """One entry of `evaluation.tasks`."""

    name: SafeName = Field(description="The folder of its results, and its name in the tables; unique.")
    file: Text = Field(description="The Python file, relative to `tasks_dir`.")
    function: Text = Field(description="The Python name of a function under `@task` in that file.")
    args: dict[str, Any] = Field({}, description="The function's keyword arguments.")


class Evaluation(_Section):
    """`evaluation:` which tasks score each trained model, and how."""

    enabled: bool = Field(False, description="Whether anything is evaluated.")
    framework: Literal["inspect"] | None = Field(None, description="What evaluates. Required where `enabled` is true.")
    tasks_dir: Text | None = Field(None, description="Folder of your task files. Required where `enabled` is true.")
    tasks: Annotated[list[EvaluationTask], Field(max_length=1000)] = Field(
        [], description="What each model is evaluated with. At least one is required where `enabled` is true."
    )
    checkpoint: Annotated[Any, AfterValidator(_checkpoint), WithJsonSchema(CHECKPOINT_FORM)] = Field(
        "last", description="Which epochs are evaluated: `last`, `all`, or a list of their numbers, from 0. Each is a row of the scores."
    )
    model_format: Literal["hf", "adapter"] = Field("hf", description="`hf`: the merged weights that torchtune saves; `adapter`: LoRA on the base model.")
    base_model: Text | None = Field(None, description="Folder of the base model, for `model_format: adapter`. By default the one that was trained from.")
    merge_adapters: bool | None = Field(
        None,
        description="For `model_format: adapter`. True merges the adapter into a temporary model, which is removed afterwards; "
        "false loads it on the base model. By default true, and false with `group_by_base`.",
    )
    dtype: Dtype | None = Field(None, description="Of the evaluated model; by default the training's. It is recorded in the log.")
    baseline: bool = Field(False, description="Whether the untouched base model is evaluated too, once, as `base`.")
    generate: dict[str, Any] = Field(
        {},
        description="Inspect's generation settings: `max_tokens`, `temperature`, `seed`, `max_connections`, … Greedy unless a temperature above 0 is given.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="At most this many samples a task; all by default.")
    backend: Literal["hf", "vllm"] = Field("hf", description="What generates: transformers, or vLLM where it is installed.")
    group_by_base: bool = Field(False, description="For `model_format: adapter`. One job loads the base model once, for the adapters of all runs in turn.")
    objective: Annotated[str, StringConstraints(pattern=r"^[^/\s][^/]*/[^/]+/[^/]+$")] | None = Field(
        None, description="What a sweeper that chooses points maximises: `TASK/SCORER/METRIC`, as in `domain_qa/match/accuracy`."
    )

    @property
    def merges(self) -> bool:
        """Whether adapters are merged into a model before it is evaluated; a group switches them on one that is loaded."""
        return not self.group_by_base if self.merge_adapters is None else self.merge_adapters


class Output(_Section):
    """`output:` where things are written, below the experiment's folder, and which checkpoints stay."""

    configs_dir: Text = Field("configs/", description="What `generate` writes; below the experiment's folder, as the next two are.")
    results_dir: Text = Field("results/", description="What is trained.")
    eval_results_dir: Text = Field("eval_results/", description="What is evaluated.")
    keep_checkpoints: Literal["all", "last"] = Field(
        "all", description="`last`: `run` removes an epoch as soon as a later one is complete and no evaluation needs it."
    )

    @property
    def folders(self) -> dict[str, str]:
        """The folders, each by its key."""
        return self.model_dump(include={"configs_dir", "results_dir", "eval_results_dir"})


class Specification(_Section):
    """The whole of experiment.yaml, as the user wrote it."""

    experiment: About = Field(description="What is asked, and by whom.")
    framework_config: FrameworkConfig = Field(description="What every run starts from.")
    variables: dict[Text, Annotated[list[Any], Field(min_length=1)]] = Field(
        {},
        description="What is swept: `name: [v1, v2, …]`. Every combination is a run, in file order, the last name fastest. Without any there is one run.",
    )
    controls: dict[Text, Any] = Field(
        {},
        description="What is held constant: `name: value`, and `_override`, a mapping that is merged into the torchtune config last of all, as it is.",
    )
    exclude: Annotated[list[dict[Text, Any]], Field(max_length=1000)] = Field(
        [],
        description="Points to leave out. Each entry names variables, or parameters of their pairs, and leaves out every point that has these values.",
    )
    evaluation: Evaluation = Field(Evaluation(), description="Which tasks score each trained model, and how.")
    output: Output = Field(Output(), description="Where things are written, below the experiment's folder, and which checkpoints stay.")


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
