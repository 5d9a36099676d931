"""What a run's results.json are worth: whether they are of what the folder holds now, task by task. No torch, no Inspect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, inputs, task_source
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import Request, checkpoints_in, override, script_digest, settings_of
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import BASELINE, Layout
from cruijff_kit.schema import EvaluationTask


@dataclass(frozen=True)
class Found:
    """What there is of one task of a run.

    Args:
        results: its results.json, if the scores are of this run and this task; None otherwise.
        lacks: why the task is due all the same; empty if it is not.
        note: what the scores that there are were made with otherwise than is asked for: `limit=5`.
    """

    results: Mapping[str, Any] | None = None
    lacks: str = ""
    note: str = ""


class Evaluations:
    """The results of an experiment's tasks; what many runs share is looked at once."""

    def __init__(self, experiment: Experiment, layout: Layout) -> None:
        self._experiment, self._layout = experiment, layout
        self._source = cache(task_source.digest)
        self._data = cache(lambda folder: inputs.data_digest(folder, layout.hidden))
        self._file = cache(lambda name: experiment.path(experiment.spec.evaluation.tasks_dir or "") / name)

    def unsettled(self, run: str, identity: str | None, words: Sequence[str] = ()) -> dict[str, str]:
        """The tasks that `words` ask for and that are due, and why: see `found`."""
        return lacking(self.found(run, identity, words))

    def found(self, run: str, identity: str | None, words: Sequence[str] = ()) -> dict[tuple[str, str], Found]:
        """What there is of each task that `words` ask for, by its name and the checkpoint.

        Args:
            identity: of the run; None for the baseline.
            words: what the evaluation script would be told, `limit=5`.
        """
        named = [json.loads(word.removeprefix("tasks=")) for word in words if word.startswith("tasks=")]
        tasks = [task for task in self._experiment.spec.evaluation.tasks if not named or task.name in named[-1]]
        epochs, settings = self._checkpoints(run), settings_of(words)
        return {(task.name, epoch): self._find(run, identity, task, settings, epoch) for epoch in epochs for task in tasks}

    def _checkpoints(self, run: str) -> list[str]:
        """The folders of the run's checkpoints in its results: `epoch_0`, …; one without a name where only the last is evaluated."""
        wanted = self._experiment.spec.evaluation.checkpoint
        if run == BASELINE or wanted == "last":
            return [""]
        if wanted == "all":
            try:
                wanted = checkpoints_in(self._layout.eval_script(run))
            except OSError:  # a run that is being made: nothing of it is evaluated
                wanted = []
            if not wanted:
                return [""]
        return [f"epoch_{number}" for number in sorted(wanted)]

    def _find(self, run: str, identity: str | None, task: EvaluationTask, words: Sequence[str], epoch: str) -> Found:
        """What there is of a task at a checkpoint, where `words` are the settings that it should have been evaluated with."""
        path = self._layout.run_eval_results(run) / epoch / task.name / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            stale = self._stale(results, identity, task)
            if stale or results["status"] != "success":
                return Found(lacks=stale or f"{results['status']}: {str(results['error']).strip().splitlines()[0]}")
            if note := self._other_settings(results, self._layout.eval_script(run), task, words):
                return Found(results, f"evaluated with other settings: {note}", note)
            file = self._file(task.file)
            changed = "" if results["data"] == self._data(file.parent) else f"a file beside {file.name} changed since"
            return Found(results, changed, changed)
        except FileNotFoundError:
            return Found(lacks="not evaluated")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, CruijffKitError) as error:
            return Found(lacks=f"its results cannot be read: {error}")

    def _stale(self, results: Mapping[str, Any], identity: str | None, task: EvaluationTask) -> str | None:
        settings = results["settings"]
        if results["train_config"] != identity:
            return "stale: of another config"
        if (settings["function"], settings["args"], settings["files"]) != (task.function, task.args, self._source(self._file(task.file), task.function)):
            return "stale: of another version of the task"
        base, folder = results.get("base_model"), self._experiment.folder
        if base is not None and _is_other(folder / base["model"], base["stamp"]):
            return "stale: of another base model"
        return "stale: of other weights" if _is_other(folder / results["checkpoint"], results["weights_stamp"], base is not None) else None

    def _other_settings(self, results: Mapping[str, Any], script: Path, task: EvaluationTask, words: Sequence[str]) -> str:
        """What was evaluated otherwise than the run's script and `words` say: `limit=5`."""
        if results["script"] == script_digest(script) and results["words"] == list(words):
            return ""
        request = override(Request.in_script(script), words)
        if request.train_config is None and request.shown(request.model) != results["checkpoint"]:
            return f"model={results['checkpoint']}"
        base = (results.get("base_model") or {}).get("model")
        if base is not None and request.base_model is not None and request.shown(request.base_model) != base:
            return f"base_model={base}"
        entry = next((each for each in request.tasks if each["name"] == task.name), None)
        if entry is None:
            return "it is not in its script yet"
        wanted = request.settings(entry)
        there, here = _shown(results["settings"]), _shown(wanted)
        return " ".join(f"{name}={there.get(name)}" for name in {**there, **here} if there.get(name) != here.get(name))


def lacking(found: Mapping[tuple[str, str], Found]) -> dict[str, str]:
    """The tasks that are due, and why: at the first of their checkpoints that is."""
    due: dict[str, str] = {}
    for (task, epoch), each in found.items():
        if each.lacks:
            due.setdefault(task, f"{epoch}: {each.lacks}" if epoch else each.lacks)
    return due


def _is_other(folder: Path, stamp: Mapping[str, Any], adapter: bool = False) -> bool:
    """Whether what lies there is not what was evaluated; weights may be removed once they are."""
    try:
        return checkpoint.stamp(folder, adapter) != stamp
    except OSError:
        return False


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a user gives on a command line, by their names there."""
    generate = {f"generate.{name}": value for name, value in settings["generate"].items()}
    names = ("limit", "dtype", "device", "model_format", "merge_adapters", "backend")
    return {**{name: settings.get(name) for name in names}, **generate}
