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
from cruijff_kit.evaluation_request import Request, override, script_digest, settings_of
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import Layout
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

    def unsettled(self, run: str, identity: str | None, words: Sequence[str] = ()) -> dict[str, str]:
        """The tasks that `words` ask for and that are due, and why.

        Args:
            identity: of the run; None for the baseline.
            words: what the evaluation script would be told, `limit=5`.
        """
        named = [json.loads(word.removeprefix("tasks=")) for word in words if word.startswith("tasks=")]
        tasks = [task for task in self._experiment.spec.evaluation.tasks if not named or task.name in named[-1]]
        found = {task.name: self.find(run, identity, task, settings_of(words)).lacks for task in tasks}
        return {task: lacks for task, lacks in found.items() if lacks}

    def find(self, run: str, identity: str | None, task: EvaluationTask, words: Sequence[str] = ()) -> Found:
        """What there is of a task, where `words` are the settings that it should have been evaluated with."""
        path = self._layout.run_eval_results(run) / task.name / "results.json"
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            stale = self._stale(results, identity, task)
            if stale or results["status"] != "success":
                return Found(lacks=stale or f"{results['status']}: {str(results['error']).strip().splitlines()[0]}")
            if note := self._other_settings(results, self._layout.eval_script(run), task, words):
                return Found(results, f"evaluated with other settings: {note}", note)
            file = self._file(task)
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
        if (settings["function"], settings["args"], settings["files"]) != (task.function, task.args, self._source(self._file(task), task.function)):
            return "stale: of another version of the task"
        try:
            stamp = checkpoint.stamp(self._experiment.folder / results["checkpoint"])
        except OSError:
            return None  # weights may be removed once they are evaluated
        return None if stamp == results["weights_stamp"] else "stale: of other weights"

    def _other_settings(self, results: Mapping[str, Any], script: Path, task: EvaluationTask, words: Sequence[str]) -> str:
        """What was evaluated otherwise than the run's script and `words` say: `limit=5`."""
        if results["script"] == script_digest(script) and results["words"] == list(words):
            return ""
        request = override(Request.in_script(script), words)
        if request.train_config is None and request.shown(request.model) != results["checkpoint"]:
            return f"model={results['checkpoint']}"
        wanted = request.settings(next(each for each in request.tasks if each["name"] == task.name))
        there, here = _shown(results["settings"]), _shown(wanted)
        return " ".join(f"{name}={there.get(name)}" for name in {**there, **here} if there.get(name) != here.get(name))

    def _file(self, task: EvaluationTask) -> Path:
        return self._experiment.path(self._experiment.spec.evaluation.tasks_dir or "") / task.file


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a user gives on a command line, by their names there."""
    generate = {f"generate.{name}": value for name, value in settings["generate"].items()}
    return {**{name: settings[name] for name in ("limit", "dtype", "device")}, **generate}
