"""What an experiment starts from: its base config, the recipe that reads it, and the folder of the model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from cruijff_kit import torchtune_catalog
from cruijff_kit.config_tree import Config, escape, find, move
from cruijff_kit.errors import CruijffKitError, ExperimentError, Problem, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.torchtune_config import Composer


def load_composer(experiment: Experiment) -> Composer:
    """The composer of `experiment`.

    Raises:
        ExperimentError: base_config or recipe is not there, or the base config cannot be used.
        CruijffKitError: torchtune is not installed.
    """
    composer, problems = find_composer(experiment)
    if composer is None:
        raise ExperimentError(problems)
    return composer


def find_composer(experiment: Experiment) -> tuple[Composer | None, list[Problem]]:
    """The composer of `experiment`, or what stands in its way.

    Raises:
        CruijffKitError: torchtune is not installed.
    """
    try:
        path, recipe, problems = _find(experiment)
    except LookupError as error:
        raise CruijffKitError(str(error)) from None
    try:
        base = _read_base(experiment, path) if path else {}
    except ExperimentError as error:
        return None, [*error.problems, *problems]
    if path is None or recipe is None or problems:
        return None, problems
    framework, place = experiment.spec.framework_config, ("framework_config", "base_config")
    own = find(base, "checkpointer.checkpoint_dir")
    if not isinstance(own, str):
        what, fix = f"'{framework.base_config}' has no checkpointer.checkpoint_dir", "name the folder of the base weights there"
        return None, [experiment.source.problem(place, what, fix)]
    if "${" in own and framework.model_dir is None:
        what = f"'{framework.base_config}' does not say where the base weights lie: its checkpointer.checkpoint_dir is {own}"
        return None, [experiment.source.problem(place, what, "set framework_config.model_dir")]
    model_dir = str(experiment.path(framework.model_dir or own))
    base = move(base, own.rstrip("/"), escape(model_dir))
    return Composer(experiment, base, recipe, framework.base_config, model_dir, torchtune_catalog.download_command(path)), []


def _find(experiment: Experiment) -> tuple[Path | None, str | None, list[Problem]]:
    """The file of the base config and the recipe, where they are known, and what is wrong with them."""
    framework, problem = experiment.spec.framework_config, experiment.source.problem
    named, recipes = torchtune_catalog.base_configs(), torchtune_catalog.recipes()
    path, recipe, problems = None, framework.recipe, []
    if framework.base_config in named:
        path, recipe = named[framework.base_config].path, recipe or named[framework.base_config].recipe
    elif not framework.base_config.endswith((".yaml", ".yml")):
        hint = closest(framework.base_config, named) or "a torchtune config, or a .yaml file"
        what = f"base config '{framework.base_config}' not found"
        problems.append(problem(("framework_config", "base_config"), what, f"{hint}\n`tune ls` lists them all"))
    else:
        path = experiment.path(framework.base_config)
        if recipe is None:
            fix = "a base config of your own needs the recipe that reads it"
            problems.append(problem(("framework_config",), "missing required key 'recipe'", fix))
    if recipe is not None and recipe not in recipes and not _importable(recipe, experiment.folder):
        own = "a recipe of your own is named as a module that can be imported: package.recipe"
        fix = own if "." in recipe or "/" in recipe else closest(recipe, recipes)
        problems.append(problem(("framework_config", "recipe"), f"recipe '{recipe}' not found", fix))
    return path, recipe, problems


def _importable(recipe: str, folder: Path) -> bool:
    """Whether `tune run`, started in `folder`, finds the module; its packages are not imported for that."""
    parts = recipe.replace("/", ".").split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    package = importlib.util.find_spec(parts[0])
    roots = [Path(location).parent for location in (package.submodule_search_locations or [])] if package else []
    return any(Path(root, *parts).with_suffix(".py").is_file() for root in [*roots, folder, *map(Path, sys.path)])


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
