"""What an experiment starts from: its base config, the recipe that reads it, and the folder of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cruijff_kit import recipe_kinds, torchtune_catalog
from cruijff_kit.config_tree import Config, escape, find, move
from cruijff_kit.errors import CruijffKitError, ExperimentError, Problem, closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.recipe_files import recipe_file
from cruijff_kit.torchtune_catalog import BaseConfig
from cruijff_kit.torchtune_config import Composer


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
        base = _read_base(experiment, path) if path and not problems else {}
    except ExperimentError as error:
        return None, [*error.problems, *problems]
    if path is None or recipe is None or problems:
        return None, problems
    framework, place = experiment.spec.framework_config, ("framework_config", "base_config")
    if component := recipe_kinds.vision_component(base):
        what = f"base config '{framework.base_config}' is of a model that sees images: {component}"
        return None, [experiment.source.problem(place, what, recipe_kinds.WHAT_WE_SWEEP)]
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
    framework, problem, place = experiment.spec.framework_config, experiment.source.problem, ("framework_config", "base_config")
    named = torchtune_catalog.base_configs()
    path, recipe, problems = None, framework.recipe, []
    if base := named.get(framework.base_config):
        path, recipe = base.path, recipe or base.recipe
        problems += _listed_faults(experiment, base)
    elif not framework.base_config.endswith((".yaml", ".yml")):
        hint = closest(framework.base_config, named) or "a torchtune config, or a .yaml file"
        problems.append(problem(place, f"base config '{framework.base_config}' not found", f"{hint}\n`tune ls` lists them all"))
    else:
        path = experiment.path(framework.base_config)
        if recipe is None:
            fix = "a base config of your own needs the recipe that reads it"
            problems.append(problem(("framework_config",), "missing required key 'recipe'", fix))
    if framework.recipe is not None:
        problems += _recipe_faults(experiment, framework.recipe)
    return path, recipe, problems


def _listed_faults(experiment: Experiment, base: BaseConfig) -> Iterator[Problem]:
    """A config of torchtune's whose recipe is no fine-tuning, or whose file torchtune lists and does not have."""
    what, fix = "", recipe_kinds.WHAT_WE_SWEEP
    if kind := recipe_kinds.other_kind(base.recipe):
        what = f"base config '{base.name}' belongs to {base.recipe}, which {kind}"
    elif not base.path.is_file():
        what, fix = f"base config '{base.name}' is listed by torchtune, and not in its package", "take another of `tune ls`"
    if what:
        yield experiment.source.problem(("framework_config", "base_config"), what, fix)


def _recipe_faults(experiment: Experiment, recipe: str) -> Iterator[Problem]:
    problem, place, recipes = experiment.source.problem, ("framework_config", "recipe"), torchtune_catalog.recipes()
    if recipe_file(recipe, experiment.folder) is None:
        own = "a recipe of your own is named as a module that can be imported: package.recipe"
        yield problem(place, f"recipe '{recipe}' not found", own if "." in recipe or "/" in recipe else closest(recipe, recipes))
    elif kind := recipe_kinds.other_kind(recipe):
        yield problem(place, f"recipe '{recipe}' {kind}", recipe_kinds.WHAT_WE_SWEEP)


def _read_base(experiment: Experiment, path: Path) -> Config:
    import yaml

    problem, place = experiment.source.problem, ("framework_config", "base_config")
    try:
        base = torchtune_catalog.read_config(path)
    except FileNotFoundError:
        raise ExperimentError([problem(place, f"base config not found: {path}", "`tune ls` lists torchtune's own")]) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ExperimentError([problem(place, f"cannot read {path}: {error}")]) from None
    if not isinstance(base, dict):
        raise ExperimentError([problem(place, f"{path} is no mapping")])
    return base
