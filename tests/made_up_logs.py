"""Logs of Inspect's for evaluations that tests/finished_runs.py made up: written by Inspect, without a model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cruijff_kit import atomic
from cruijff_kit.paths import Layout

SAMPLES = 40


def template() -> Any:
    """The log of an evaluation with two scorers, and one sample of its forty."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage
    from inspect_ai.scorer import includes, match
    from inspect_ai.solver import solver

    @solver
    def word():
        async def solve(state, generate):
            state.output = ModelOutput.from_content("none", "Word")
            return state

        return solve

    task = Task(dataset=[Sample(input=f"word {number}", target="Word") for number in range(SAMPLES)], solver=word(), scorer=[match(), includes()])
    with tempfile.TemporaryDirectory() as folder:
        log = eval(task, model="mockllm/model", display="none", log_dir=folder)[0]
        log.samples = log.samples[:1]
    log.stats.model_usage = {"none": ModelUsage(input_tokens=400, output_tokens=80, total_tokens=480)}
    return log


def write(layout: Layout, value: Callable[[str, str], float]) -> list[Path]:
    """A log for each results.json, which is then told of it.

    Args:
        value: the accuracy that it holds for a run and a task; its standard error is a tenth of that.
    """
    log, written = template(), []
    for path in sorted(layout.eval_results.rglob("results.json")):
        results = json.loads(path.read_text())
        made = path.parent / results["digest"] / "2026-01-01T00-00-00_task_x.eval"
        _write(log, made, results, value(results["run"], results["task"]))
        atomic.write_json(path, {**results, "log": layout.relative(made)})
        written.append(made)
    return written


def _write(log: Any, path: Path, results: dict[str, Any], value: float) -> None:
    from inspect_ai.log import write_eval_log

    log.eval.eval_id = str(path)
    log.eval.metadata = {name: results[name] for name in ("experiment", "run", "task", "digest")}
    log.results.scores[0].metrics["accuracy"].value = value
    log.results.scores[0].metrics["stderr"].value = value / 10
    path.parent.mkdir(parents=True)
    write_eval_log(log, str(path))
