"""What a composed Hydra config says of one point: its settings, checked, and what its evaluation changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from cruijff_kit import inspect_tasks, logger_config, sweep
from cruijff_kit.errors import COMMAND_LINE, ExperimentError, Problem, closest
from cruijff_kit.parameters import PARAMETERS, parameter
from cruijff_kit.sweep import torchtune_key
from cruijff_kit.config_tree import find, is_computed, set_dotted, unescape
from cruijff_kit.yaml_source import leaves

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cruijff_kit.experiment import Experiment
    from cruijff_kit.plan import Plan
    from cruijff_kit.sweep import Run
    from cruijff_kit.torchtune_config import Composer

NOT_BELOW_TORCHTUNE = {
    "output_dir": "is the run's own folder: results_dir in experiment.yaml says where they lie",
    "checkpointer.checkpoint_dir": "is the model's folder: set framework_config.model_dir",
    "checkpointer.output_dir": "is where the evaluation looks: set it in controls._override",
}


# Root keys of the application's config beside the parameters; the first are set before anything starts, and not by the user.
SET_KEYS = ("stage", "run", "scores", "last", "commands", "kept_epochs")
OWN_KEYS = (*SET_KEYS, "experiment_dir", "experiment_name", "stages", "only", "again", "dry_run", "evaluation", "cluster", "hydra")


@dataclass(frozen=True)
class Point:
    """One point, as a config describes it.

    Args:
        params: what sets it apart: the variables, and all that the command line changed, but for the logger.
        settings: the controls, the variables, and what the command line changed.
        torchtune: raw keys, merged into the torchtune config last.
    """

    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    torchtune: Mapping[str, Any]


def check_form(usual: Mapping[str, Any], config: DictConfig) -> None:
    """That the command line neither added a key that nothing reads nor took one away.

    Args:
        usual: the root of the generated multirun.yaml, which is the same for all points.

    Raises:
        ExperimentError: it did.
    """
    whole = dict(config.items_ex(resolve=False))
    problems = [
        Problem(COMMAND_LINE, f"unknown parameter '{key}'", str(key), fix=closest(str(key), PARAMETERS))
        for key in whole
        if key not in usual and key not in OWN_KEYS
    ]
    problems += [
        Problem(COMMAND_LINE, f"'{name}' cannot be taken away", name, fix=f"{name}=VALUE sets it")
        for name in (*usual, "evaluation", "cluster")
        if name not in whole
    ]
    problems += [
        Problem(COMMAND_LINE, f"'{name}' is set by cruijff-kit", name) for name in SET_KEYS if whole.get(name)
    ]
    for name, kind in (("evaluation", "settings"), ("evaluation.generate", "settings"), ("evaluation.tasks", "names of tasks")):
        node = OmegaConf.select(config, name)
        if not problems and not (OmegaConf.is_dict(node) if kind == "settings" else OmegaConf.is_list(node) or isinstance(node, str)):
            problems.append(Problem(COMMAND_LINE, f"expected {kind}, got {node!r}", name))
    _raise_faults(problems)


def read(made: Plan, usual: Mapping[str, Any], config: DictConfig) -> Point:
    """The point of `config`: as experiment.yaml has it, but for what differs from the generated multirun.yaml, of which `usual` is the root.

    Raises:
        ExperimentError: an override has a value of the wrong type, or a key that nothing reads.
    """
    composer, experiment = made.composer, made.experiment
    nodes = dict(config.items_ex(resolve=False))  # most of a config is hydra's part, which is not read here
    given = {name: _plain(OmegaConf.to_container(nodes[name]) if OmegaConf.is_config(nodes[name]) else nodes[name]) for name in usual}
    raw = {".".join(path): value for path, value in leaves(given.pop("torchtune"))}
    variables = _variables(experiment, given, raw)
    changed = {
        name: given[name]
        for name in composer.base_settings
        if name not in experiment.spec.variables and given[name] != _plain(usual[name])
    }
    for name in variables:
        raw.pop(name, None)
    _raise_faults([*_value_faults({**variables, **changed}), *_raw_faults(composer, {**raw, **_dotted(variables)})])
    params = logger_config.without_logger({**variables, **changed, **raw})
    return Point(params, {**experiment.controls, **variables, **changed}, _nested(raw))


def _variables(experiment: Experiment, given: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each variable at this point, paired ones flattened; one that was left alone has its first."""
    values = {}
    for name, entries in experiment.spec.variables.items():
        there = given if name in given else raw
        values[name] = entries[0] if there.get(name) is None and (name not in PARAMETERS or isinstance(entries[0], dict)) else there[name]
    return sweep.flatten(values)


def _plain(value: Any) -> Any:
    """Text as it was before it was written for OmegaConf; computed values are left to the composer."""
    return unescape(value) if isinstance(value, str) and "\\${" in value else value


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in PARAMETERS}


def _value_faults(values: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, value in values.items():
        known = parameter(name)
        if known and not is_computed(value):
            fault = known.fault(value)
            problems += [Problem(COMMAND_LINE, fault, name)] if fault else []
        elif not sweep.is_parameter(name):
            problems.append(Problem(COMMAND_LINE, f"unknown parameter '{name}'", name, fix=closest(name, PARAMETERS)))
    return problems


def _raw_faults(composer: Composer, raw: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for key, value in raw.items():
        fault, known = composer.key_fault(key), parameter(key)
        if key in NOT_BELOW_TORCHTUNE:
            problems.append(Problem(COMMAND_LINE, f"'{key}' {NOT_BELOW_TORCHTUNE[key]}", f"torchtune.{key}"))
        elif fault is not None:
            what = f"nothing reads '{key}' with the base config {composer.base_name}"
            problems.append(Problem(COMMAND_LINE, what, f"torchtune.{key}", fix=fault or None))
        elif known and key != "dataset" and not is_computed(value) and (wrong := known.fault(value)):
            problems.append(Problem(COMMAND_LINE, wrong, f"torchtune.{key}"))
    return problems


def check_took_effect(point: Point, run: Run) -> None:
    """That what the command line set stands in the composed config.

    Raises:
        ExperimentError: `_override`, which is merged last, has another value.
    """
    problems = [
        Problem(COMMAND_LINE, f"'{name}' is set by controls._override, which is merged last", name, fix=f"torchtune.{torchtune_key(name)}=… beats it")
        for name in point.params
        if name in run.settings and name != "dataset" and find(run.config, torchtune_key(name)) != run.settings[name]
        if find(point.torchtune, torchtune_key(name)) is None
    ]
    _raise_faults(problems)


def _raise_faults(problems: list[Problem]) -> None:
    if problems:
        raise ExperimentError(problems)


def _nested(raw: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in raw.items():
        set_dotted(nested, key, value)
    return nested


def evaluation_words(made: Plan, config: DictConfig) -> list[str]:
    """What `config` changes in the evaluation, as words for the evaluation script: `limit=5`.

    Raises:
        ExperimentError: a setting has the wrong type or is none.
    """
    from pydantic import ValidationError

    from cruijff_kit.schema import Evaluation

    spec = made.experiment.spec.evaluation
    values: dict[str, Any] = OmegaConf.to_container(config.evaluation, resolve=True)  # type: ignore[assignment]
    tasks = values.pop("tasks")
    tasks = [tasks] if isinstance(tasks, str) else tasks
    problems = [
        Problem(COMMAND_LINE, f"experiment.yaml has no {what} to run", f"evaluation.{key}", fix=f"set evaluation.{key} there, and generate")
        for key, what in (("enabled", "evaluation"), ("baseline", "baseline"))
        if values[key] and not getattr(spec, key)
    ]
    try:
        Evaluation.model_validate(values)
    except ValidationError as error:
        problems += [
            Problem(COMMAND_LINE, f"{fault['msg']}, got {fault['input']!r}", ".".join(["evaluation", *map(str, fault["loc"])]))
            for fault in error.errors()
        ]
    names = [task.name for task in spec.tasks]
    for name in tasks:
        if name not in names:
            problems.append(Problem(COMMAND_LINE, f"there is no task '{name}'", "evaluation.tasks", fix=closest(str(name), names)))
    for name, what, hint in inspect_tasks.generate_faults(values["generate"]):
        problems.append(Problem(COMMAND_LINE, what, f"evaluation.generate.{name}", fix=hint))
    _raise_faults(problems)
    changed = {key: values[key] for key in ("limit", "dtype") if values[key] != getattr(spec, key)}
    generate = {**dict.fromkeys(spec.generate), **values["generate"]}  # one that was removed is null
    changed |= {f"generate.{key}": value for key, value in generate.items() if value != spec.generate.get(key)}
    changed |= {"tasks": tasks} if tasks != names else {}
    return [f"{key}={json.dumps(value)}" for key, value in changed.items()]
