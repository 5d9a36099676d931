"""What a composed Hydra config says of one point: its settings, checked, and what its evaluation changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cruijff_kit import inspect_tasks, sweep
from cruijff_kit.errors import ExperimentError, Problem, closest
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.torchtune_config import find

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cruijff_kit.generate import Plan

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Point:
    """One point, as a config describes it.

    Args:
        params: what sets it apart: the variables, and all that an override changed.
        settings: every parameter's value.
        torchtune: raw keys, merged into the torchtune config last.
    """

    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    torchtune: Mapping[str, Any]


def read(made: Plan, config: DictConfig) -> Point:
    """The point of `config`.

    Raises:
        ExperimentError: an override has a value of the wrong type, or a key below `torchtune` that nothing reads.
    """
    from omegaconf import OmegaConf, open_dict

    composer, experiment = made.composer, made.experiment
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    paired = {name: entries for name, entries in experiment.spec.variables.items() if not sweep.is_parameter(name)}
    with open_dict(config):
        for name, entries in paired.items():
            if config[name] is None:  # not overridden: as in the first point
                config[name] = entries[0]
    plain = {name: config[name] for name in composer.base_settings if not OmegaConf.is_interpolation(config, name)}
    _raise_faults(_value_faults(made, OmegaConf.to_container(OmegaConf.create(plain))))
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    given = _given(made, values)
    dotted = {key: value for name in paired for key, value in values[name].items() if key not in PARAMETERS}
    raw = {**dotted, **dict(_leaves(values["torchtune"]))}
    _raise_faults([*_value_faults(made, given), *_raw_faults(made, raw)])
    controls = {name: value for name, value in experiment.controls.items() if name not in PARAMETERS}
    return Point({**_params(made, given), **raw}, {**controls, **given}, _nested(raw))


def _given(made: Plan, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have a value; None counts where the base config has the key."""
    composer = made.composer
    return {
        name: values[name]
        for name in composer.base_settings
        if values[name] is not None or (name != "dataset" and find(composer.merged, PARAMETERS[name].key) is not None)
    }


def _params(made: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """What of `given` is swept, or is not what experiment.yaml and the base config make it."""
    composer = made.composer
    swept = {name: given[name] for name in made.runs[0].params if name in given}
    controls = {name: value for name, value in made.experiment.controls.items() if name in PARAMETERS}
    usual = composer.resolve({**composer.base_settings, **controls, **swept})
    return {name: value for name, value in given.items() if name in swept or value != usual[name]}


def _value_faults(made: Plan, given: Any) -> list[Problem]:
    """Values of the wrong type; the base config's own are not ours to judge."""
    usual = made.composer.base_settings
    faults = {name: PARAMETERS[name].fault(value) for name, value in given.items() if value != usual[name]}
    return [Problem(COMMAND_LINE, fault, name) for name, fault in faults.items() if fault]


def _raw_faults(made: Plan, raw: Mapping[str, Any]) -> list[Problem]:
    faults = {key: made.composer.key_fault(key) for key in raw}
    what = f"with the base config {made.composer.base_name}"
    return [
        Problem(COMMAND_LINE, f"nothing reads '{key}' {what}", f"torchtune.{key}", fix=fault or None)
        for key, fault in faults.items()
        if fault is not None
    ]


def _raise_faults(problems: list[Problem]) -> None:
    if problems:
        raise ExperimentError(problems)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, name)
        else:
            yield name, value


def _nested(raw: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in raw.items():
        *parents, leaf = key.split(".")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return nested


def evaluation_words(made: Plan, config: DictConfig) -> list[str]:
    """What `config` changes in the evaluation, as words for the evaluation script: `limit=5`.

    Raises:
        ExperimentError: a setting has the wrong type or is none.
    """
    from omegaconf import OmegaConf
    from pydantic import ValidationError

    from cruijff_kit.experiment import Evaluation

    spec = made.experiment.spec.evaluation
    values: dict[str, Any] = OmegaConf.to_container(config.evaluation, resolve=True)  # type: ignore[assignment]
    tasks = values.pop("tasks")
    problems = []
    try:
        Evaluation.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(COMMAND_LINE, f"{fault['msg']}, got {fault['input']!r}", ".".join(["evaluation", *map(str, fault["loc"])]))
            for fault in error.errors()
        ]
    names = [task.name for task in spec.tasks]
    for name in tasks:
        if name not in names:
            problems.append(Problem(COMMAND_LINE, f"there is no task '{name}'", "evaluation.tasks", fix=closest(str(name), names)))
    known = inspect_tasks.generate_settings()
    for name in values["generate"]:
        if known and name not in known:
            problems.append(Problem(COMMAND_LINE, f"'{name}' is no generation setting of Inspect", f"evaluation.generate.{name}", fix=closest(name, known)))
    _raise_faults(problems)
    changed = {key: values[key] for key in ("limit", "dtype") if values[key] != getattr(spec, key)}
    changed |= {f"generate.{key}": value for key, value in values["generate"].items() if value != spec.generate.get(key)}
    changed |= {"tasks": tasks} if tasks != names else {}
    return [f"{key}={json.dumps(value)}" for key, value in changed.items()]
