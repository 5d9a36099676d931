"""The points of the sweep: the full factorial of the variables, less what is excluded."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cruijff_kit.errors import Problem, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.parameters import PARAMETERS, parameter
from cruijff_kit.yaml_source import KeyPath, leaves

# The root of configs/multirun.yaml holds these beside the parameters.
RESERVED = {"experiment_dir", "evaluation", "cluster", "torchtune", "stage", "stages", "run", "commands", "hydra", "defaults"}

MAX_POINTS = 10_000  # at a millisecond or two each


@dataclass(frozen=True)
class Run:
    """One point of the sweep, composed.

    Args:
        params: what sets this run apart, paired values flattened.
        settings: every parameter that is set for it, controls included.
        recipe: what `tune run` is given.
        config: the complete torchtune config, `${output_dir}` unresolved.
        identity: digest of what is trained, wherever it lies.
    """

    id: str
    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    recipe: str
    config: Mapping[str, Any]
    identity: str


def is_parameter(name: str) -> bool:
    """Whether `name` sets one key of the torchtune config, rather than several together."""
    return name in PARAMETERS or "." in name


def torchtune_key(name: str) -> str:
    return PARAMETERS[name].key if name in PARAMETERS else name


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Paired values spread out: `{adapter: {lora_rank: 8}, seed: 1}` to `{lora_rank: 8, seed: 1}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update({name: value} if is_parameter(name) else value)
    return flat


def points(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """The parameters of each point, in file order, the last variable fastest."""
    spec = experiment.spec
    exclude = [flatten(partial) for partial in spec.exclude]
    for values in itertools.product(*spec.variables.values()):
        params = flatten(dict(zip(spec.variables, values)))
        if not any(matches(params, partial) for partial in exclude):
            yield params


def matches(params: Mapping[str, Any], partial: Mapping[str, Any]) -> bool:
    """Whether `params` has every value of `partial`; one that it lacks is not null."""
    return all(name in params and params[name] == value for name, value in partial.items())


def check(experiment: Experiment) -> list[Problem]:
    """What is wrong with the names and values of variables, controls and exclude."""
    problems = [problem for path, name, value in _settings(experiment) for problem in _check_value(experiment, path, name, value)]
    for name, values in experiment.spec.variables.items():
        problems += _check_variable(experiment, name, values)
    problems += _check_set_once(experiment)
    problems += _check_exclude(experiment)
    problems += _check_total(experiment)
    return problems or _check_points(experiment)


def _check_total(experiment: Experiment) -> list[Problem]:
    """That there are not more points than anyone would wait for."""
    total = math.prod(len(values) for values in experiment.spec.variables.values())
    if total > MAX_POINTS:
        what, fix = f"{total:,} points: a sweep has at most {MAX_POINTS:,}, those included that are excluded", "list fewer values"
        return [experiment.source.problem(("variables",), what, fix)]
    return []


def _check_points(experiment: Experiment) -> list[Problem]:
    if next(points(experiment), None) is None:
        return [experiment.source.problem(("exclude",), "every point of the sweep is excluded")]
    return []


def _settings(experiment: Experiment) -> Iterator[tuple[KeyPath, str, Any]]:
    """Each place that gives a parameter a value, with the path to it."""
    for name, value in experiment.controls.items():
        yield ("controls", name), name, value
    for name, values in experiment.spec.variables.items():
        for index, value in enumerate(values):
            path: KeyPath = ("variables", name, index)
            if is_parameter(name):
                yield path, name, value
            elif isinstance(value, dict):
                yield from (((*path, key), key, item) for key, item in value.items())


def _check_value(experiment: Experiment, path: KeyPath, name: str, value: Any) -> list[Problem]:
    problem = experiment.source.problem
    if not is_parameter(name):
        return [problem(path, f"unknown parameter '{name}'", closest(name, PARAMETERS))]
    if path[0] == "controls" and isinstance(value, str) and "${" in value:
        return []
    if path[0] == "variables" and "${" in str(value):
        return [problem(path, "a variable's values are plain", "compute it in a control: ${mul:2,${lora_rank}}")]
    known = parameter(name)
    fault = known.fault(value) if known else None
    return [problem(path, fault)] if fault else []


def is_unknown(experiment: Experiment, *keys: str) -> bool:
    """Whether one of the torchtune keys, or what is below or above it, was left out for a fault."""
    missing = [f"{torchtune_key(name)}." for name in experiment.left_out]
    return any(f"{key}.".startswith(other) or other.startswith(f"{key}.") for key in keys for other in missing)


# Hydra's grammar knows no quotes for a mapping's keys: these letters it holds, and these words it reads as no text.
HYDRA_KEY = re.compile(r"[A-Za-z0-9_ ./@$+*%?|:,=()\[\]{}-]+")
NO_TEXT = re.compile(r"true|false|null|[-+]?(\.?\d[\d_.]*(e[-+]?\d[\d_]*)?|inf|nan)", re.IGNORECASE)


def _check_keys(experiment: Experiment, path: KeyPath, value: Any) -> list[Problem]:
    """Keys within a variable's mapping that a multirun could not hold: they would break it, or change their type."""
    return [
        experiment.source.problem(path, f"a mapping that is swept cannot have the key {name!r}", "use ASCII letters, digits and '_'")
        for name in sorted(set(_keys_within(value)))
        if not HYDRA_KEY.fullmatch(name) or NO_TEXT.fullmatch(name)
    ]


def _keys_within(value: Any) -> Iterator[str]:
    """The keys of every mapping in `value`, those in its lists too."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_within(item)


def _check_variable(experiment: Experiment, name: str, values: list[Any]) -> list[Problem]:
    problem, path = experiment.source.problem, ("variables", name)
    first: dict[Any, int] = {}
    problems = [
        problem((*path, index), f"{value!r} is there twice")
        for index, value in enumerate(values)
        if first.setdefault((type(value), _frozen(value)), index) != index
    ]
    problems += [fault for index, value in enumerate(values) for fault in _check_keys(experiment, (*path, index), value)]
    if is_parameter(name):
        return problems
    if any(not isinstance(value, dict) or not value for value in values):
        hint = closest(name, PARAMETERS)
        what = f"unknown parameter '{name}'" if hint else f"'{name}' is no parameter: each of its values must be a mapping"
        return [*problems, problem(path, what, hint)]
    if name in RESERVED or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        problems.append(problem(path, f"'{name}' cannot be the name of a variable", "use letters, digits and '_'"))
    return problems


def _frozen(value: Any) -> Any:
    """Equal for equal values, and hashable: thousands of them are compared at once."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _check_set_once(experiment: Experiment) -> list[Problem]:
    """A parameter stands in one variable, or in controls, and `_override` sets no key of a variable."""
    problem, problems, owner = experiment.source.problem, [], {}
    for name, values in experiment.spec.variables.items():
        names = {name} if is_parameter(name) else {key for value in values if isinstance(value, dict) for key in value}
        for key in sorted(names):
            if owner.setdefault(torchtune_key(key), name) != name:
                problems.append(problem(("variables", name), f"'{key}' is also set by the variable '{owner[torchtune_key(key)]}'"))
    controls: dict[str, str] = {}
    for name in experiment.controls:
        other = controls.setdefault(torchtune_key(name), name)
        if other != name:
            problems.append(problem(("controls", name), f"'{name}' and '{other}' set one key", "keep one of the two"))
        if torchtune_key(name) in owner:
            problems.append(problem(("controls", name), f"'{name}' is a variable too", "keep it in one of the two"))
    for path, _ in leaves(experiment.override):
        for key, name in owner.items():
            dotted = ".".join(path)
            if f"{dotted}.".startswith(f"{key}.") or f"{key}.".startswith(f"{dotted}."):
                what = f"'{dotted}' is set by the variable '{name}', and _override is merged last"
                problems.append(problem(("controls", "_override", *path), what, "remove one of the two"))
    return problems


def _check_exclude(experiment: Experiment) -> list[Problem]:
    problem, variables = experiment.source.problem, experiment.spec.variables
    names = {key for name, values in variables.items() for key in ([name] if is_parameter(name) else _keys(values))}
    return [
        problem(("exclude", index, name), f"'{name}' is no variable", closest(name, names))
        for index, partial in enumerate(experiment.spec.exclude)
        for name in partial
        if name not in names | experiment.left_out
    ]


def _keys(values: list[Any]) -> list[str]:
    return [key for value in values if isinstance(value, dict) for key in value]
