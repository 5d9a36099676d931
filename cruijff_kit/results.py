"""Every score of an experiment, run by run, from Inspect's logs and our records; what is missing stands there with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cruijff_kit import log_headers, records, train, training_metrics
from cruijff_kit.evaluation_state import Found
from cruijff_kit.log_headers import Header
from cruijff_kit.stage_state import DONE, RUNNING, WAITING
from cruijff_kit.sweep_state import RunState, SweepState, look

SUCCESS = "success"
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class Score:
    """One row: a run, a checkpoint, a task and a metric.

    Args:
        run: `base` for the untouched model, which has no parameters.
        params: its parameters, and the seed that it was trained with instead.
        checkpoint: `epoch_0`, …; empty where only the last is evaluated.
        task: empty where nothing is evaluated.
        scorer, metric: empty where no run has a score of the task.
        stderr: over the samples of the task, where the metric is their mean.
        samples: those that the value is of.
        status: `success`, or why there is no score: `training failed: …`, `not evaluated`, `stale: …`.
        note: settings of this evaluation that are not those of experiment.yaml, `limit=5`; that it sent other prompts than training had.
        train_loss: the last that was logged up to the end of that epoch: of one step, not of the epoch. None beside a score of earlier weights.
        tokens: of the evaluation, in and out; those of one task.
        time_s: of the evaluation of the task, without the time that the model takes to load.
        train_time_s: of the last attempt.
        log: Inspect's, relative to the experiment's folder.
    """

    run: str
    params: Mapping[str, Any]
    checkpoint: str = ""
    task: str = ""
    scorer: str = ""
    metric: str = ""
    value: float | None = None
    stderr: float | None = None
    samples: int | None = None
    status: str = NOT_EVALUATED
    note: str = ""
    train_loss: float | None = None
    tokens: int | None = None
    time_s: float | None = None
    train_time_s: float | None = None
    log: str = ""


@dataclass(frozen=True)
class Results:
    """The scores of an experiment, the baseline's first.

    Args:
        notes: logs that were skipped, and what else the reader should know.
    """

    state: SweepState
    scores: list[Score]
    notes: list[str]


def collect(folder: Path) -> Results:
    """All scores of the experiment in `folder`.

    Raises:
        As sweep_state.look.
    """
    state = look(folder)
    layout = state.layout
    aside = {path for paths in train.asides(layout.eval_results).values() for path in paths}
    logs = (path for path in log_headers.find(layout.eval_results) if not aside or aside.isdisjoint(path.parents))
    headers = log_headers.read(logs, layout.hidden / "logs.json")
    table = _Table(state, headers)
    scores = _spread([score for run in state.runs for score in table.of_run(run)])
    return Results(state, scores, [*state.notes, *table.notes, *_strangers(state, headers, table.used), *_versions(headers, table.used)])


class _Table:
    """Makes rows of runs, and remembers which logs they are from."""

    def __init__(self, state: SweepState, headers: Mapping[Path, Header]) -> None:
        self._state, self._headers = state, headers
        self.used: set[Path] = set()
        self.notes: list[str] = []

    def of_run(self, run: RunState) -> Iterator[Score]:
        start, losses = Score(run.run, dict(run.params), train_time_s=run.train and run.train.seconds), self._losses(run)
        if run.eval is None:
            yield replace(start, train_loss=losses[""], status=_missing(run, NOT_EVALUATED))
        for (task, epoch), found in run.found.items():
            yield from self._of_task(run, found, replace(start, task=task, checkpoint=epoch, train_loss=losses[epoch]))

    def _losses(self, run: RunState) -> dict[str, float | None]:
        """By checkpoint."""
        results = self._state.layout.run_results(run.run)
        epochs = [epoch for _, epoch in run.found] or [""]
        if run.train is None or epochs[-1] == "":  # the end of the file tells the last, at a fraction of the time
            return {"": training_metrics.last(results).get("loss") if run.train is not None else None}
        metrics, record = training_metrics.read(results), records.read(self._state.layout.record("train", run.run))
        return {epoch: training_metrics.loss_at(metrics, epoch, record.epochs if record is not None else None) for epoch in epochs}

    def _of_task(self, run: RunState, found: Found, row: Score) -> Iterator[Score]:
        if found.results is None:
            yield replace(row, status=_missing(run, found.lacks))
            return
        if not isinstance(found.results.get("log"), str):
            yield replace(row, status="its results.json names no log")
            return
        path = self._state.layout.folder / found.results["log"]
        header = self._headers.get(path, Header(fault="is gone"))
        self.used.add(path)
        log = self._state.layout.relative(path)
        row = replace(row, params={**row.params, **({"seed": other["seed"]} if "seed" in (other := _trained_with(found)) else {})}, log=log)
        if run.train is not None and run.train.state != DONE:  # it is trained anew: what that logs is not of these weights
            row = replace(row, train_loss=None, train_time_s=None)
        if fault := _fault(header, run.run, found):
            self.notes.append(f"{log}: {fault}: skipped")
            yield replace(row, status=f"its log {fault}")
        else:
            yield from _rows(replace(row, status=SUCCESS, note=_note(found)), header)


def _missing(run: RunState, lacks: str) -> str:
    """Why a run has no score: what went wrong first."""
    if lacks != NOT_EVALUATED:
        return lacks
    if run.train is not None and run.train.state == WAITING:
        return "not trained"
    for name, stage in (("training", run.train), ("evaluation", run.eval)):
        if stage is not None and stage.state not in (DONE, WAITING):
            return f"{name} {stage.state}" + (f": {stage.why.splitlines()[0]}" if stage.why and stage.state != RUNNING else "")
    return lacks


def _fault(header: Header, run: str, found: Found) -> str:
    """What is wrong with the log that results.json names."""
    if header.fault:
        return header.fault
    if (header.run, header.digest) != (run, (found.results or {}).get("digest")):
        return f"is of another evaluation: {header.experiment or 'no experiment of ours'} {header.run}".rstrip()
    if header.status != SUCCESS:
        return f"ended in status {header.status}"
    return "" if any(score["metrics"] for score in header.scores) else "has no scores"


def _trained_with(found: Found) -> Mapping[str, Any]:
    other = (found.results or {}).get("trained_with")
    return other if isinstance(other, dict) else {}


def _note(found: Found) -> str:
    other = [f"{name}={value}" for name, value in _trained_with(found).items() if name != "seed"]
    return ", ".join(filter(None, [found.note, *other, "other prompts than in training" if (found.results or {}).get("warnings") else ""]))


def _rows(row: Score, header: Header) -> Iterator[Score]:
    ended = [] if header.completed == header.total else [f"{header.completed} of {header.total} samples"]
    for score in header.scores:
        samples = header.completed if score["scored"] is None else score["scored"]
        note = ", ".join(filter(None, [row.note, *ended, f"{score['unscored']} without a score" if score["unscored"] else ""]))
        known = replace(row, scorer=score["scorer"], samples=samples, tokens=header.tokens, time_s=header.seconds, note=note)
        yield from (replace(known, metric=name, value=value, stderr=stderr) for name, (value, stderr) in score["metrics"].items())


def _spread(rows: Sequence[Score]) -> list[Score]:
    """A row that has no score, as one for each metric that other runs have of its task: a table with gaps, not with other columns."""
    metrics: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        if row.status == SUCCESS:
            metrics.setdefault(row.task, {})[row.scorer, row.metric] = None
    return [each for row in rows for each in ([row] if row.status == SUCCESS else _gaps(row, list(metrics.get(row.task, {}))))]


def _gaps(row: Score, metrics: Sequence[tuple[str, str]]) -> list[Score]:
    return [replace(row, scorer=scorer, metric=metric) for scorer, metric in metrics] or [row]


def _strangers(state: SweepState, headers: Mapping[Path, Header], used: set[Path]) -> Iterator[str]:
    """The logs among this experiment's that are no evaluations of it, or that cannot be read."""
    running = {run.run for run in state.runs if run.eval is not None and run.eval.state == RUNNING}
    for path, header in headers.items():
        run = path.relative_to(state.layout.eval_results).parts[0]
        if path in used or run in running and header.fault:  # one that is written now
            continue
        if header.fault:
            yield f"{state.layout.relative(path)}: {header.fault}: skipped"
        elif (header.experiment, header.run) != (state.experiment.name, run):
            yield f"{state.layout.relative(path)}: is not of {run} of this experiment, but of {f'{header.experiment} {header.run}'.strip() or 'none'}: skipped"


def _versions(headers: Mapping[Path, Header], used: set[Path]) -> Iterator[str]:
    """That not all scores were made by one version of Inspect."""
    versions = sorted({headers[path].inspect for path in used if path in headers and not headers[path].fault})
    if len(versions) > 1:
        counts = (f"{sum(headers[path].inspect == version for path in used if path in headers)} by {version or 'an unknown one'}" for version in versions)
        yield f"the scores were made by several versions of Inspect: {', '.join(counts)}"
