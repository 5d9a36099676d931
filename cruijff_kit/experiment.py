"""experiment.yaml: its schema, and reading it with every fault of form found.

What the values mean to torchtune, Inspect or Hydra is checked elsewhere.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cruijff_kit.errors import ExperimentError, Problem, closest
from cruijff_kit.yaml_source import KeyPath, YamlSource, read_yaml

FILE_NAME = "experiment.yaml"
MAX_PATH, MAX_NAME = 4096, 255  # of Linux, in bytes

SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, StringConstraints(min_length=1)]
Dtype = Literal["fp32", "bf16", "fp16"]

# Part of the language, and not evaluated or pruned by this version yet: named, so that nobody believes they work.
NOT_YET = {
    "evaluation": ("base_model", "merge_adapters", "group_by_base", "objective"),
    "output": ("keep_checkpoints",),
}


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
    checkpoint: Literal["last"] = "last"
    model_format: Literal["hf"] = "hf"
    dtype: Dtype | None = None
    baseline: bool = False
    generate: dict[str, Any] = {}
    limit: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["hf"] = "hf"


class Output(_Section):
    """`output:` where things are written, below the experiment's folder."""

    configs_dir: Text = "configs/"
    results_dir: Text = "results/"
    eval_results_dir: Text = "eval_results/"


class Specification(_Section):
    """The whole of experiment.yaml, as the user wrote it."""

    experiment: About
    framework_config: FrameworkConfig
    variables: dict[Text, Annotated[list[Any], Field(min_length=1)]] = {}
    controls: dict[Text, Any] = {}
    exclude: Annotated[list[dict[Text, Any]], Field(max_length=1000)] = []
    evaluation: Evaluation = Evaluation()
    output: Output = Output()


@dataclass(frozen=True)
class Experiment:
    """An experiment.yaml of the right form, with the folder that all its paths start from."""

    folder: Path
    source: YamlSource
    spec: Specification

    @property
    def name(self) -> str:
        return self.spec.experiment.name

    @property
    def controls(self) -> dict[str, Any]:
        """The controls without `_override`."""
        return {name: value for name, value in self.spec.controls.items() if name != "_override"}

    @property
    def override(self) -> dict[str, Any]:
        """`controls._override`: merged into the torchtune config last."""
        return self.spec.controls.get("_override") or {}

    def path(self, text: str) -> Path:
        """An absolute path for one of experiment.yaml: `~` and `${oc.env:NAME}` are replaced.

        Raises:
            ValueError: it cannot be resolved.
        """
        if "${" in text:
            from omegaconf import OmegaConf
            from omegaconf.errors import OmegaConfBaseException

            try:
                text = str(OmegaConf.create({"path": text}).path)
            except (OmegaConfBaseException, RecursionError) as error:
                raise ValueError(str(error).splitlines()[0]) from None
        if "\0" in text:
            raise ValueError("a path cannot hold a null byte")
        if len(text) > MAX_PATH:
            raise ValueError(f"a path of more than {MAX_PATH:,} characters")
        if any(len(os.fsencode(part)) > MAX_NAME for part in text.split("/")):
            raise ValueError(f"the name of a file has at most {MAX_NAME} bytes")
        try:
            return Path(os.path.abspath(self.folder / Path(text).expanduser()))
        except RuntimeError as error:  # `~name` of nobody
            raise ValueError(str(error)) from None


def load(folder: Path) -> Experiment:
    """The experiment in `folder`.

    Raises:
        ExperimentError: every fault of form in experiment.yaml, with its line.
    """
    folder = Path(os.path.abspath(folder))
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise ExperimentError([Problem(FILE_NAME, f"the name of its folder is no text: {str(folder)!r}", fix="rename the folder")])
    source = read_yaml(folder / FILE_NAME)
    try:
        # `controls:` with nothing below it is empty
        spec = Specification.model_validate({key: value for key, value in source.data.items() if value is not None})
    except ValidationError as error:
        raise ExperimentError(_problem(source, fault) for fault in error.errors()) from None
    experiment = Experiment(folder, source, spec)
    problems = [*_check_override(experiment), *_check_evaluation(experiment), *_check_paths(experiment)]
    problems = problems or _check_output(experiment)
    if problems:
        raise ExperimentError(problems)
    return experiment


def _problem(source: YamlSource, fault: Any) -> Problem:
    """One of pydantic's errors in our words."""
    path: KeyPath = tuple(fault["loc"])
    kind, name, context = fault["type"], str(fault["loc"][-1]), fault.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(source, path)
    if kind == "missing":
        return source.problem(path, f"missing required key '{name}'")
    if kind == "literal_error":
        supported = context["expected"].replace("'", "")
        return source.problem(path, f"unsupported {name} {fault['input']!r}", f"supported: {supported}")
    if kind == "string_pattern_mismatch":
        what = f"{fault['input']!r} is no safe name for a file or a job"
        return source.problem(path, what, "use letters, digits, '.', '_' and '-', and do not start with a dot")
    if kind == "too_short" and path[0] == "variables":
        return source.problem(path, f"the variable '{name}' has no values")
    what = fault["msg"].replace("Input should be a valid", "expected a").replace("Input should be", "expected")
    return source.problem(path, f"{what}, got {fault['input']!r}")


def _unknown_key(source: YamlSource, path: KeyPath) -> Problem:
    name = str(path[-1])
    if name in NOT_YET.get(str(path[0]), ()):
        return source.problem(path, f"'{name}' is not supported by this version", "remove it")
    section: Any = Specification
    for part in path[:-1]:
        if isinstance(part, str):
            section = _model_of(section.model_fields[part].annotation)
    return source.problem(path, f"unknown key '{name}'", closest(name, section.model_fields))


def _model_of(annotation: Any) -> Any:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else get_args(annotation)[0]


def _check_override(experiment: Experiment) -> list[Problem]:
    override = experiment.spec.controls.get("_override")
    if override is None or isinstance(override, dict):
        return []
    what = "expected a mapping that is merged into the torchtune config"
    return [experiment.source.problem(("controls", "_override"), what)]


def _check_evaluation(experiment: Experiment) -> list[Problem]:
    evaluation, problem = experiment.spec.evaluation, experiment.source.problem
    if not evaluation.enabled:
        return []
    problems = [
        problem(("evaluation",), f"missing required key '{key}'", "or set enabled: false")
        for key in ("framework", "tasks_dir", "tasks")
        if not getattr(evaluation, key)
    ]
    names = [task.name for task in evaluation.tasks]
    problems += [
        problem(("evaluation", "tasks", index, "name"), f"two tasks are called '{name}'")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    return problems


def _check_paths(experiment: Experiment) -> list[Problem]:
    """That `~` and `${…}` resolve in every path of the file."""
    spec = experiment.spec
    paths: dict[KeyPath, str | None] = {
        ("framework_config", "model_dir"): spec.framework_config.model_dir,
        ("framework_config", "base_config"): spec.framework_config.base_config,
        ("evaluation", "tasks_dir"): spec.evaluation.tasks_dir,
        **{("output", key): value for key, value in spec.output.model_dump().items()},
        **datasets(experiment),
    }
    problems = []
    for path, text in paths.items():
        try:
            experiment.path(text or "")
        except ValueError as error:
            fix = "a default with '~' stands in quotes: ${oc.env:NAME,'~/folder'}" if "~" in (text or "") else None
            problems.append(experiment.source.problem(path, f"does not resolve: {error}", fix))
    return problems


def datasets(experiment: Experiment) -> dict[KeyPath, str]:
    """The datasets that are named by a text, and where."""
    found: dict[KeyPath, Any] = {("controls", "dataset"): experiment.spec.controls.get("dataset")}
    for name, values in experiment.spec.variables.items():
        for index, value in enumerate(values):
            path: KeyPath = ("variables", name, index)
            if name == "dataset":
                found[path] = value
            elif isinstance(value, dict):
                found[*path, "dataset"] = value.get("dataset")
    return {path: value for path, value in found.items() if isinstance(value, str) and "${" not in value}


def _check_output(experiment: Experiment) -> list[Problem]:
    """The three folders of `output`: below the experiment's, and not inside another that is in use."""
    problems = []
    folders = {key: experiment.path(value) for key, value in experiment.spec.output.model_dump().items()}
    for key, folder in folders.items():
        others = [other for name, other in folders.items() if name != key]
        others += [experiment.folder / name for name in (".cruijff-kit", "scripts")]
        others.append(experiment.path(experiment.spec.evaluation.tasks_dir or ""))
        others = [other for other in others if experiment.folder in other.parents]  # tasks may be shared: `..`
        if experiment.folder not in folder.parents:
            what = f"'{folder}' is not inside the experiment's folder"
        elif any(other in (folder, *folder.parents) for other in others):
            what = f"'{folder}' is in use for something else, or inside such a folder"
        else:
            continue
        problems.append(experiment.source.problem(("output", key), what))
    return problems
