"""experiment.yaml, read: paths resolved, and every fault found that needs no torchtune, Inspect or Hydra.

Its schema is in schema.py; what the values mean is checked elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cruijff_kit.errors import ExperimentError, Problem
from cruijff_kit.schema import EvaluationTask, Specification, related, validated
from cruijff_kit.yaml_source import KeyPath, YamlSource, leaves, read_yaml

FILE_NAME = "experiment.yaml"
MAX_PATH, MAX_NAME = 4096, 255  # of Linux, in bytes


@dataclass(frozen=True)
class Experiment:
    """An experiment.yaml of the right form, or the part of one that is; and the folder that all its paths start from."""

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

    @property
    def tasks(self) -> list[EvaluationTask]:
        """The tasks that every run is evaluated with."""
        return self.spec.evaluation.tasks if self.spec.evaluation.enabled else []

    @cached_property
    def left_out(self) -> frozenset[str]:
        """The parameters that the file sets and this part of it lacks: nothing can be said of what depends on them.

        Those of `_override` are dotted torchtune keys.
        """
        whole = self.source.whole
        if whole is None:
            return frozenset()
        return frozenset(_parameter_names(whole) - _parameter_names(self.source.data))

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
    experiment, problems = read(folder)
    if problems:
        raise ExperimentError(problems)
    return experiment


def read(folder: Path) -> tuple[Experiment, list[Problem]]:
    """The part of the experiment in `folder` that is of the right form, and what is wrong with the rest.

    Raises:
        ExperimentError: nothing of it can be read.
    """
    folder = Path(os.path.abspath(folder))
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise ExperimentError([Problem(FILE_NAME, f"the name of its folder is no text: {str(folder)!r}", fix="rename the folder")])
    source, spec, problems = validated(read_yaml(folder / FILE_NAME))
    experiment = Experiment(folder, source, spec)
    for check in (_check_override, _check_evaluation, _check_paths, _check_output):
        new = [problem for problem in check(experiment) if not any(related(problem.path, other.path) for other in problems)]
        experiment = without(experiment, new)
        problems += new
    return experiment, problems


def without(experiment: Experiment, problems: Iterable[Problem]) -> Experiment:
    """The part of `experiment` that has none of the errors in `problems`; the same one if there are none.

    A value of a variable goes alone; so does a key of `_override`. With a parameter goes what is computed from it.
    """
    places = {_owner(problem.path) for problem in problems if problem.level == "error" and problem.path}
    if not places:
        return experiment
    source, spec, _ = validated(experiment.source.without(places))
    less = replace(experiment, source=source, spec=spec)
    words = {name: set(re.findall(r"[A-Za-z_]\w*", str(value))) for name, value in less.controls.items() if "${" in str(value)}
    computed = {("controls", name) for name, used in words.items() if used & less.left_out}
    points = {("exclude", index) for index, partial in enumerate(spec.exclude) if partial.keys() & less.left_out}
    source, spec, _ = validated(source.without({source.origin(place) for place in computed | points}))
    return replace(experiment, source=source, spec=spec)


def _owner(path: KeyPath) -> KeyPath:
    """What has to go with a fault at `path`."""
    if path[0] == "variables":
        return path[:3]
    return path if path[:2] == ("controls", "_override") else path[:2] if path[0] in ("controls", "exclude") else path


def _parameter_names(data: Mapping[str, Any]) -> set[str]:
    """The names of everything that a run is made of: parameters, those in paired values too, and the keys of framework_config.

    Those in a section that is no section count as well: its name may be misspelled.
    """
    others = ("experiment", "evaluation", "output")
    sections = [section for name, section in data.items() if name not in others and isinstance(section, Mapping)]
    names = {name for section in sections for name in section}
    names |= {".".join(path) for section in sections for path, _ in leaves(section.get("_override"))}
    pairs = [entry for section in sections for values in section.values() if isinstance(values, list) for entry in values]
    return names | {name for entry in pairs if isinstance(entry, Mapping) for name in entry}


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
        problem(("evaluation", key), f"missing required key '{key}'", "or set enabled: false")
        for key in ("framework", "tasks_dir", "tasks")
        if not getattr(evaluation, key)
    ]
    for_adapters = [key for key in ("base_model", "merge_adapters", "group_by_base") if getattr(evaluation, key) not in (None, False)]
    if evaluation.model_format != "adapter":
        problems += [problem(("evaluation", key), f"'{key}' is for model_format: adapter", "model_format: adapter, or remove it") for key in for_adapters]
    elif evaluation.group_by_base and evaluation.merge_adapters:
        what = "a group of runs switches adapters on one base model, and merge_adapters makes a model of each"
        problems.append(problem(("evaluation", "merge_adapters"), what, "merge_adapters: false, or group_by_base: false"))
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
        ("evaluation", "base_model"): spec.evaluation.base_model,
        **{("output", key): value for key, value in spec.output.folders.items()},
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
    folders = {key: experiment.path(value) for key, value in experiment.spec.output.folders.items()}
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
