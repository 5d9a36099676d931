"""What is wrong with `controls._override`, which goes into the torchtune config as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cruijff_kit.config_tree import find, is_computed
from cruijff_kit.errors import Problem
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.sweep import torchtune_key
from cruijff_kit.torchtune_config import Composer, dropped_arguments, weight_files
from cruijff_kit.yaml_source import KeyPath


def check(composer: Composer) -> list[Problem]:
    problem, override = composer.experiment.source.problem, composer.experiment.override
    problems = []
    if "output_dir" in override:
        what = "output_dir is each run's own folder"
        problems.append(problem(("controls", "_override", "output_dir"), what, "output.results_dir says where they lie"))
    problems += [*_override_kinds(composer), *_override_beats(composer)]
    if isinstance(override.get("checkpointer"), dict) and "save_adapter_weights_only" in override["checkpointer"]:
        path = ("controls", "_override", "checkpointer", "save_adapter_weights_only")
        what = "torchtune reads save_adapter_weights_only at the root, and fails on it below checkpointer"
        problems.append(problem(path, what, "add under controls:\n  save_adapter_weights_only: true"))
    for path, old, new in _changed_components(composer.base, override, ()):
        dropped = dropped_arguments({**old, **new}, new)
        if dropped and old.get("_component_") != new["_component_"]:
            what = f"{new['_component_']} does not accept {', '.join(dropped)}: dropped"
            problems.append(problem(("controls", "_override", *path), what, level="warning"))
    return problems


def _override_kinds(composer: Composer) -> Iterator[Problem]:
    """Values of `_override` that cannot be: of a parameter's wrong type, or text where the base has a mapping."""
    problem, override = composer.experiment.source.problem, composer.experiment.override
    kinds = {parameter.key: parameter for name, parameter in PARAMETERS.items() if name != "dataset"}
    for path, value in _nodes(override):
        key, place = ".".join(path), ("controls", "_override", *path)
        parameter = kinds.get(key)
        fault = parameter.fault(value) if parameter and not is_computed(value) else None
        if isinstance(find(composer.base, key), dict) and not isinstance(value, dict) and key != "dataset":
            fault = f"expected a mapping, got {value!r}"
        elif key == "checkpointer.checkpoint_dir" and not isinstance(value, str):
            fault = f"expected a folder, got {value!r}"
        elif key == "checkpointer.checkpoint_files" and weight_files(value) is None:
            fault = "expected a list of file names, or filename_format and max_filename"
        if fault:
            yield problem(place, fault)


def _nodes(override: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path to each value below `override`, mappings too, and the value."""
    for key, value in override.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from _nodes(value, (*path, key))


def _override_beats(composer: Composer) -> Iterator[Problem]:
    experiment = composer.experiment
    for name, value in experiment.controls.items():
        other = find(experiment.override, torchtune_key(name))
        if other is not None and other != value:
            what = f"'{name}' is set to {other!r} by _override, which is merged last"
            yield experiment.source.problem(("controls", name), what, "keep it in one of the two", level="warning")


def _changed_components(base: Any, override: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict, dict]]:
    if isinstance(base, dict) and isinstance(override, dict):
        if "_component_" in override:
            yield path, base, override
        for key, value in override.items():
            yield from _changed_components(base.get(key), value, (*path, key))
