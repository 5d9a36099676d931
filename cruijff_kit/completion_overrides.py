"""What an override of `run` may be: Hydra's own completion over configs/multirun.yaml, and what it cannot know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cruijff_kit.parameters import FLAG, PARAMETERS

# Values that a key may have beside the one that it has.
CHOICES = {"stages": ["[train]", "[eval]", "[train,eval]"], "evaluation.dtype": ["fp32", "bf16", "fp16"], "dtype": ["fp32", "bf16", "fp16"]}
FLAGS = {name for name, parameter in PARAMETERS.items() if parameter.kind == FLAG} | {"evaluation.baseline", "evaluation.enabled", "hydra.launcher.wait"}
LISTS = ("stages", "evaluation.tasks")  # given whole: stages=[eval]
# What `run` sets itself, and what is no setting.
OURS = ("stage", "run", "scores", "last", "commands", "kept_epochs", "frozen", "only", "again", "dry_run", "experiment_dir", "experiment_name",
        "hydra.launcher._target_", "hydra.sweeper._target_")  # fmt: skip


def overrides(configs: Path, word: str, before: Sequence[str]) -> list[str]:
    """The overrides that begin with `word`.

    Args:
        before: those that the line has already; Hydra knows nothing of a group that they do not choose.
    """
    name, equals, _ = word.partition("=")
    if equals and name in CHOICES:
        return [f"{name}={value}" for value in CHOICES[name]]
    if equals and name in FLAGS:
        return [f"{name}={value}" for value in ("true", "false")]
    found = list(_torchtune(configs, word)) or _hydra(configs, word, before)
    found = [f"{each[:-1]}=" if each[:-1] in LISTS else each for each in found if each.rstrip("=.") not in OURS and not each.startswith("+")]
    only = found[0] if len(found) == 1 else ""
    return overrides(configs, only, before) if only.endswith(".") and only != word else found


def _torchtune(configs: Path, word: str) -> Iterator[str]:
    """The keys of the torchtune config, of which multirun.yaml holds only those that are swept."""
    import yaml
    from hydra.plugins.completion_plugin import CompletionPlugin
    from omegaconf import OmegaConf

    from cruijff_kit.torchtune_catalog import read_config

    first = next(iter(sorted(configs.glob("train_*.yaml"))), None)
    if first is None or not word.startswith("torchtune."):
        return
    try:
        config = OmegaConf.create({"torchtune": read_config(first)})
        yield from CompletionPlugin._get_matches(config, word)
    except (OSError, ValueError, yaml.YAMLError):
        return


def _hydra(configs: Path, word: str, before: Sequence[str]) -> list[str]:
    """What Hydra's own completion finds; nothing where it cannot compose the config."""
    import yaml
    from hydra.errors import HydraException
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin
    from omegaconf.errors import OmegaConfBaseException

    generated = (configs / "multirun.yaml").is_file()
    line = " ".join(["--multirun", *(each for each in before if not set(each) & set(" \t\n")), word])
    try:
        engine = DefaultCompletionPlugin(_loader(configs if generated else None))
        found = engine._query("multirun" if generated else "cruijff_kit", line)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError):
        return []
    return found if generated else [*found, *(f"{name}=" for name in PARAMETERS if name.startswith(word))]


def _loader(configs: Path | None) -> Any:
    """Reads what the Hydra application of `run` reads."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    from cruijff_kit import app, cluster_group
    from cruijff_kit.paths import conf_dir
    from cruijff_kit.resolvers import register

    register()
    app.register_open_nodes()
    cluster_group.register()
    path = create_config_search_path(str(conf_dir()))
    if configs is not None:
        path.prepend("command-line", f"file://{configs.absolute()}", anchor="schema")  # where --config-dir is
    return ConfigLoaderImpl(path)
