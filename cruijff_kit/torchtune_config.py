"""A run's complete torchtune config, from the base config and the run's settings.

Nothing here writes, and nothing imports torch: what torchtune offers comes from
torchtune_catalog.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cruijff_kit import logger_config, torchtune_catalog
from cruijff_kit.config_tree import Config, escape, find, is_computed, output_dir_of, set_dotted, unescape
from cruijff_kit.errors import closest
from cruijff_kit.experiment import Experiment
from cruijff_kit.identity import identity
from cruijff_kit.parameters import PARAMETERS
from cruijff_kit.paths import Layout
from cruijff_kit.recipe_files import recipe_file
from cruijff_kit.recipe_source import Reads, recipe_reads
from cruijff_kit.sweep import Run, torchtune_key

# How datasets.load_dataset names the builder of each kind of local file.
DATA_FILES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

# torchtune 0.6.1 merges LoRA into the live weights when it saves on a CPU: every later epoch starts from them.
CPU_RECIPES = {"lora_finetune_single_device": "cruijff_kit.recipes.lora_finetune_single_device"}

HF_CHECKPOINTER = "torchtune.training.FullModelHFCheckpointer"


@dataclass(frozen=True)
class Composer:
    """Everything that the runs of one experiment share.

    Args:
        base: the base config, with the model's folder in place.
        recipe: the recipe that the base config belongs to.
        base_name: the base config as the user named it.
        model_dir: absolute folder of the pretrained weights.
        download: the `tune download` line of the base config, if it has one.
    """

    experiment: Experiment
    base: Config
    recipe: str
    base_name: str
    model_dir: str
    download: str | None = None

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.experiment)

    @cached_property
    def merged(self) -> Config:
        """The base config with `_override`: where names are looked up."""
        return _merge(copy.deepcopy(self.base), self.experiment.override)

    @cached_property
    def reads(self) -> Reads:
        """What the recipe reads of its config."""
        return recipe_reads(self.recipe, self.experiment.folder)

    @cached_property
    def merges_live_weights(self) -> bool:
        """Whether the recipe merges LoRA when it saves as torchtune's do on one device: on a CPU into the weights that it goes on training."""
        path = recipe_file(self.recipe, self.experiment.folder)
        source = path.read_text(encoding="utf-8") if path else ""
        return "get_merged_lora_ckpt" in source and "init_process_group" not in source

    def run(self, run_id: str, params: Mapping[str, Any], settings: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> Run:
        """The run of `settings`; `raw` is merged last of all, over `_override`."""
        resolved = self.resolve(settings)
        config = self.compose(resolved, raw)
        digest = identity(config, self.experiment.folder)
        run = Run("", dict(params), resolved, recipe_for(self.recipe, config), config, digest)
        return self.named(run, run_id)

    def named(self, run: Run, run_id: str) -> Run:
        """`run`, which has no number yet, under one: with its own folder of results, and a logger that is told its name."""
        config = {**run.config, "output_dir": escape(str(self.layout.run_results(run_id)))}
        if run_id and logger_config.KEY in config:
            about = self.experiment.spec.experiment
            config[logger_config.KEY] = logger_config.of_run(config[logger_config.KEY], about.name, about.tags, run_id, run.params)
        return replace(run, id=run_id, config=config)

    def resolve(self, settings: Mapping[str, Any]) -> Config:
        """`settings` with their interpolations computed; a name that is not set has the base config's value."""
        scope = {**self.base_settings, **settings}
        return {name: self._computed(name, scope) if is_computed(value) else value for name, value in settings.items()}

    def _computed(self, name: str, scope: Mapping[str, Any]) -> Any:
        """The value of a computed setting. OmegaConf takes milliseconds, and most points share the names it is of."""
        used, new = {name}, {name}
        while new:
            text = " ".join(scope[key] for key in new if is_computed(scope[key]))
            new = {word for word in re.findall(r"[A-Za-z_]\w*", text) if word in scope} - used
            used |= new
        key = json.dumps([name, {other: scope[other] for other in sorted(used)}])
        if key not in self._resolved:
            from omegaconf import OmegaConf

            from cruijff_kit.resolvers import register

            register()
            values = OmegaConf.create({other: scope[other] for other in used})
            value = values[name]
            self._resolved[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        return self._resolved[key]

    @cached_property
    def _resolved(self) -> dict[str, Any]:
        return {}

    @cached_property
    def base_settings(self) -> Config:
        """The value of every parameter name that applies to the base config; None where it sets none."""
        return {
            name: None if name == "dataset" else find(self.merged, parameter.key)
            for name, parameter in PARAMETERS.items()
            if self.key_fault(parameter.key) is None
        }

    def compose(self, settings: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> Config:
        """The config of `settings`. Its nodes are shared with those of other points, and not to be changed."""
        raw, override = raw or {}, self.experiment.override
        parts: dict[str, Config] = {}
        for name, value in settings.items():
            parts.setdefault(torchtune_key(name).split(".")[0], {})[name] = value
        tops = dict.fromkeys([*self.base, *sorted(parts, key=lambda top: any("." in torchtune_key(name) for name in parts[top])), *override, *raw])
        return {top: self._node(top, parts.get(top, {}), {top: raw[top]} if top in raw else {}) for top in tops}

    def _node(self, top: str, settings: Config, raw: Config) -> Any:
        """A top-level node. Most points share most of theirs."""
        key = json.dumps([top, settings, raw]) if settings or raw else top
        if key not in self._nodes:
            self._nodes[key] = self._compose_node(top, settings, raw)
        return self._nodes[key]

    @cached_property
    def _nodes(self) -> dict[str, Any]:
        return {}

    def _compose_node(self, top: str, settings: Mapping[str, Any], raw: Config) -> Any:
        config = {top: copy.deepcopy(self.base[top])} if top in self.base else {}
        # whole nodes first: `dataset` would take `packed` away again
        for name in sorted(settings, key=lambda name: torchtune_key(name).count(".")):
            if name == "dataset":
                self._set_dataset(config, settings[name])
            elif name.endswith("._component_"):
                nested: Config = {}
                set_dotted(nested, name, copy.deepcopy(settings[name]))
                _merge(config, nested)
            else:
                set_dotted(config, torchtune_key(name), copy.deepcopy(settings[name]))
        override = self.experiment.override
        _merge(_merge(config, {top: override[top]} if top in override else {}), raw)
        self._absolute_data_files(config)
        return config[top]

    def _set_dataset(self, config: Config, value: str | Mapping[str, Any]) -> None:
        if not isinstance(value, str):  # a computed one may be of a wrong type, which is said where its value is checked
            config["dataset"] = copy.deepcopy(value)
        elif kind := DATA_FILES.get(Path(value).suffix.lower()):
            config["dataset"].update(source=kind, data_files=value, split="train")
        else:
            config["dataset"]["source"] = value
            config["dataset"].pop("data_files", None)

    def _absolute_data_files(self, config: Config) -> None:
        """torchtune would read a relative path from wherever it is started."""
        dataset = config.get("dataset")
        for node in dataset if isinstance(dataset, list) else [dataset]:
            files = node.get("data_files") if isinstance(node, dict) else None
            if files:
                node["data_files"] = self._absolute(files)

    def _absolute(self, files: Any) -> Any:
        """datasets takes a file, a list of them, or either by split."""
        if isinstance(files, dict):
            return {split: self._absolute(file) for split, file in files.items()}
        if isinstance(files, list):
            return [self._absolute(file) for file in files]
        if not isinstance(files, str) or "://" in files:
            return files
        try:
            return escape(str(self.experiment.path(files)))
        except ValueError:  # an interpolation that does not resolve: said by training_checks
            return files

    def unresolved(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """The computed settings that do not resolve, and why."""
        names = [name for name, value in settings.items() if is_computed(value)]
        if not names:
            return {}
        from omegaconf.errors import OmegaConfBaseException

        scope, faults = {**self.base_settings, **settings}, {}
        for name in names:
            try:
                self._computed(name, scope)
            except (OmegaConfBaseException, TypeError, ArithmeticError, RecursionError) as error:
                faults[name] = str(error).splitlines()[0]
        return faults

    def key_fault(self, key: str) -> str | None:
        """Why nothing would read the torchtune key `key`: '' where no closest match is near, else None."""
        return key_fault(self.merged, key, self.reads)

    def weights_folder(self, config: Mapping[str, Any]) -> Path | None:
        """Where the base weights lie: the checkpointer may name a link that generate has yet to make. None if it names no folder."""
        return Path(self.model_dir) if self.checkpoint_link(config) else output_dir_of(config, "checkpointer.checkpoint_dir")

    def checkpoint_link(self, config: Mapping[str, Any]) -> Path | None:
        """Where the config expects the base weights inside the run's own folder, if it does."""
        text = find(config, "checkpointer.checkpoint_dir")
        if not isinstance(text, str) or not text.startswith("${output_dir}/"):
            return None
        folder = Path(unescape(config["output_dir"]))
        link = Path(os.path.normpath(folder / text.removeprefix("${output_dir}/")))
        return link if folder in link.parents else None


def key_fault(config: Config, key: str, reads: Reads) -> str | None:
    """None if `key` is in `config`, or its component or the recipe accepts it; else a hint, which may be empty."""
    path = tuple(key.split("."))
    *parents, leaf = path
    node: Any = config
    for index, part in enumerate(parents):
        if not isinstance(node, dict) or part not in node:
            if reads.reads(path):
                return None
            names = {*node, *reads.names(path[:index])} if isinstance(node, dict) else ()
            return closest(part, names) or f"there is no '{'.'.join(parents[: index + 1])}' in the base config"
        node = node[part]
    if not isinstance(node, dict):
        return f"'{'.'.join(parents)}' has no keys in the base config"
    if leaf in node:
        return None
    signature = torchtune_catalog.signature(node["_component_"]) if "_component_" in node else None
    if signature is None:
        known = "_component_" in node or (reads.may_read(path) if not parents else reads.reads(path))
        return None if known else closest(leaf, {*node, *reads.names(path[:-1])}) or ""
    if signature.accepts(leaf) or path in reads.taken:
        return None
    return closest(leaf, {*signature.names, *node}) or f"{node['_component_']} takes {', '.join(sorted(signature.names))}"


def recipe_for(recipe: str, config: Mapping[str, Any]) -> str:
    """What `tune run` is given: our recipe where torchtune's own is wrong on a CPU.

    A module stands with slashes: of `a.b.c`, `tune run` takes `.c` for the ending of a file.
    """
    merges = not config.get("save_adapter_weights_only", False)
    if config.get("device") == "cpu" and merges:
        recipe = CPU_RECIPES.get(recipe, recipe)
    return recipe.replace(".", "/")


def _merge(config: Config, override: Mapping[str, Any]) -> Config:
    """`override` merged deep into `config`, which is changed; a new `_component_` keeps only arguments it accepts."""
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = copy.deepcopy(value)
    component = override.get("_component_")
    for key in dropped_arguments(config, override) if component else ():
        del config[key]
    return config


def dropped_arguments(config: Mapping[str, Any], override: Mapping[str, Any]) -> list[str]:
    """The arguments of `config` that the `_component_` of `override` does not accept."""
    signature = torchtune_catalog.signature(override["_component_"])
    if signature is None:
        return []
    return [key for key in config if key != "_component_" and key not in override and not signature.accepts(key)]


def weight_files(spec: Any) -> list[str] | None:
    """The file names of torchtune's `checkpoint_files`, a list or a pattern with its last number; None if it is neither."""
    if isinstance(spec, dict) and set(spec) == {"filename_format", "max_filename"}:
        last = str(spec["max_filename"])
        return [spec["filename_format"].format(str(n + 1).zfill(len(last)), last) for n in range(int(last))] if last.isdigit() else None
    if spec is None or (isinstance(spec, list) and all(isinstance(name, str) for name in spec)):
        return spec or []
    return None
