"""The table of scores: from Inspect's logs, found through each task's results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cruijff_kit import checkpoint, run_mapping
from cruijff_kit.evaluation_request import Request
from cruijff_kit.experiment import Experiment, load
from cruijff_kit.paths import BASELINE, Layout
from cruijff_kit.run_mapping import Row


@dataclass(frozen=True)
class Score:
    """One row: a run, a task, and what its log says.

    Args:
        state: `success`, or why there is no score: `not evaluated`, `error`, `stale: …`.
        note: settings of this evaluation that are not those of experiment.yaml: `limit=5`.
    """

    run: str
    params: dict[str, Any]
    task: str
    scorer: str
    metric: str
    value: float | None
    stderr: float | None
    samples: int | None
    state: str
    note: str = ""


def print_scores(folder: Path, since: float) -> None:
    """The scores of every run of the experiment in `folder`, if one was made after the time `since`."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    experiment = load(folder)
    mapping = run_mapping.read(Layout.of(experiment))
    if not experiment.spec.evaluation.enabled or mapping is None:
        return
    written = (path.stat().st_mtime for path in Layout.of(experiment).eval_results.glob("*/*/results.json"))
    if max(written, default=0) < since:
        return
    rows = list(scores(experiment, tuple(row for row in mapping.rows if not row.retired)))
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    table = Table(title=f"Scores of {experiment.name}", title_justify="left", box=box.SIMPLE)
    for heading in ("run", *names, "task", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "stderr", "samples"):
        table.add_column(heading, justify="right")
    if any(row.note for row in rows):
        table.add_column("other settings")
    for row in rows:
        params = [escape(str(row.params.get(name, ""))) for name in names]
        value = escape(row.state) if row.value is None else f"{row.value:.4f}"
        stderr = "" if row.stderr is None else f"{row.stderr:.4f}"
        table.add_row(row.run, *params, row.task, f"{row.scorer} {row.metric}", value, stderr, str(row.samples or ""), *([escape(row.note)] if row.note else []))
    console = Console()
    if not console.is_terminal:
        console.width = 1000  # a pipe has no edge to wrap at
    console.print(table)


def scores(experiment: Experiment, rows: tuple[Row, ...]) -> Iterator[Score]:
    """Every run, the baseline first; what has no valid score is there with the reason."""
    runs = [(BASELINE, None)] if experiment.spec.evaluation.baseline else []
    for run, row in [*runs, *((row.id, row) for row in rows)]:
        for task in experiment.spec.evaluation.tasks:
            yield from _task_scores(experiment, run, row, task.name)


def _task_scores(experiment: Experiment, run: str, row: Row | None, task: str) -> Iterator[Score]:
    params = dict(row.params) if row else {}
    layout = Layout.of(experiment)
    path = layout.run_eval_results(run) / task / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        note = _other_settings(layout.eval_script(run), task, results["settings"])
        state = _stale(experiment, row, results) or results["status"]
        params |= results["trained_with"]
    except FileNotFoundError:
        state = "not evaluated"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state = f"unreadable: {error}"
    if state == "success" and note != STALE:
        yield from _from_log(run, params, task, experiment.folder / results["log"], note)
        return
    yield Score(run, params, task, "", "", None, None, None, STALE if state == "success" else state)


STALE = "stale: of another version of the task"


def _other_settings(script: Path, task: str, settings: dict[str, Any]) -> str:
    """What was evaluated otherwise than the run's script says, `limit=5`; STALE if it was another task."""
    request = Request.in_script(script)
    wanted = request.settings(next(item for item in request.tasks if item["name"] == task))
    if any(wanted[name] != settings[name] for name in ("function", "args", "files")):
        return STALE
    there, here = _shown(settings), _shown(wanted)
    return " ".join(f"{name}={there.get(name)}" for name in {**there, **here} if there.get(name) != here.get(name))


def _shown(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a user gives on a command line, by their names there."""
    generate = {f"generate.{name}": value for name, value in settings["generate"].items()}
    return {**{name: settings[name] for name in ("limit", "dtype", "device")}, **generate}


def _stale(experiment: Experiment, row: Row | None, results: dict[str, Any]) -> str | None:
    """Why these results are not of what the folder holds now."""
    if row is not None and results["train_config"] != row.identity:
        return "stale: of another config"
    try:
        stamp = checkpoint.stamp(experiment.folder / results["checkpoint"])
    except OSError:
        return None  # weights may be removed once they are evaluated
    return None if stamp == results["weights_stamp"] else "stale: of other weights"


def _from_log(run: str, params: dict[str, Any], task: str, log: Path, note: str) -> Iterator[Score]:
    from inspect_ai.log import read_eval_log

    try:
        results = read_eval_log(str(log), header_only=True).results
    except (OSError, ValueError, KeyError) as error:
        yield Score(run, params, task, "", "", None, None, None, f"log unreadable: {error}")
        return
    for score in results.scores if results else ():
        stderr = score.metrics.get("stderr")
        for name, metric in score.metrics.items():
            if name != "stderr":
                yield Score(run, params, task, score.name, name, metric.value, stderr and stderr.value, results.completed_samples, "success", note)
