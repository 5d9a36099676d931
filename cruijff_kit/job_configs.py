"""What the jobs of each point need to know: the run, its commands, what they are frozen to, and what tells them from others."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import open_dict

from cruijff_kit import evaluated_epochs, frozen, inputs, inspect_eval, logger_config, provenance
from cruijff_kit.experiment import FILE_NAME
from cruijff_kit.generate import train_config_text
from cruijff_kit.paths import BASELINE
from cruijff_kit.plan import Plan
from cruijff_kit.selection import Selection, narrowed
from cruijff_kit.sweep import Run
from cruijff_kit.work_left import AGAIN, Left

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Prepared:
    """What the launcher gets back: a config for each point, and what runs beside them, `after` the points with these indices."""

    points: list[DictConfig]
    extras: list[DictConfig]
    after: list[list[int]] = field(default_factory=list)


@dataclass
class Group:
    """Runs that are evaluated in one process: those whose evaluations are told the same.

    Args:
        first: the config of one of their points.
        trained: the indices of the points of those that are trained first.
        again: some of them are evaluated anew.
    """

    first: DictConfig
    runs: dict[str, Run] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    again: bool = False


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
        selection: what is left of a sweep's points; None of a single one, of which all is done. The stages of a sweep may
            wait in a queue: what they read is frozen. So is a config with another logger than the generated one's.
        again: what tells this time from others, for the runs that are done anew.
    """

    def __init__(self, made: Plan, texts: Mapping[Path, str], selection: Selection | None, again: str = "") -> None:
        self._made, self._texts, self._selection, self._again = made, texts, selection, again
        self._in_sweep = selection is not None
        self._sets: dict[str, list[Path]] = {}
        self._grouped = self._in_sweep and made.experiment.spec.evaluation.group_by_base
        self._groups: dict[tuple[str, ...], Group] = {}

    def prepared(self, points: Sequence[Point]) -> Prepared:
        """A config for each point, the same one for points that are equal; beside a sweep, the baseline's."""
        filled: dict[tuple, DictConfig] = {}
        baselines: dict[tuple, DictConfig] = {}
        configs: list[DictConfig] = []
        for index, point in enumerate(points):
            key = (point.run.id, *point.config.stages, *point.words)
            if self._in_sweep and _wants_baseline(point.config) and point.words not in baselines:
                baselines[point.words] = self._filled(replace(point, config=copy.deepcopy(point.config), run=None), BASELINE, index)
            if key not in filled:
                filled[key] = self._filled(point, point.run.id, index)
            configs.append(filled[key])
        groups = [self._group_config(group, words) for words, group in self._groups.items()]
        extras = [*baselines.values(), *groups]
        self._record_inputs([*filled.values(), *extras])
        return Prepared(configs, extras, [*([] for _ in baselines), *(group.trained for group in self._groups.values())])

    def _filled(self, point: Point, name: str, index: int) -> DictConfig:
        """The point's own config with what its jobs need, if there are any; `index` is that of the point."""
        layout, run, config, left = self._made.layout, point.run, point.config, self._left(point)
        if run and self._grouped and "eval" in left.stages:
            left = self._to_group(point, run, left, index)
        with open_dict(config):
            config.run, config.stages = name, list(left.stages)
        if not left.stages:
            return config
        own = [*([layout.train_config(name)] if run else []), layout.eval_script(name)]
        other = self._other_config(run)
        texts = {path.name: self._texts[path] for path in own if path in self._texts}
        files, is_frozen = frozen.freeze(texts | other), self._in_sweep or bool(other)
        place = frozen.place(layout.folder, files) if is_frozen else layout.configs
        words = narrowed(point.words, left)
        commands = {"eval": ["python", str(place / layout.eval_script(name).name), *words]}
        if run:
            commands["train"] = ["tune", "run", *point.tune_words, run.recipe, "--config", str(place / layout.train_config(name).name)]
        with open_dict(config):
            config.scores = str(layout.run_eval_results(name))
            config.last = self._last(run)
            config.commands = commands
            config.identity = run.identity if run else BASELINE
            config.inputs = self._input_sets(run)
            config.git = self._git
            config.kept_epochs = self._kept_epochs(run)
            if is_frozen:
                config.frozen = {"files": files}
            if self._in_sweep:
                config.anew = self._again if AGAIN in left.why.values() else ""
                config.keys = _keys(run, frozen.freeze(texts), point.words, config.anew, left.sent)
        return config

    def _other_config(self, run: Run | None) -> dict[str, str]:
        """The training's config, name to text, where this command's logger is another than that of the generated one."""
        planned = self._planned.get(run.id) if run else None
        if run is None or planned is None or run.config.get(logger_config.KEY) == planned.config.get(logger_config.KEY):
            return {}
        return {self._made.layout.train_config(run.id).name: train_config_text(self._made, run)}

    @cached_property
    def _planned(self) -> dict[str, Run]:
        return {run.id: run for run in self._made.all_runs}

    def _to_group(self, point: Point, run: Run, left: Left, index: int) -> Left:
        """What is left of a point whose evaluation is done with those of others."""
        group = self._groups.setdefault(point.words, Group(copy.deepcopy(point.config)))
        group.runs[run.id] = run
        group.trained += [index] if "train" in left.stages else []
        group.again |= AGAIN in left.why.values()
        return replace(left, stages=tuple(stage for stage in left.stages if stage != "eval"))

    def _group_config(self, group: Group, words: tuple[str, ...]) -> DictConfig:
        """What evaluates a group, once those of its runs that are trained first are over, well or not."""
        layout, config, names = self._made.layout, group.first, list(group.runs)
        own = [layout.eval_group, *(path for name in names for path in (layout.train_config(name), layout.eval_script(name)))]
        texts = {**self._texts, layout.eval_group: inspect_eval.render_group(self._made.composer, names)}
        files = frozen.freeze({path.name: texts[path] for path in own if path in texts})
        again = self._again if group.again else ""
        with open_dict(config):
            config.run, config.stages, config.identity = "group", ["eval"], "group"
            config.runs = {"scores": [str(layout.run_eval_results(name)) for name in names], "words": list(words)}
            config.commands = {"eval": ["python", str(frozen.place(layout.folder, files) / layout.eval_group.name), *names, *words]}
            config.inputs, config.git, config.anew, config.frozen = {"eval": "tasks"}, self._git, again, {"files": files}
            key = "".join(_keys(run, files, words, again, {})["eval"] + "\n" for run in group.runs.values())
            config.keys, config.held = {"eval": key}, f"group-{_digest(key)}"
            config.scores, config.last = "", ""
        return config

    def _left(self, point: Point) -> Left:
        if self._selection is not None:
            return self._selection.left(point.run, point.config, point.words)
        return Left(tuple(stage for stage in point.config.stages if stage != "eval" or point.config.evaluation.enabled))

    @cached_property
    def _git(self) -> dict[str, Any] | None:
        """Of what the sweep depends on in the experiment's folder."""
        spec, folder = self._made.experiment.spec, self._made.experiment.folder
        names = [FILE_NAME, spec.framework_config.base_config, spec.evaluation.tasks_dir]
        return provenance.git(folder, [name for name in names if name and (folder / name).exists()])

    def _last(self, run: Run | None) -> str:
        """The last checkpoint of a run that is evaluated, by its folder's name in the scores; empty where it has none."""
        wanted = self._made.experiment.spec.evaluation.checkpoint
        return "" if run is None or wanted == "last" else f"epoch_{evaluated_epochs.evaluated(run.config['epochs'], wanted)[-1]}"

    def _kept_epochs(self, run: Run | None) -> list[int] | None:
        """Those whose checkpoints stay; None for all."""
        spec = self._made.experiment.spec
        only_last = run is not None and spec.output.keep_checkpoints == "last"
        return evaluated_epochs.staying(run.config["epochs"], spec.evaluation.checkpoint) if only_last else None

    def _input_sets(self, run: Run | None) -> dict[str, str]:
        """The set of files that each stage reads, by its name in what is recorded."""
        experiment = self._made.experiment
        if "tasks" not in self._sets:
            tasks_dir = experiment.spec.evaluation.tasks_dir
            self._sets["tasks"] = inputs.of_tasks(experiment.path(tasks_dir)) if tasks_dir else []
        config = run.config if run else self._made.runs[0].config
        name = f"{'train' if run else 'base'}-{_digest(config.get('dataset') if run else None, config.get('checkpointer'))}"
        if name not in self._sets:
            # what does not wait in a queue reads the base weights at once: no need to read them all for their digest
            model = inputs.of_base_model(config) if self._in_sweep else []
            self._sets[name] = [*(inputs.of_dataset(config) if run else self._sets["tasks"]), *model]
        return {"train": name, "eval": "tasks"} if run else {"eval": name}

    def _record_inputs(self, configs: Sequence[DictConfig]) -> None:
        recorded = str(inputs.record(self._sets, self._made.layout.hidden))
        for config in (config for config in configs if config.stages):
            with open_dict(config):
                config.inputs.recorded = recorded


def _wants_baseline(config: DictConfig) -> bool:
    return bool(config.evaluation.enabled and config.evaluation.baseline and "eval" in config.stages)


def _keys(run: Run | None, files: bytes, words: Sequence[str], again: str, sent: Mapping[str, str]) -> dict[str, str]:
    """What tells the stages of this run from any other work: the training's config, and all that the evaluation is told.

    Args:
        sent: the keys of the stages that Slurm has already, which may have been sent to be done again.
    """
    train = sent.get("train") or " ".join(filter(None, [f"{run.id} {run.identity}" if run else BASELINE, again]))
    digest = _digest(files.hex(), list(words))
    there = sent.get("eval", "")
    return {"train": train, "eval": there if there.endswith(f" {digest}") else f"{train} {digest}"}


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
