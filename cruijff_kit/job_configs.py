"""What the jobs of each point need to know: the run, its commands, what they are frozen to, and what tells them from others."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import open_dict

from cruijff_kit import epochs, frozen, inputs
from cruijff_kit.config_tree import output_dir_of
from cruijff_kit.paths import BASELINE
from cruijff_kit.plan import Plan
from cruijff_kit.sweep import Run
from cruijff_kit.train import Training

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Prepared:
    """What the launcher gets back: a config for each point, and what runs beside them."""

    points: list[DictConfig]
    extras: list[DictConfig]


@dataclass(frozen=True)
class Point:
    """What one config asks for.

    Args:
        run: None for the baseline.
        words: what its evaluation is told, `limit=5`.
        tune_words: what torchrun is told, for a distributed recipe.
    """

    config: DictConfig
    run: Run | None
    words: tuple[str, ...]
    tune_words: tuple[str, ...]


class Filler:
    """Fills in what a job needs to know of its run.

    Args:
        texts: every generated file with its text.
        in_sweep: the stages may wait in a queue. What they read is then frozen, and a finished training
            is left out.
    """

    def __init__(self, made: Plan, texts: Mapping[Path, str], in_sweep: bool) -> None:
        self._made, self._texts, self._in_sweep = made, texts, in_sweep
        self._sets: dict[str, list[Path]] = {}

    def prepared(self, points: Sequence[Point]) -> Prepared:
        """A config for each point, the same one for points that are equal; beside a sweep, the baseline's."""
        filled: dict[tuple, DictConfig] = {}
        baselines: dict[tuple, DictConfig] = {}
        configs, asked = [], set()
        for point in points:
            key = (point.run.id, *point.config.stages, *point.words)
            asked |= {point.run.id} if "train" in point.config.stages else set()
            if self._in_sweep and _wants_baseline(point.config) and point.words not in baselines:
                baselines[point.words] = self._filled(replace(point, config=copy.deepcopy(point.config), run=None), BASELINE)
            if key not in filled:
                filled[key] = self._filled(point, point.run.id)
            configs.append(filled[key])
        if self._in_sweep:
            self._record_inputs([*filled.values(), *baselines.values()])
            _say_trained(asked, filled.values())
        return Prepared(configs, list(baselines.values()))

    def _filled(self, point: Point, name: str) -> DictConfig:
        """The point's own config with what its jobs need."""
        layout, run, config = self._made.layout, point.run, point.config
        own = [*([layout.train_config(name)] if run else []), layout.eval_script(name)]
        files = frozen.freeze({path.name: self._texts[path] for path in own if path in self._texts})
        place = frozen.place(layout.folder, files) if self._in_sweep else layout.configs
        commands = {"eval": ["python", str(place / layout.eval_script(name).name), *point.words]}
        if run:
            commands["train"] = ["tune", "run", *point.tune_words, run.recipe, "--config", str(place / layout.train_config(name).name)]
        with open_dict(config):
            config.run = name
            config.scores = str(layout.run_eval_results(name))
            config.stages = list(self._stages(config, run))
            config.commands = commands
            config.kept_epochs = self._kept_epochs(run)
            if self._in_sweep:
                config.frozen = {"files": files, "inputs": self._input_sets(run)}
                config.keys = _keys(run, files, point.words)
        return config

    def _stages(self, config: DictConfig, run: Run | None) -> Iterator[str]:
        for stage in config.stages if run else ["eval"]:
            trained = stage == "train" and self._in_sweep and run is not None and self._is_trained(run)
            if not trained and (stage != "eval" or config.evaluation.enabled):
                yield stage

    def _kept_epochs(self, run: Run | None) -> list[int] | None:
        """Those whose checkpoints stay; None for all."""
        only_last = run is not None and self._made.experiment.spec.output.keep_checkpoints == "last"
        return epochs.evaluated(run.config["epochs"]) if only_last else None

    def _is_trained(self, run: Run) -> bool:
        layout = self._made.layout
        if output_dir_of(run.config, "checkpointer.output_dir") is None:
            return False
        return Training.of(run.id, (), layout.train_config(run.id), run.config, layout.folder).fault() is None

    def _input_sets(self, run: Run | None) -> dict[str, str]:
        """The set of files that each stage reads, by its name in what is recorded."""
        experiment = self._made.experiment
        if "tasks" not in self._sets:
            tasks_dir = experiment.spec.evaluation.tasks_dir
            self._sets["tasks"] = inputs.of_tasks(experiment.path(tasks_dir)) if tasks_dir else []
        config = run.config if run else self._made.runs[0].config
        name = f"{'train' if run else 'base'}-{_digest(config.get('dataset') if run else None, config.get('checkpointer'))}"
        if name not in self._sets:
            self._sets[name] = inputs.of_training(config) if run else [*self._sets["tasks"], *inputs.of_base_model(config)]
        return {"train": name, "eval": "tasks"} if run else {"eval": name}

    def _record_inputs(self, configs: Sequence[DictConfig]) -> None:
        recorded = str(inputs.record(self._sets, self._made.layout.hidden))
        for config in configs:
            with open_dict(config):
                config.frozen.recorded = recorded


def _say_trained(asked: set[str], configs: Iterable[DictConfig]) -> None:
    """Names the runs that will not be trained though a point asked for it: they are trained already."""
    trained = sorted(asked - {config.run for config in configs if "train" in config.stages})
    if trained:
        shown = ", ".join(trained[:5]) + (", …" if len(trained) > 5 else "")
        print(f"trained already: {shown}", file=sys.stderr)


def _wants_baseline(config: DictConfig) -> bool:
    return bool(config.evaluation.enabled and config.evaluation.baseline and "eval" in config.stages)


def _keys(run: Run | None, files: bytes, words: Sequence[str]) -> dict[str, str]:
    """What tells the stages of this run from any other work: the training's config, and all that the evaluation is told."""
    train = f"{run.id} {run.identity}" if run else BASELINE
    return {"train": train, "eval": f"{train} {_digest(files.hex(), list(words))}"}


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
