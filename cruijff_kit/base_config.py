"""What an experiment starts from: its base config, the recipe that reads it, and the folder of the model."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from cruijff_kit import torchtune_catalog
from cruijff_kit.config_tree import Config, escape, find, move
from cruijff_kit.errors import CruijffKitError, ExperimentError, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.torchtune_config import Composer
from cruijff_kit.yaml_source import KeyPath


def load_composer(experiment: Experiment) -> Composer:
    """The composer of `experiment`.

    Raises:
        ExperimentError: base_config or recipe is not there, or the base config cannot be used.
        CruijffKitError: torchtune is not installed.
    """
    framework, problem = experiment.spec.framework_config, experiment.source.problem
    try:
        named = torchtune_catalog.base_configs()
    except LookupError as error:
        raise CruijffKitError(str(error)) from None
    place: KeyPath = ("framework_config", "base_config")
    if framework.base_config in named:
        path, recipe = named[framework.base_config].path, framework.recipe or named[framework.base_config].recipe
    elif framework.base_config.endswith((".yaml", ".yml")):
        path, recipe = experiment.path(framework.base_config), framework.recipe
        if recipe is None:
            raise ExperimentError([problem(("framework_config",), "missing required key 'recipe'", "a base config of your own needs the recipe that reads it")])
    else:
        hint = closest(framework.base_config, named) or "a torchtune config, or a .yaml file"
        raise ExperimentError([problem(place, f"base config '{framework.base_config}' not found", f"{hint}\n`tune ls` lists them all")])
    if recipe not in torchtune_catalog.recipes() and not _importable(recipe, experiment.folder):
        what, hint = f"recipe '{recipe}' not found", closest(recipe, torchtune_catalog.recipes())
        fix = "a recipe of your own is named as a module that can be imported: package.recipe" if "." in recipe or "/" in recipe else hint
        raise ExperimentError([problem(("framework_config", "recipe"), what, fix)])
    base = _read_base(experiment, path)
    own = find(base, "checkpointer.checkpoint_dir")
    if not isinstance(own, str):
        raise ExperimentError([problem(place, f"'{framework.base_config}' has no checkpointer.checkpoint_dir", "name the folder of the base weights there")])
    if "${" in own and framework.model_dir is None:
        what = f"'{framework.base_config}' does not say where the base weights lie: its checkpointer.checkpoint_dir is {own}"
        raise ExperimentError([problem(place, what, "set framework_config.model_dir")])
    model_dir = str(experiment.path(framework.model_dir or own))
    base = move(base, own.rstrip("/"), escape(model_dir))
    return Composer(experiment, base, recipe, framework.base_config, model_dir, torchtune_catalog.download_command(path))


def _importable(recipe: str, folder: Path) -> bool:
    """Whether `tune run`, started in `folder`, finds the module; its packages are not imported for that."""
    parts = recipe.replace("/", ".").split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    package = importlib.util.find_spec(parts[0])
    roots = [Path(location).parent for location in (package.submodule_search_locations or [])] if package else []
    return any(os.path.isfile(Path(root, *parts).with_suffix(".py")) for root in [*roots, folder, *map(Path, sys.path)])


def _read_base(experiment: Experiment, path: Path) -> Config:
    problem, place = experiment.source.problem, ("framework_config", "base_config")
    try:
        base = torchtune_catalog.read_config(path)
    except FileNotFoundError:
        raise ExperimentError([problem(place, f"base config not found: {path}", "`tune ls` lists torchtune's own")]) from None
    except Exception as error:  # whatever is wrong with a YAML file of the user's
        raise ExperimentError([problem(place, f"cannot read {path}: {error}")]) from None
    if not isinstance(base, dict):
        raise ExperimentError([problem(place, f"{path} is no mapping")])
    return base
