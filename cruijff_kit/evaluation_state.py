"""Which tasks of a run have results of what the folder holds now, and what the others lack. No torch, no Inspect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, inputs, task_source
from cruijff_kit.errors import CruijffKitError
from cruijff_kit.evaluation_request import Request, override, script_digest, settings_of
from cruijff_kit.experiment import Experiment
from cruijff_kit.paths import Layout
from cruijff_kit.schema import EvaluationTask

NOT_EVALUATED = "not evaluated"


class Evaluations:
    """The results of an experiment's tasks; what many runs share is looked at once."""

    def __init__(self, experiment: Experiment, layout: Layout) -> None:
        self._experiment, self._layout = experiment, layout
        self._source = cache(task_source.digest)
        self._data = cache(lambda folder: inputs.data_digest(folder, layout.hidden))

    def unsettled(self, run: str, identity: str | None, words: Sequence[str] = ()) -> dict[str, str]:
        """The tasks that `words` ask for and that have no result of this very run and those words, and why.

        Args:
            identity: of the run; None for the baseline.
            words: what the evaluation script would be told, `limit=5`.
        """
        return dict(self._unsettled(run, identity, words))

    def _unsettled(self, run: str, identity: str | None, words: Sequence[str]) -> Iterator[tuple[str, str]]:
        named = [json.loads(word.removeprefix("tasks=")) for word in words if word.startswith("tasks=")]
        others = settings_of(words)
        script = self._layout.eval_script(run)
        for task in self._experiment.spec.evaluation.tasks:
            if named and task.name not in named[-1]:
                continue
            why = self._why(script, self._layout.run_eval_results(run) / task.name / "results.json", identity, task, others)
            if why:
                yield task.name, why

    def _why(self, script: Path, path: Path, identity: str | None, task: EvaluationTask, words: Sequence[str]) -> str | None:
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            if results["status"] != "success":
                return f"{results['status']}: {str(results['error']).strip().splitlines()[0]}"
            return self._stale(results, identity) or self._other_task(results, task) or self._other_settings(results, script, task, words)
        except FileNotFoundError:
            return NOT_EVALUATED
        except (OSError, ValueError, LookupError, TypeError, AttributeError, CruijffKitError) as error:
            return f"its results cannot be read: {error}"

    def _stale(self, results: Mapping[str, Any], identity: str | None) -> str | None:
        if results["train_config"] != identity:
            return "its results are of another config"
        try:
            stamp = checkpoint.stamp(self._experiment.folder / results["checkpoint"])
        except OSError:
            return None  # weights may be removed once they are evaluated
        return None if stamp == results["weights_stamp"] else "its results are of other weights"

    def _other_task(self, results: Mapping[str, Any], task: EvaluationTask) -> str | None:
        settings, file = results["settings"], self._file(task)
        if (settings["function"], settings["args"]) != (task.function, task.args):
            return "its results are of another function or other arguments"
        if settings["files"] != self._source(file, task.function):
            return f"the code of {task.file} changed since"
        return None if results["data"] == self._data(file.parent) else f"a file beside {task.file} changed since"

    def _other_settings(self, results: Mapping[str, Any], script: Path, task: EvaluationTask, words: Sequence[str]) -> str | None:
        if results["script"] == script_digest(script) and results["words"] == list(words):
            return None
        request = override(Request.in_script(script), words)
        (asked,) = (each for each in request.tasks if each["name"] == task.name)
        wanted, had = request.settings(asked), results["settings"]
        other = [f"{name}={had.get(name)!r}" for name in wanted if had.get(name) != wanted[name]]
        return f"its results are of other settings: {', '.join(other)}" if other else None

    def _file(self, task: EvaluationTask) -> Path:
        return self._experiment.path(self._experiment.spec.evaluation.tasks_dir or "") / task.file


