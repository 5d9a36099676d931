"""That every evaluation task can be built, and how many samples it has, found by building it.

This executes the user's task files: each task in a process of its own, as its evaluation script would build it,
offline unless HF_HUB_OFFLINE says otherwise, and ended where it hangs. No model is loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import queue
import subprocess
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cruijff_kit import inspect_eval, offline
from cruijff_kit.errors import Problem
from cruijff_kit.side_process import NoAnswer, SideProcess

if TYPE_CHECKING:
    from cruijff_kit.plan import Plan

AT_ONCE = 2
LIMIT_S = 120.0
FETCHING_LIMIT_S = 1800.0  # where the Hub may be asked


@dataclass(frozen=True)
class TaskFacts:
    """What building a task showed.

    Args:
        first_prompt: the input of its first sample, cut where it is long.
    """

    name: str
    samples: int
    first_prompt: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def start(made: Plan, limit_s: float | None = None) -> TaskCheck:
    """Starts to build every evaluation task of the plan; none where evaluation is off.

    Args:
        limit_s: the seconds after which a task counts as hanging.
    """
    return TaskCheck(made, limit_s or (LIMIT_S if offline.is_offline() else FETCHING_LIMIT_S))


class TaskCheck:
    """Tasks that are being built; a context manager that ends what still runs."""

    def __init__(self, made: Plan, limit_s: float) -> None:
        self._made, self._limit_s = made, limit_s
        evaluation = made.experiment.spec.evaluation
        self._tasks = evaluation.tasks if evaluation.enabled and _has_inspect() else []
        self._outcomes: dict[int, dict[str, Any] | Exception] = {}
        self._running: set[SideProcess] = set()
        self._lock, self._closed = threading.Lock(), False
        self._folder = tempfile.TemporaryDirectory(prefix="cruijff-kit-tasks-")
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in self._tasks[:AT_ONCE]]
        if self._tasks:
            # the arguments go the way that they go in the evaluation: as literals in its script
            self._script.write_text(inspect_eval.renderer(made.composer)(made.runs[0]), encoding="utf-8")
            for index in range(len(self._tasks)):
                self._waiting.put(index)
            atexit.register(self.close)
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> TaskCheck:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finish(self) -> tuple[list[TaskFacts], list[Problem]]:
        """What the tasks are and what is wrong with them, once all are built; Ctrl-C ends those that are not."""
        try:
            for worker in self._workers:
                worker.join()
        finally:
            self.close()
        facts, problems = [], self._missing_inspect()
        for index, task in enumerate(self._tasks):
            outcome = self._outcomes[index]
            if isinstance(outcome, Exception):
                raise outcome
            if "samples" in outcome:
                facts.append(TaskFacts(task.name, outcome["samples"], outcome["first_prompt"]))
            if problem := self._problem(index, task.name, outcome):
                problems.append(problem)
        return facts, problems

    def close(self) -> None:
        """Ends what still runs, and starts no more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.end()
        for worker in self._workers:
            worker.join()
        self._folder.cleanup()
        atexit.unregister(self.close)

    @property
    def _script(self) -> Path:
        return Path(self._folder.name, "evaluation.py")

    def _work(self) -> None:
        with contextlib.suppress(queue.Empty):
            while not self._closed:
                index = self._waiting.get_nowait()
                try:
                    self._outcomes[index] = self._build(index)
                except Exception as error:  # a fault of ours, or of the machine: finish raises it
                    self._outcomes[index] = error

    def _build(self, index: int) -> dict[str, Any]:
        """What the process says of the task, or how it ended without a word."""
        with self._lock:
            if self._closed:
                return {}
            process = SideProcess("cruijff_kit.task_build", self._script, index)
            self._running.add(process)
        try:
            return process.answer(self._limit_s)
        except subprocess.TimeoutExpired:
            return {"failure": f"it was not built after {self._limit_s:g} s, and was ended", "fix": "does it wait for a network, or for another process?"}
        except NoAnswer as error:
            return {"failure": str(error)}
        finally:
            with self._lock:
                self._running.remove(process)

    def _problem(self, index: int, name: str, outcome: dict[str, Any]) -> Problem | None:
        problem, path = self._made.experiment.source.problem, ("evaluation", "tasks", index)
        if "failure" in outcome:
            fix = offline.how_to_fetch(self._made.experiment.folder) if outcome.get("offline") else None
            return problem(path, f"task '{name}' cannot be built: {outcome['failure']}", outcome.get("fix", fix))
        if outcome["samples"] == 0:
            return problem(path, f"task '{name}' has no samples: there would be no score", "look at its dataset and arguments")
        return None

    def _missing_inspect(self) -> list[Problem]:
        if not self._made.experiment.spec.evaluation.enabled or _has_inspect():
            return []
        what = "Module 'inspect_ai' not found: no task was built"
        problem = self._made.experiment.source.problem
        return [problem(("evaluation", "framework"), what, "pip install inspect-ai", "warning")]


def _has_inspect() -> bool:
    return importlib.util.find_spec("inspect_ai") is not None
