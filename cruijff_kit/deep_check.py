"""`check --deep`: what only the libraries know of an experiment, and what its runs will cost.

Puts together what model_check, weight_check, optimizer_check, prompt_check and task_check find and what training_cost
reckons. Nothing is trained, no weight is read, and each distinct part of the configs is looked at once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit import evaluated_epochs, inspect_eval, model_check, optimizer_check, prompt_check, task_check, training_cost, weight_check
from cruijff_kit.config_tree import find
from cruijff_kit.dataset_checks import dataset_rows
from cruijff_kit.disk_space import free_bytes, occupied_bytes
from cruijff_kit.errors import Fault, Problem
from cruijff_kit.experiment import Experiment
from cruijff_kit.plan import Plan
from cruijff_kit.sweep import Run
from cruijff_kit.training_checks import place_of
from cruijff_kit.training_cost import Memory, Rows
from cruijff_kit.training_steps import step_faults

if TYPE_CHECKING:
    from cruijff_kit.prompt_check import PromptReport
    from cruijff_kit.task_check import TaskFacts

NOT_COPIED = (".pt", ".pth", ".bin", ".safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_COPIED_BYTES = 100 * 2**20


@dataclass(frozen=True)
class RunSummary:
    """What one run is and costs; None where it cannot be known here.

    Args:
        parameters: those of the base model; `adapter_parameters` come on top.
        weights: `match`, `differ`, or `not checked: …`.
        gpus: how many the training is divided among.
    """

    id: str
    params: Mapping[str, Any]
    device: str
    gpus: int
    parameters: int | None = None
    adapter_parameters: int | None = None
    trainable: int | None = None
    weights: str | None = None
    optimizer: str | None = None
    steps: int | None = None
    tokens: int | None = None
    checkpoint_bytes: int | None = None
    memory: Memory | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "params": dict(self.params), "memory": self.memory and self.memory.as_dict()}


@dataclass(frozen=True)
class Disk:
    """Bytes that the checkpoints of the whole sweep will take beyond what is there, and that are free where they go."""

    needed: int
    free: int


@dataclass(frozen=True)
class DeepReport:
    """Everything that the check found.

    Args:
        problems: those of the experiment itself are not among them; the level is `error`, `warning` or `note`.
        prompts: one for each distinct tokenizer and dataset.
        seconds: that the check took.
    """

    problems: list[Problem]
    runs: list[RunSummary]
    disk: Disk
    prompts: list[PromptReport]
    tasks: list[TaskFacts]
    seconds: float = field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        return {
            "problems": [problem.as_dict() for problem in self.problems],
            "runs": [run.as_dict() for run in self.runs],
            "disk": asdict(self.disk),
            "prompts": [prompt.as_dict() for prompt in self.prompts],
            "tasks": [task.as_dict() for task in self.tasks],
            "seconds": round(self.seconds, 1),
        }


def deep_check(made: Plan) -> DeepReport:
    """Checks the runs of `made` with torch, torchtune and Inspect at hand."""
    started = time.monotonic()
    model_check.torchtune_is_quiet()
    with contextlib.chdir(made.experiment.folder), task_check.start(made) as tasks:  # in processes of their own, while torch is imported here
        check = _Check(made)
        runs = [check.summary(run) for run in made.runs]
        disk = Disk(sum(map(check.bytes_to_come, runs)), free_bytes(made.layout.results))
        facts, task_problems = tasks.finish()
    problems = [*check.problems(), *task_problems, *_disk_problems(made.experiment, disk)]
    return DeepReport(problems, runs, disk, list(check.prompts.values()), facts, time.monotonic() - started)


class _Check:
    """Looks at one run after the other, and at each distinct part of their configs once."""

    def __init__(self, made: Plan) -> None:
        self.prompts: dict[str, PromptReport] = {}
        self._made = made
        self._faults: dict[Fault, None] = {}

    def summary(self, run: Run) -> RunSummary:
        config, gpus = run.config, self._made.gpus
        here = RunSummary(run.id, run.params, str(config.get("device")), gpus)
        folder = self._made.composer.weights_folder(config) or Path(self._made.composer.model_dir)
        data = self._data(run, folder)
        self._add(*_step_faults(config, data, run.recipe, gpus))
        steps, tokens = (reckon(config, data, run.recipe, gpus) for reckon in (training_cost.steps, training_cost.tokens))
        here = replace(here, steps=steps, tokens=tokens)
        model = model_check.build(config, run.recipe)
        if isinstance(model, Fault):
            self._add(model)
            return here
        optimizer = optimizer_check.check(config, model)
        weights = weight_check.check(config, model, folder)
        self._add(*optimizer.faults, *weights.faults)
        if weights.state.startswith("not checked"):
            self._add(Fault("model_dir", f"the weights were {weights.state}", level="note"))
        return replace(
            here,
            parameters=model.parameters,
            adapter_parameters=model.adapter_parameters,
            trainable=model.trainable_parameters,
            weights=weights.state,
            optimizer=optimizer.name,
            checkpoint_bytes=training_cost.checkpoint_bytes(config, model, optimizer, _copied_bytes(folder), self._epochs_at_once(config)),
            memory=training_cost.memory(config, model, optimizer, data, gpus),
        )

    def _epochs_at_once(self, config: Mapping[str, Any]) -> int | None:
        number, spec = config.get("epochs"), self._made.experiment.spec
        return evaluated_epochs.at_once(number, spec.output.keep_checkpoints, spec.evaluation.checkpoint) if isinstance(number, int) else None

    def bytes_to_come(self, run: RunSummary) -> int:
        """What the run's checkpoints will take beyond what they take now."""
        return max(0, (run.checkpoint_bytes or 0) - occupied_bytes(self._made.layout.run_results(run.id)))

    def _data(self, run: Run, folder: Path) -> Rows:
        key = f"{folder}\n{model_check.part({**run.config, 'output_dir': ''}, 'tokenizer', 'dataset')}"
        if key not in self.prompts:
            evaluation = self._made.experiment.spec.evaluation
            theirs = inspect_eval.base_model(self._made.composer, run) if evaluation.model_format == "adapter" else folder
            self.prompts[key] = prompt_check.check(run.config, evaluation.enabled, str(theirs))
            self._add(*self.prompts[key].faults)
        prompts = self.prompts[key]
        return Rows(prompts.rows, prompts.mean_tokens)

    def _add(self, *faults: Fault) -> None:
        self._faults.update(dict.fromkeys(faults))

    def problems(self) -> Iterator[Problem]:
        experiment = self._made.experiment
        for fault in self._faults:
            yield experiment.source.problem(place_of(experiment, fault.name), fault.what, fault.fix, fault.level)


def _step_faults(config: Mapping[str, Any], data: Rows, recipe: str, gpus: int) -> Iterator[Fault]:
    """Of data that the plain check does not count."""
    packed, number = find(config, "dataset.packed"), training_cost.samples(config, data)
    if number is not None and (packed or dataset_rows(config) is None):
        yield from step_faults(config, number, recipe, gpus, "packs" if packed else "rows")


@cache
def _copied_bytes(folder: Path) -> int:
    """Bytes of the files beside the base weights, which torchtune copies into each checkpoint (0.6.1, copy_files)."""
    total = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(root, name) for name in names if not name.startswith(".") and not name.endswith(NOT_COPIED)]
        sizes = [path.stat().st_size for path in paths if path.is_file()]  # a link of a half-made download leads nowhere
        total += sum(size for size in sizes if size <= MAX_COPIED_BYTES)
    return total


def _disk_problems(experiment: Experiment, disk: Disk) -> Iterator[Problem]:
    if disk.needed > disk.free:
        what = f"the checkpoints of all runs take {disk.needed / 1e9:,.1f} GB, and {disk.free / 1e9:,.1f} GB are free there"
        fix = "name a folder on a bigger disk, keep only the last epoch (keep_checkpoints: last), or set save_adapter_weights_only: true"
        yield experiment.source.problem(("output", "results_dir"), what, fix)
