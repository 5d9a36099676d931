"""The table of scores: from Inspect's logs, found through each task's results.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cruijff_kit import columns, run_mapping
from cruijff_kit.evaluation_state import Evaluations
from cruijff_kit.experiment import Experiment, load
from cruijff_kit.paths import BASELINE, Layout
from cruijff_kit.run_mapping import Row


@dataclass(frozen=True)
class Score:
    """One row: a run, a task, and what its log says.

    Args:
        state: `success`, or why there is no score: `not evaluated`, `error`, `stale: …`.
        note: settings of this evaluation that are not those of experiment.yaml, `limit=5`; that it sent other prompts than training had.
        epoch: `epoch_0`, …, where not only the last is evaluated.
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
    epoch: str = ""


def print_scores(folder: Path, since: float) -> None:
    """The scores of every run of the experiment in `folder`, if one was made after the time `since`."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    experiment = load(folder)
    mapping = run_mapping.read(Layout.of(experiment))
    if not experiment.spec.evaluation.enabled or mapping is None:
        return
    places = ("*/*/results.json", "*/epoch_*/*/results.json")
    written = (path.stat().st_mtime for place in places for path in Layout.of(experiment).eval_results.glob(place))
    if max(written, default=0) < since:
        return
    rows = list(scores(experiment, tuple(row for row in mapping.rows if not row.retired)))
    names = list(dict.fromkeys(name for row in rows for name in row.params))
    table = Table(title=f"Scores of {experiment.name}", title_justify="left", box=box.SIMPLE)
    epochs = ["epoch"] if any(row.epoch for row in rows) else []
    for heading in ("run", *names, *epochs, "task", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "stderr", "samples"):
        table.add_column(heading, justify="right")
    if any(row.note for row in rows):
        table.add_column("note")
    for row in rows:
        params = [escape(str(row.params.get(name, ""))) for name in names] + [row.epoch.removeprefix("epoch_") for _ in epochs]
        value = escape(row.state) if row.value is None else f"{row.value:.4f}"
        stderr = "" if row.stderr is None else f"{row.stderr:.4f}"
        table.add_row(row.run, *params, row.task, f"{row.scorer} {row.metric}", value, stderr, str(row.samples or ""), *([escape(row.note)] if row.note else []))
    columns.console().print(table)


def scores(experiment: Experiment, rows: tuple[Row, ...]) -> Iterator[Score]:
    """Every run, the baseline first; what has no valid score is there with the reason."""
    runs = [(BASELINE, None)] if experiment.spec.evaluation.baseline else []
    evaluations = Evaluations(experiment, Layout.of(experiment))
    for run, row in [*runs, *((row.id, row) for row in rows)]:
        for epoch in evaluations.checkpoints(run):
            for task in experiment.spec.evaluation.tasks:
                found = evaluations.find(run, row.identity if row else None, task, epoch=epoch)
                params = dict(row.params) if row else {}
                if found.results is None:
                    yield Score(run, params, task.name, "", "", None, None, None, found.lacks, epoch=epoch)
                else:
                    params |= found.results["trained_with"]
                    log = experiment.folder / found.results["log"]
                    note = ", ".join(filter(None, [found.note, "other prompts than in training" if found.results.get("warnings") else ""]))
                    yield from (replace(score, epoch=epoch) for score in _from_log(run, params, task.name, log, note))


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
