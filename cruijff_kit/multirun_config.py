"""configs/multirun.yaml: the same sweep as a Hydra multirun, and text in Hydra's override grammar."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cruijff_kit import yaml_text
from cruijff_kit.config_tree import escape, set_dotted
from cruijff_kit.experiment import Experiment
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.sweep import is_parameter, matches
from cruijff_kit.torchtune_config import Composer

# The keys of `evaluation` that an override may change for one `run`; eval scripts take the same.
EVALUATION_KEYS = ("enabled", "baseline", "limit", "dtype", "generate", "objective")


def render(composer: Composer, cluster: str = "default") -> str:
    """The text of multirun.yaml: every parameter with its value, and the variables as the sweeper's params.

    Args:
        cluster: the profile that `run` takes where none is chosen.
    """
    experiment = composer.experiment
    lines = [
        f"The sweep of {experiment.name} for Hydra. Written by `cruijff-kit generate`.",
        f"    cruijff-kit run {experiment.folder} --multirun",
        "A key below `torchtune` goes into the torchtune config as it is: torchtune.optimizer.weight_decay=0.1",
    ]
    chosen = {"cluster": cluster, "hydra/launcher": "staged_local", "hydra/sweeper": "grid", "hydra/job_logging": "stdout"}
    defaults = ["cruijff_kit", *({f"override {group}": name} for group, name in chosen.items()), "_self_"]
    sweeper: dict[str, Any] = {"params": params(experiment)}
    if experiment.spec.exclude:
        sweeper["exclude"] = list(excluded(experiment))
    values = {
        "defaults": defaults,
        "experiment_dir": escape(str(experiment.folder)),
        "experiment_name": experiment.name,
        **root(composer),
        "evaluation": evaluation(experiment),
        "hydra": {"sweeper": sweeper},
    }
    return yaml_text.header(lines) + yaml_text.dump_yaml(values)


def evaluation(experiment: Experiment) -> dict[str, Any]:
    """What `evaluation` holds at the root: settings that can be overridden, and the tasks' names."""
    spec = experiment.spec.evaluation
    values = spec.model_dump(include=set(EVALUATION_KEYS))
    return _escaped({**values, "tasks": [task.name for task in spec.tasks]})


def root(composer: Composer) -> dict[str, Any]:
    """Each parameter name with its value at the first point, and the dotted variables below `torchtune`.

    What stands at null is as in the first point: paired variables, and mappings, which Hydra would merge.
    """
    experiment = composer.experiment
    variables = experiment.spec.variables
    values = {name: _escaped(value) for name, value in composer.base_settings.items()}
    for name, value in experiment.controls.items():
        if name in PARAMETERS:
            values[name] = None if isinstance(value, dict) else value  # a computed control stays computed
    for name, entries in variables.items():
        if name in PARAMETERS:
            values[name] = None if isinstance(entries[0], dict) else _escaped(entries[0])
    paired = {name: entries for name, entries in variables.items() if not is_parameter(name)}
    for name, entries in paired.items():
        for key in dict.fromkeys(key for entry in entries for key in entry if key in PARAMETERS):
            # with an entry that leaves it out it is the base's; at null it is the first entry's, which `run` puts in
            values[key] = f"${{oc.select:{name}.{key},{value_text(values.get(key))}}}"
    raw: dict[str, Any] = {}
    for name, entries in variables.items():
        if name not in PARAMETERS and is_parameter(name) and not isinstance(entries[0], dict):
            set_dotted(raw, name, _escaped(entries[0]))
    return {**values, **dict.fromkeys(paired), "torchtune": raw}


def params(experiment: Experiment) -> dict[str, str]:
    """`hydra.sweeper.params`: each variable with its values in Hydra's override grammar."""
    return {
        _hydra_key(name): ",".join(value_text(value) for value in values)
        for name, values in experiment.spec.variables.items()
    }


def excluded(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """`exclude` in the sweep's own keys: parameters within paired values become the entries that hold them."""
    variables = experiment.spec.variables
    for partial in experiment.spec.exclude:
        plain = {_hydra_key(name): value for name, value in partial.items() if name in variables}
        inner = {name: value for name, value in partial.items() if name not in variables}
        choices = []
        for variable, entries in variables.items():
            here = {} if is_parameter(variable) else {key: inner[key] for key in inner if any(key in entry for entry in entries)}
            if here:
                choices.append([(variable, entry) for entry in entries if matches(entry, here)])
        for combination in itertools.product(*choices):
            yield {**plain, **dict(combination)}


def _hydra_key(name: str) -> str:
    """Dotted torchtune paths stand below `torchtune`."""
    return name if name in PARAMETERS or "." not in name else f"torchtune.{name}"


def value_text(value: Any) -> str:
    """`value` so that Hydra's override parser reads it back unchanged.

    In quotes a backslash is itself, unless a quote or the end follows; see
    hydra.cc, "Quoted values".
    """
    if isinstance(value, str):
        text = re.sub(r"(\\*)(')", r"\1\1\\'", value)
        text = re.sub(r"(\\+)$", r"\1\1", text)
        return f"'{escape(text)}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key_text(key)}:{value_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(value_text(item) for item in value) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key_text(key: str) -> str:
    """A key in Hydra's grammar, which knows no quotes there."""
    return re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", key)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value
